//! images → features → inversion → score.

mod calibration;
mod detector;
mod evaluate;
mod levels;
mod map;
mod measure;
mod moments;
pub mod overlay;
#[cfg(feature = "panel")]
pub mod panel;
mod scale;

pub(crate) use calibration::ENOUGH;
pub(crate) use detector::backbone_of;
pub use detector::{Detector, Scored};
pub use evaluate::{BestThreshold, Evaluated, Evaluation, ImageResult, evaluate};
pub(crate) use evaluate::{Compared, PIXELS, require_tests, test, unreadable};
pub use map::AnomalyMap;
pub use moments::{Moments, drift};
pub(crate) use scale::{DEVIATIONS, LONE_SPREAD_STANDING_OUT};
pub use scale::{ScoreKind, ScoreOptions, Threshold};
