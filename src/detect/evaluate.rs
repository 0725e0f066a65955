//! A detector's scores and maps against a data set's labels and masks.

use std::collections::BTreeMap;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::{Detector, ScoreOptions, Scored};
use crate::data::{Dataset, Mask, TestImage, load_test};
use crate::error::{Error, Result};
use crate::metrics::{self, AnnotatedMap, Metrics, PixelMetrics};

/// Side of the maps and masks that pixel metrics compare.
const PIXELS: usize = 256;

/// Metrics of each category and their mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Category → metrics.
    pub categories: BTreeMap<String, Metrics>,
    /// The mean over categories.
    pub mean: Metrics,
}

/// The metrics of a data set, in percent: what `metrics.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// With calibrated scores and smoothed maps.
    #[serde(flatten)]
    pub calibrated: Evaluated,
    /// Under the protocol of the method's paper: m(Abs) + m(NLL), m the range of a category's test
    /// images scaled to 0..1, and maps without smoothing. For tables only: it needs the test set.
    pub paper: Evaluated,
}

/// A test image and what the detector said of it.
pub struct ImageResult<'a> {
    /// The category.
    pub category: &'a str,
    /// The image's file and label.
    pub test: &'a TestImage,
    /// The image.
    pub image: RgbImage,
    /// The mask of its defects, where there is one.
    pub mask: Option<Mask>,
    /// The score and the map.
    pub scored: Scored,
}

/// Scores every test image with its category's calibration (pooled where the detector has none)
/// and compares with labels and masks. Pixel metrics are taken at 256 × 256 over the images that
/// are good or have a mask.
///
/// `each` gets every test image in order, with what the detector said of it or with what is wrong
/// with it, and ends the evaluation with an error of its own.
///
/// # Errors
/// [`Error::Dataset`] if a category has no readable test images; those of the detector and of
/// `each`.
pub fn evaluate(
    detector: &Detector,
    dataset: &Dataset,
    options: &ScoreOptions,
    mut each: impl FnMut(&TestImage, Result<ImageResult>) -> Result<()>,
) -> Result<Evaluation> {
    let mut calibrated = BTreeMap::new();
    let mut paper = BTreeMap::new();
    for category in dataset.categories() {
        let known = detector.calibration().categories.contains_key(&category.name);
        let mut options = options.clone();
        options.category = known.then(|| category.name.clone());
        let mut tested = Tested::default();
        detector.score_items(&category.test, &options, load_test, |test, result| match result {
            Ok((image, mask, scored)) => {
                let mask_or_none = match test.defect {
                    None => Some(None),
                    Some(_) => mask.as_ref().map(Some),
                };
                tested.add(test, mask_or_none, &scored)?;
                let category = &category.name;
                each(test, Ok(ImageResult { category, test, image, mask, scored }))
            }
            Err(e) => each(test, Err(e)),
        })?;
        let name = &category.name;
        if tested.labels.is_empty() {
            let reason = format!("category `{name}` has no readable test images");
            return Err(Error::dataset(dataset.root(), reason));
        }
        calibrated.insert(name.clone(), tested.calibrated()?);
        paper.insert(name.clone(), tested.paper()?);
    }
    let mean = |categories: BTreeMap<String, Metrics>| Evaluated {
        mean: Metrics::mean(&categories.values().copied().collect::<Vec<_>>()),
        categories,
    };
    Ok(Evaluation { calibrated: mean(calibrated), paper: mean(paper) })
}

/// The test images of a category.
#[derive(Default)]
struct Tested {
    labels: Vec<bool>,
    scores: Vec<f64>,
    abs: Vec<f64>,
    nll: Vec<f64>,
    threshold: f64,
    /// Smoothed and plain maps and the mask of images that take part in pixel metrics.
    maps: Vec<(Vec<f32>, Vec<f32>, Vec<bool>)>,
}

impl Tested {
    /// `mask`: none where it is not known which pixels are anomalous, `Some(None)` where none are.
    fn add(
        &mut self,
        test: &TestImage,
        mask: Option<Option<&Mask>>,
        scored: &Scored,
    ) -> Result<()> {
        self.labels.push(test.defect.is_some());
        self.scores.push(scored.score);
        self.abs.push(f64::from(scored.stats.abs));
        self.nll.push(f64::from(scored.stats.nll));
        self.threshold = scored.threshold;
        if let Some(mask) = mask {
            let mask = match mask {
                Some(mask) => mask.resize(PIXELS, PIXELS).pixels().to_vec(),
                None => vec![false; PIXELS * PIXELS],
            };
            let map = &scored.map;
            let smoothed = map.resize(PIXELS, PIXELS)?;
            self.maps.push((smoothed, map.resize_plain(PIXELS, PIXELS)?, mask));
        }
        Ok(())
    }

    fn calibrated(&self) -> Result<Metrics> {
        let metrics = Metrics::from_images(&self.scores, &self.labels, Some(self.threshold))?;
        self.with_pixels(metrics, |(smoothed, _, _)| smoothed)
    }

    fn paper(&self) -> Result<Metrics> {
        let scores = metrics::paper_scores(&self.abs, &self.nll)?;
        let metrics = Metrics::from_images(&scores, &self.labels, None)?;
        self.with_pixels(metrics, |(_, plain, _)| plain)
    }

    fn with_pixels(
        &self,
        metrics: Metrics,
        map: impl Fn(&(Vec<f32>, Vec<f32>, Vec<bool>)) -> &Vec<f32>,
    ) -> Result<Metrics> {
        let annotated: Vec<_> = self
            .maps
            .iter()
            .map(|m| AnnotatedMap { map: map(m), mask: &m.2, width: PIXELS, height: PIXELS })
            .collect();
        if annotated.is_empty() {
            return Ok(metrics);
        }
        let pixels: PixelMetrics = metrics::pixel_metrics(&annotated, metrics::FPR_LIMIT)?;
        Ok(metrics.with_pixels(&pixels))
    }
}
