//! images → features → inversion → score.

mod detector;
mod evaluate;
mod map;
mod measure;
pub mod overlay;
pub mod panel;

pub(crate) use detector::{DEVIATIONS, LONE_SPREAD_STANDING_OUT};
pub use detector::{Detector, ScoreKind, ScoreOptions, Scored, Threshold};
pub use evaluate::{BestThreshold, Evaluated, Evaluation, ImageResult, evaluate};
pub(crate) use evaluate::{Compared, PIXELS};
pub use map::AnomalyMap;
