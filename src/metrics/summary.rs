//! The figures reported for a data set.

use serde::{Deserialize, Serialize};

use super::curve::image_metrics;
use super::pixel::PixelMetrics;
use super::threshold::{false_alarm_rate, recall};
use crate::error::Result;

/// The figures reported for one category, or their mean over categories; in percent. `None` where the
/// category has no masks or no anomalies to compute them from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Area under the ROC curve, over images.
    pub image_auroc: Option<f64>,
    /// Average precision, over images.
    pub image_ap: Option<f64>,
    /// Largest F1, over images.
    pub image_f1_max: Option<f64>,
    /// Area under the ROC curve, over pixels.
    pub pixel_auroc: Option<f64>,
    /// Average precision, over pixels.
    pub pixel_ap: Option<f64>,
    /// Largest F1, over pixels.
    pub pixel_f1_max: Option<f64>,
    /// Area under the per-region overlap curve.
    pub au_pro: Option<f64>,
    /// Mean of the seven above, where there are all of them.
    pub mad: Option<f64>,
    /// Mean area under the per-image overlap curves, as [`aupimo`](super::aupimo) has it by default; `None` too where
    /// normal images have too few pixels for it, or too many that share their largest score.
    pub aupimo: Option<f64>,
    /// Normal images flagged at the threshold.
    pub false_alarm_rate: Option<f64>,
    /// Anomalous images flagged at the threshold.
    pub recall: Option<f64>,
}

/// A figure's title and where it is found.
pub type Column = (&'static str, fn(&Metrics) -> Option<f64>);

/// All figures as tables show them: headings, and under each its columns.
pub const COLUMNS: [(&str, &[Column]); 5] = [
    (
        "image",
        &[("AUROC", |m| m.image_auroc), ("AP", |m| m.image_ap), ("F1-max", |m| m.image_f1_max)],
    ),
    (
        "pixel",
        &[
            ("AUROC", |m| m.pixel_auroc),
            ("AP", |m| m.pixel_ap),
            ("F1-max", |m| m.pixel_f1_max),
            ("AU-PRO", |m| m.au_pro),
        ],
    ),
    ("all 7", &[("mAD", |m| m.mad)]),
    ("pixel", &[("AUPIMO", |m| m.aupimo)]),
    ("at the threshold", &[("false alarms", |m| m.false_alarm_rate), ("recall", |m| m.recall)]),
];

impl Metrics {
    /// The figures of images: the score of each, whether it is anomalous, and the threshold in use, if any.
    ///
    /// # Errors
    /// As [`auroc`](super::auroc) and [`recall`](super::recall).
    pub fn from_images(scores: &[f64], labels: &[bool], threshold: Option<f64>) -> Result<Self> {
        let images = image_metrics(scores, labels)?;
        let mut metrics = Self { image_auroc: images.auroc.map(percent), ..Self::default() };
        if labels.contains(&true) {
            metrics.image_ap = Some(percent(images.ap));
            metrics.image_f1_max = Some(percent(images.f1_max.value));
        }
        if let Some(threshold) = threshold {
            metrics.false_alarm_rate = false_alarm_rate(scores, labels, threshold)?.map(percent);
            metrics.recall = recall(scores, labels, threshold)?.map(percent);
        }
        Ok(metrics)
    }

    /// The same figures with those of pixels; `aupimo` where it can be computed.
    pub fn with_pixels(mut self, pixels: &PixelMetrics, aupimo: Option<f64>) -> Self {
        let if_anomalous = |value| (pixels.anomalous > 0).then(|| percent(value));
        self.pixel_auroc = pixels.auroc.map(percent);
        self.pixel_ap = if_anomalous(pixels.ap);
        self.pixel_f1_max = if_anomalous(pixels.f1_max.value);
        self.au_pro = pixels.au_pro.map(percent);
        self.aupimo = aupimo.map(percent);
        self.mad = self.seven().into_iter().sum::<Option<f64>>().map(|sum| sum / 7.0);
        self
    }

    /// Every figure's mean over those categories that have it.
    pub fn mean(categories: &[Metrics]) -> Self {
        let mean = |field: fn(&Metrics) -> Option<f64>| {
            let values: Vec<f64> = categories.iter().filter_map(field).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        Self {
            image_auroc: mean(|m| m.image_auroc),
            image_ap: mean(|m| m.image_ap),
            image_f1_max: mean(|m| m.image_f1_max),
            pixel_auroc: mean(|m| m.pixel_auroc),
            pixel_ap: mean(|m| m.pixel_ap),
            pixel_f1_max: mean(|m| m.pixel_f1_max),
            au_pro: mean(|m| m.au_pro),
            mad: mean(|m| m.mad),
            aupimo: mean(|m| m.aupimo),
            false_alarm_rate: mean(|m| m.false_alarm_rate),
            recall: mean(|m| m.recall),
        }
    }

    fn seven(&self) -> [Option<f64>; 7] {
        [
            self.image_auroc,
            self.image_ap,
            self.image_f1_max,
            self.pixel_auroc,
            self.pixel_ap,
            self.pixel_f1_max,
            self.au_pro,
        ]
    }
}

fn percent(fraction: f64) -> f64 {
    100.0 * fraction
}
