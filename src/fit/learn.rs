//! From a trained network to a calibrated detector.

use std::path::PathBuf;

use super::synthetic::Synthetic;
use super::{Control, Event};
use crate::data::Dataset;
use crate::detect::{Detector, ScoreOptions};
use crate::error::{Error, Result};

/// The files of a category's good images: those trained on, and those held out.
pub(super) struct Good {
    pub category: String,
    pub trained: Vec<PathBuf>,
    pub held_out: Vec<PathBuf>,
}

/// Has a detector learn what normal images are like, and calibrates it. Of its recipe's candidates it gets
/// the timestep at which synthetic defects stand out most: whose mean score is the highest, in standard
/// deviations of normal images' scores.
pub(super) fn learn(
    detector: &mut Detector,
    dataset: &Dataset,
    good: &[Good],
    synthetic: &[Synthetic],
    observe: &mut dyn FnMut(Event) -> Control,
) -> Result<()> {
    let timesteps: Vec<Option<usize>> = match &detector.config().recipe.candidates[..] {
        [] => vec![None],
        candidates => candidates.iter().copied().map(Some).collect(),
    };
    let choose = timesteps.len() > 1;
    let images: usize = good.iter().map(|of| of.trained.len() + of.held_out.len()).sum();
    let painted: usize = synthetic.iter().map(|of| of.images.len()).sum();
    let (mut done, total) = (0, timesteps.len() * (images + if choose { painted } else { 0 }));
    let mut best = None;
    for timestep in timesteps {
        if let Some(timestep) = timestep {
            detector.set_timestep(timestep)?;
        }
        calibrate(detector, dataset, good, &mut |read| {
            done += 1;
            if let Err(e) = read
                && best.is_none()
            {
                observe(Event::Unreadable(&e));
            }
            observe(Event::Calibration { done, total });
        })?;
        if !choose {
            return Ok(());
        }
        let mut mean = 0.0;
        for Synthetic { category, images, .. } in synthetic {
            let options = ScoreOptions { category: Some(category.clone()), ..Default::default() };
            for images in images.chunks(detector.batch_size()) {
                let scored = detector.score_with(images, &options)?;
                mean += scored.iter().map(|s| s.score).sum::<f64>() / painted as f64;
                done += images.len();
                observe(Event::Calibration { done, total });
            }
        }
        if best.as_ref().is_none_or(|(most, _)| mean > *most) {
            best = Some((mean, detector.take_learnt()));
        }
    }
    match best {
        Some((_, learnt)) => detector.put_learnt(learnt),
        None => Ok(()),
    }
}

/// Has a detector learn from images trained on, and calibrates it with those held out. `each` gets every file
/// with what is wrong with a held-out one; others are known.
fn calibrate(
    detector: &mut Detector,
    dataset: &Dataset,
    good: &[Good],
    each: &mut dyn FnMut(Result<()>),
) -> Result<()> {
    let trained: Vec<_> = good.iter().map(|of| (of.category.clone(), of.trained.clone())).collect();
    let stats = detector.learn_prior(&trained, |_, _| {
        each(Ok(()));
        Ok(())
    })?;
    for (Good { category, held_out, .. }, stats) in good.iter().zip(stats) {
        let stats = stats.into_iter().flatten().collect();
        let mut unreadable = 0;
        let calibrated = detector.calibrate_files(category, held_out, stats, |_, read| {
            unreadable += usize::from(read.is_err());
            each(read);
            Ok(())
        });
        if unreadable == held_out.len() {
            let reason = format!("category `{category}`: no image to calibrate with can be read");
            return Err(Error::dataset(dataset.root(), reason));
        }
        calibrated?;
    }
    Ok(())
}
