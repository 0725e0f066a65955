//! From a trained network to a calibrated detector.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use super::synthetic::Synthetic;
use super::{Event, Observe};
use crate::data::Sample;
use crate::detect::{Detector, Evaluated, PIXELS, ScoreOptions};
use crate::error::{Error, Result};
use crate::train::Split;

/// Good images of a category, in the mean, from which on synthetic defects do not choose between timesteps: on
/// photographs of real defects, with so many, they often spoke for the worse one.
const MANY: usize = 100;

/// A category's good images.
pub(super) struct Good<'a> {
    pub category: &'a str,
    pub samples: &'a [Sample],
    /// Which of them are trained on, and which held out.
    pub split: Split,
}

impl Good<'_> {
    /// The files trained on.
    pub fn trained(&self) -> Vec<PathBuf> {
        self.files(&self.split.train)
    }

    /// The files held out.
    pub fn held_out(&self) -> Vec<PathBuf> {
        self.files(&self.split.held_out)
    }

    fn files(&self, indices: &[usize]) -> Vec<PathBuf> {
        indices.iter().map(|&i| self.samples[i].path.clone()).collect()
    }
}

/// Has a detector learn what normal images are like, and calibrates it. Of its recipe's candidates it gets
/// the first timestep, or a later one at which synthetic defects stand out more: with a higher mean score, in
/// standard deviations of normal images' scores, and a higher AU-PRO. With [`MANY`] images it gets the first.
///
/// Returned is how well it told synthetic defects there, when it had not yet learnt from the held-out images
/// that they are painted into.
pub(super) fn learn(
    detector: &mut Detector,
    good: &[Good],
    synthetic: &[Synthetic],
    observe: &mut Observe,
) -> Result<Evaluated> {
    let recipe = &detector.config().recipe;
    let images: usize = good.iter().map(|of| of.samples.len()).sum();
    let timesteps = match &recipe.candidates[..] {
        [] => vec![None],
        [first, ..] if images >= MANY * good.len() => vec![Some(*first)],
        candidates => candidates.iter().copied().map(Some).collect(),
    };
    let judged: usize = synthetic.iter().map(|of| of.normal.len() + of.painted.len()).sum();
    // With nothing to choose and nothing to compare it learns once.
    let tried = if timesteps.len() == 1 && synthetic.is_empty() { 0 } else { timesteps.len() };
    let (mut done, total) = (0, tried * (images + judged) + images);
    let mut step = |count: usize, unreadable: Option<Error>| {
        if let Some(e) = unreadable {
            observe(Event::Unreadable(&e))?;
        }
        done += count;
        observe(Event::Calibration { done, total })
    };
    if tried == 0 {
        set(detector, timesteps[0])?;
        // Those trained on are known.
        let held_out: HashSet<PathBuf> = good.iter().flat_map(Good::held_out).collect();
        learn_together(detector, good, |sample, read| {
            step(1, read.err().filter(|_| held_out.contains(&sample.path)))
        })?;
        return Ok(Evaluated::new(BTreeMap::new()));
    }
    let mut best: Option<(f64, Option<usize>, Evaluated)> = None;
    for timestep in timesteps {
        set(detector, timestep)?;
        let first = best.is_none();
        learn_apart(detector, good, |read| step(1, read.err().filter(|_| first)))?;
        let (score, told) = judge(detector, synthetic, |images| step(images, None))?;
        let better = |(most, _, best): &(f64, _, Evaluated)| {
            score > *most && told.mean.au_pro > best.mean.au_pro
        };
        if best.as_ref().is_none_or(better) {
            best = Some((score, timestep, told));
        }
    }
    let (_, timestep, told) = best.expect("there is a timestep");
    set(detector, timestep)?;
    learn_together(detector, good, |_, _| step(1, None))?;
    Ok(told)
}

fn set(detector: &mut Detector, timestep: Option<usize>) -> Result<()> {
    timestep.map_or(Ok(()), |timestep| detector.set_timestep(timestep))
}

/// Has a detector learn from images trained on, and calibrates it with those held out. `each` gets every file
/// with what is wrong with a held-out one (others are known), and may end the learning.
fn learn_apart(
    detector: &mut Detector,
    good: &[Good],
    mut each: impl FnMut(Result<()>) -> Result<()>,
) -> Result<()> {
    let trained: Vec<_> = good.iter().map(|of| (of.category.to_string(), of.trained())).collect();
    let stats = detector.learn_prior(&trained, |_, _| each(Ok(())))?;
    for (of, stats) in good.iter().zip(stats) {
        let (category, held_out) = (of.category, of.held_out());
        let stats = stats.into_iter().flatten().collect();
        detector.calibrate_files(category, &held_out, stats, |_, read| each(read))?;
    }
    Ok(())
}

/// Has a detector learn from all images, and calibrates it with those that the network was not trained on,
/// each held against others. `each` gets every image, with what is wrong with it, and may end the learning.
pub(super) fn learn_together(
    detector: &mut Detector,
    good: &[Good],
    each: impl FnMut(&Sample, Result<()>) -> Result<()>,
) -> Result<()> {
    let all: Vec<_> =
        good.iter().map(|of| (of.category.to_string(), of.samples.to_vec())).collect();
    let stats = detector.learn_prior(&all, each)?;
    for (of, stats) in good.iter().zip(stats) {
        let of_those = |indices: &[usize]| indices.iter().filter_map(|&i| stats[i]).collect();
        let [held_out, trained] = [&of.split.held_out, &of.split.train].map(|i| of_those(i));
        detector.set_calibration(of.category, held_out, trained)?;
    }
    Ok(())
}

/// The mean score of synthetic defects, and how well they are told from the images without. `each` gets how
/// many images are judged, and may end it.
fn judge(
    detector: &Detector,
    synthetic: &[Synthetic],
    mut each: impl FnMut(usize) -> Result<()>,
) -> Result<(f64, Evaluated)> {
    let (mut sum, mut count) = (0.0, 0);
    let evaluated = synthetic.iter().map(|of| {
        let options = ScoreOptions { category: Some(of.category.clone()), ..Default::default() };
        let (mut scores, mut maps) = (Vec::new(), Vec::new());
        for images in of.images().chunks(detector.batch_size()) {
            for scored in detector.score_with(images, &options)? {
                scores.push(scored.score);
                maps.push(scored.map.resize(PIXELS, PIXELS)?);
            }
            each(images.len())?;
        }
        let painted = &scores[of.normal.len()..];
        sum += painted.iter().sum::<f64>();
        count += painted.len();
        Ok((of.category.clone(), of.metrics(&scores, maps)?))
    });
    let evaluated = Evaluated::new(evaluated.collect::<Result<_>>()?);
    Ok((sum / f64::from(count.max(1) as u32), evaluated))
}
