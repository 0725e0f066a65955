//! How well scores and maps agree with labels and masks.
//!
//! Everywhere a larger score means more anomalous, and a threshold flags the scores that are greater
//! than or equal to it. All curves are exact: every distinct score is a threshold, and equal scores
//! are passed together. Functions return fractions; [`Metrics`] holds percent.
//!
//! | | images | pixels |
//! |---|---|---|
//! | all of them, ranked once | [`image_metrics`] | [`pixel_metrics`] |
//! | AUROC, AP, F1-max | [`auroc`], [`average_precision`], [`f1_max`] | |
//! | curves | [`roc_curve`], [`precision_recall_curve`] | |
//! | AU-PRO | | [`au_pro`], [`pro_curve`], [`connected_components`] |
//! | AUPIMO | | [`aupimo`] |
//! | at one threshold | [`false_alarm_rate`], [`recall`], [`threshold_within`] | |
//!
//! [`paper_scores`] combines two scores as published tables do.

mod components;
mod curve;
mod paper;
mod pimo;
mod pixel;
mod pro;
mod summary;
mod threshold;

pub use components::{Components, connected_components};
pub use curve::{
    F1Max, ImageMetrics, Score, auroc, average_precision, f1_max, image_metrics,
    precision_recall_curve, roc_curve,
};
pub use paper::paper_scores;
pub use pimo::{Aupimo, PimoOptions, aupimo};
pub use pixel::{AnnotatedMap, PixelMetrics, pixel_metrics};
pub use pro::{FPR_LIMIT, au_pro, pro_curve};
pub use summary::{COLUMNS, Column, Metrics};
pub use threshold::{false_alarm_rate, recall, threshold_within};
