//! A detector's scores and maps against a data set's labels and masks.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::{Detector, ScoreOptions, Scored};
use crate::checkpoint::ImageStats;
use crate::data::{Category, Dataset, Mask, Sample, load_sample};
use crate::error::{Error, Result};
use crate::metrics::{self, AnnotatedMap, Metrics, PimoOptions, PixelMetrics};

/// Side of the maps and masks that pixel metrics compare.
pub(crate) const PIXELS: usize = 256;

/// Metrics of each category and their mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Category → metrics.
    pub categories: BTreeMap<String, Metrics>,
    /// The mean over categories.
    pub mean: Metrics,
}

impl Evaluated {
    /// The metrics of each category, with their mean.
    pub fn new(categories: BTreeMap<String, Metrics>) -> Self {
        let mean = Metrics::mean(&categories.values().copied().collect::<Vec<_>>());
        Self { categories, mean }
    }
}

/// The metrics of a data set, in percent: what `metrics.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// With calibrated scores and maps as [`AnomalyMap::resize`](super::AnomalyMap::resize) makes them.
    #[serde(flatten)]
    pub calibrated: Evaluated,
    /// Under the protocol of the method's paper: m(Abs) + m(NLL), m the range of a category's test
    /// images scaled to 0..1, and maps interpolated bilinearly. For tables only: it needs the test set. Abs
    /// and NLL are of the latent as it is; maps are the detector's own, which the paper's recipe
    /// makes of the latent alone.
    pub paper: Evaluated,
    /// Category → the threshold that would have been best.
    #[serde(default)]
    pub thresholds: BTreeMap<String, BestThreshold>,
    /// The categories of which all images have one score, good and defective ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tied: Vec<String>,
}

/// False alarms that [`BestThreshold`] allows, in percent.
const FALSE_ALARMS: f64 = 5.0;
/// By how many points of recall less false alarms a threshold has to be better to be worth a word, and of how many
/// good and defective images each.
const WORTH: f64 = 20.0;
const ENOUGH: usize = 8;

/// The least score of a defective test image at which at most 5 % of the good ones are flagged. It is chosen on the test
/// images, which a detector's own threshold has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestThreshold {
    /// The score.
    pub score: f64,
    /// Good images flagged at it, in percent.
    pub false_alarm_rate: f64,
    /// Defective images flagged at it, in percent.
    pub recall: f64,
    /// Good images that it is chosen on.
    pub good: usize,
    /// Defective images that it is chosen on.
    pub defective: usize,
}

impl BestThreshold {
    fn of(scores: &[f64], labels: &[bool]) -> Result<Option<Self>> {
        let Some(score) = metrics::threshold_within(scores, labels, FALSE_ALARMS / 100.0)? else {
            return Ok(None);
        };
        let at = Metrics::from_images(scores, labels, Some(score))?;
        let defective = labels.iter().filter(|label| **label).count();
        let good = labels.len() - defective;
        Ok(at.false_alarm_rate.zip(at.recall).map(|(false_alarm_rate, recall)| Self {
            score,
            false_alarm_rate,
            recall,
            good,
            defective,
        }))
    }
}

impl Evaluation {
    /// What the user should know: each category of which all images have one score, and each whose defects another
    /// threshold would tell much better.
    pub fn advice(&self) -> Vec<String> {
        let advice = |(name, best): (&String, &BestThreshold)| {
            let own = &self.calibrated.categories[name];
            let (false_alarms, recall) = (own.false_alarm_rate?, own.recall?);
            let gain = (best.recall - best.false_alarm_rate) - (recall - false_alarms);
            let better = gain > WORTH && best.good.min(best.defective) >= ENOUGH;
            // Down, so that the image that has this score is flagged.
            let score = (100.0 * best.score).floor() / 100.0;
            better.then(|| {
                format!(
                    "category `{name}`: scores tell its defects better than the threshold does, at which {recall:.0} % \
                     of them are found with {false_alarms:.0} % false alarms; with --category {name} \
                     --threshold-score {score:.2} it would be {:.0} % with {:.0} %, chosen on these images: try it on \
                     others",
                    best.recall, best.false_alarm_rate
                )
            })
        };
        let tied = self.tied.iter().map(|name| {
            format!(
                "category `{name}`: all scores are equal, good images and defective ones alike, so that its figures of \
                 images (AUROC 50 %) say nothing; train with more steps, or try another --score"
            )
        });
        tied.chain(self.thresholds.iter().filter_map(advice)).collect()
    }
}

/// A test image and what the detector said of it.
pub struct ImageResult<'a> {
    /// The category.
    pub category: &'a str,
    /// The image's file and label.
    pub test: &'a Sample,
    /// The image.
    pub image: RgbImage,
    /// The mask of its defects, where there is one.
    pub mask: Option<Mask>,
    /// The score and the map.
    pub scored: Scored,
    /// How long reading and decoding took; the rest takes as long for every image.
    pub loading: Duration,
}

impl fmt::Debug for ImageResult<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageResult")
            .field("category", &self.category)
            .field("test", &self.test)
            .field("scored", &self.scored)
            .finish_non_exhaustive()
    }
}

/// Scores every test image with its category's calibration (as one of no known category where the detector has none)
/// and compares with labels and masks. Pixel metrics are taken at 256 × 256 over the images that
/// are good or have a mask.
///
/// `each` gets every test image in order, with what the detector said of it or with what is wrong
/// with it, and ends the evaluation with an error of its own.
///
/// # Errors
/// [`Error::Dataset`] if a category has no test images, or none that can be read; those of the detector and of
/// `each`.
pub fn evaluate<'d>(
    detector: &Detector,
    dataset: &'d Dataset,
    options: &ScoreOptions,
    mut each: impl FnMut(&'d Sample, Result<ImageResult<'d>>) -> Result<()>,
) -> Result<Evaluation> {
    let mut calibrated = BTreeMap::new();
    let mut paper = BTreeMap::new();
    let mut thresholds = BTreeMap::new();
    let mut tied = Vec::new();
    for category in dataset.categories() {
        let tested = test(detector, dataset, category, options, &mut each)?;
        let name = &category.name;
        calibrated.insert(name.clone(), tested.calibrated()?);
        paper.insert(name.clone(), tested.paper()?);
        if let Some(best) = BestThreshold::of(&tested.scores, &tested.cubic.labels)? {
            thresholds.insert(name.clone(), best);
        }
        if tested.is_tied() {
            tied.push(name.clone());
        }
    }
    let [calibrated, paper] = [calibrated, paper].map(Evaluated::new);
    Ok(Evaluation { calibrated, paper, thresholds, tied })
}

/// Scores the test images of a category as [`evaluate`] does.
pub(crate) fn test<'d>(
    detector: &Detector,
    dataset: &Dataset,
    category: &'d Category,
    options: &ScoreOptions,
    mut each: impl FnMut(&'d Sample, Result<ImageResult<'d>>) -> Result<()>,
) -> Result<Tested> {
    require_tests(dataset, category)?;
    let known = detector.calibration().categories.contains_key(&category.name);
    let mut options = options.clone();
    options.category = known.then(|| category.name.clone());
    let mut tested = Tested::default();
    let load = |test: &Sample| {
        let start = Instant::now();
        let (image, mask) = load_sample(test)?;
        Ok((image, (mask, start.elapsed())))
    };
    detector.score_items(category.test(), &options, load, |test, result| match result {
        Ok((image, (mask, loading), scored)) => {
            tested.add(test, mask.as_ref(), &scored)?;
            let category = &category.name;
            each(test, Ok(ImageResult { category, test, image, mask, scored, loading }))
        }
        Err(e) => each(test, Err(e)),
    })?;
    match tested.scores.is_empty() {
        true => Err(unreadable(dataset, category)),
        false => Ok(tested),
    }
}

/// An error of a category that has no images to test with.
pub(crate) fn require_tests(dataset: &Dataset, category: &Category) -> Result<()> {
    if !category.test().is_empty() {
        return Ok(());
    }
    let name = &category.name;
    let reason =
        format!("category `{name}` has no test images; put some in test/good and test/DEFECT");
    Err(Error::dataset(dataset.root(), reason))
}

/// The error of a category of which no test image can be read.
pub(crate) fn unreadable(dataset: &Dataset, category: &Category) -> Error {
    let reason = format!("category `{}` has no readable test images", category.name);
    Error::dataset(dataset.root(), reason)
}

/// The test images of a category.
#[derive(Default)]
pub(crate) struct Tested {
    scores: Vec<f64>,
    pub stats: Vec<ImageStats>,
    threshold: f64,
    /// As [`AnomalyMap::resize`](super::AnomalyMap::resize) makes maps.
    pub cubic: Compared,
    /// As the paper does.
    pub bilinear: Compared,
}

impl Tested {
    fn add(&mut self, test: &Sample, mask: Option<&Mask>, scored: &Scored) -> Result<()> {
        self.scores.push(scored.score);
        self.stats.push(scored.stats);
        self.threshold = scored.threshold;
        let map = &scored.map;
        let defective = test.defect.is_some();
        self.cubic.add(defective, mask, || map.resize(PIXELS, PIXELS))?;
        self.bilinear.add(defective, mask, || map.resize_bilinear(PIXELS, PIXELS))
    }

    /// Whether good and defective images have one score.
    fn is_tied(&self) -> bool {
        let labels = &self.cubic.labels;
        labels.contains(&true)
            && labels.contains(&false)
            && self.scores.iter().all(|score| *score == self.scores[0])
    }

    fn calibrated(&self) -> Result<Metrics> {
        self.cubic.metrics(&self.scores, Some(self.threshold))
    }

    fn paper(&self) -> Result<Metrics> {
        let of = |number: fn(&ImageStats) -> f64| -> Vec<f64> {
            self.stats.iter().map(number).collect()
        };
        let scores = metrics::paper_scores(&of(|s| s.abs.into()), &of(|s| s.nll))?;
        self.bilinear.metrics(&scores, None)
    }
}

/// Maps of a category's test images, and what is true of them.
#[derive(Default)]
pub(crate) struct Compared {
    labels: Vec<bool>,
    /// Map and mask of the images that take part in pixel metrics.
    maps: Vec<(Vec<f32>, Vec<bool>)>,
}

impl Compared {
    /// Adds an image, with its map at 256 × 256. A defect without a mask takes no part in pixel
    /// metrics: which of its pixels are anomalous is not known.
    pub fn add(
        &mut self,
        defective: bool,
        mask: Option<&Mask>,
        map: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<()> {
        self.labels.push(defective);
        let mask = match (mask, defective) {
            (_, false) => vec![false; PIXELS * PIXELS],
            (Some(mask), true) => mask.resize(PIXELS, PIXELS).pixels().to_vec(),
            (None, true) => return Ok(()),
        };
        self.maps.push((map()?, mask));
        Ok(())
    }

    /// Of each image, whether it is defective.
    pub fn labels(&self) -> &[bool] {
        &self.labels
    }

    /// The metrics of the images, with their scores.
    pub fn metrics(&self, scores: &[f64], threshold: Option<f64>) -> Result<Metrics> {
        self.metrics_of(scores, threshold, self.pixels()?.as_ref())
    }

    /// The same with those of pixels, which are the same for all scores.
    pub fn metrics_of(
        &self,
        scores: &[f64],
        threshold: Option<f64>,
        pixels: Option<&Pixels>,
    ) -> Result<Metrics> {
        let metrics = Metrics::from_images(scores, &self.labels, threshold)?;
        Ok(match pixels {
            Some(Pixels { metrics: pixels, aupimo }) => metrics.with_pixels(pixels, *aupimo),
            None => metrics,
        })
    }

    /// The metrics of pixels, if maps and masks are there.
    pub fn pixels(&self) -> Result<Option<Pixels>> {
        if self.maps.is_empty() {
            return Ok(None);
        }
        let annotated = |(map, mask)| AnnotatedMap { map, mask, width: PIXELS, height: PIXELS };
        let maps: Vec<_> = self.maps.iter().map(|(map, mask)| annotated((map, mask))).collect();
        let metrics = metrics::pixel_metrics(&maps, metrics::FPR_LIMIT)?;
        // What it refuses is too little to compute it from.
        let aupimo = metrics::aupimo(&maps, &PimoOptions::default()).ok();
        Ok(Some(Pixels { metrics, aupimo: aupimo.map(|areas| areas.mean) }))
    }
}

/// The metrics of pixels.
pub(crate) struct Pixels {
    metrics: PixelMetrics,
    aupimo: Option<f64>,
}
