//! Detectors on test images, by all scores at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::setting::Score;
use super::unreadable::Unreadable;
use crate::data::{Category, Dataset, load_image};
use crate::detect::{self, Detector, ScoreOptions};
use crate::error::Result;
use crate::metrics::{Metrics, paper_scores};

/// How long images are timed for, and how often at most.
const TIMED: Duration = Duration::from_millis(500);
const REPEATED: u32 = 5;

/// What a detector, or those of all categories, are worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Images a second, decoded images to scores, as many at once as were asked for, all features computed.
    pub images_per_second: f64,
    /// Parameters of the denoiser.
    pub parameters: usize,
    /// Category → what was measured.
    pub categories: BTreeMap<String, CategoryMeasured>,
    /// Images that the training or the measurement left out.
    pub unreadable: Vec<Unreadable>,
}

impl Measurement {
    /// Those of one detector, or of the detectors of each category.
    pub(super) fn joined(parts: &[Measurement]) -> Self {
        let rates = parts.iter().map(|part| part.images_per_second);
        Self {
            images_per_second: rates.sum::<f64>() / parts.len().max(1) as f64,
            parameters: parts.first().map_or(0, |part| part.parameters),
            categories: parts.iter().flat_map(|part| part.categories.clone()).collect(),
            unreadable: parts.iter().flat_map(|part| part.unreadable.clone()).collect(),
        }
    }
}

/// What was measured of a category.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CategoryMeasured {
    /// By scores that are calibrated with held-out images, maps resized as
    /// [`AnomalyMap::resize`](crate::detect::AnomalyMap::resize) does.
    pub calibrated: BTreeMap<Score, Metrics>,
    /// Under the paper's protocol: Abs and NLL scaled by their range on the test images, maps interpolated bilinearly.
    pub paper: BTreeMap<Score, Metrics>,
    /// Of each test image whether it is defective.
    pub defective: Vec<bool>,
    /// The scores of each test image: calibrated of [`Score::Own`], under the paper's protocol of [`Score::Sum`], others as
    /// they are.
    pub scores: BTreeMap<Score, Vec<f64>>,
}

/// Measures a category's test images. `each` gets every image, with what is wrong with it.
pub(super) fn category(
    detector: &Detector,
    dataset: &Dataset,
    category: &Category,
    mut each: impl FnMut(Result<()>) -> Result<()>,
) -> Result<CategoryMeasured> {
    let options = ScoreOptions::default();
    let tested =
        detect::test(detector, dataset, category, &options, |_, result| each(result.map(drop)))?;
    let (cubic, bilinear) = (tested.cubic.pixels()?, tested.bilinear.pixels()?);
    let abs: Vec<f64> = tested.stats.iter().map(|stats| f64::from(stats.abs)).collect();
    let nll: Vec<f64> = tested.stats.iter().map(|stats| stats.nll).collect();
    let sum = paper_scores(&abs, &nll)?;
    let mut measured =
        CategoryMeasured { defective: tested.cubic.labels().into(), ..Default::default() };
    for score in Score::OF_INVERSION {
        let kind = score.kind().expect("one of an inversion");
        let options = ScoreOptions::default().category(Some(category.name.clone())).kind(kind);
        let (scores, threshold) = detector.scores(&tested.stats, &options)?;
        let metrics = tested.cubic.metrics_of(&scores, Some(threshold), cubic.as_ref())?;
        measured.calibrated.insert(score, metrics);
        let of_paper = match score {
            Score::Abs => &abs,
            Score::Nll => &nll,
            Score::Sum => &sum,
            Score::Own | Score::Error => {
                measured.scores.insert(score, scores);
                continue;
            }
        };
        let metrics = tested.bilinear.metrics_of(of_paper, None, bilinear.as_ref())?;
        measured.paper.insert(score, metrics);
        measured.scores.insert(score, of_paper.clone());
    }
    Ok(measured)
}

/// The first test images that can be read, as many as are computed at once.
pub(super) fn images(dataset: &Dataset, batch: usize) -> Vec<RgbImage> {
    let tests = dataset.categories().iter().flat_map(|category| category.test());
    tests.filter_map(|test| load_image(&test.path).ok()).take(batch).collect()
}

/// How many images `score` does in a second.
pub(super) fn images_per_second(
    images: &[RgbImage],
    mut score: impl FnMut(&[RgbImage]) -> Result<()>,
) -> Result<f64> {
    // Memory is taken and work recorded the first time.
    score(images)?;
    let (start, mut done) = (Instant::now(), 0);
    while done < REPEATED && (done == 0 || start.elapsed() < TIMED) {
        score(images)?;
        done += 1;
    }
    Ok(f64::from(done) * images.len() as f64 / start.elapsed().as_secs_f64())
}
