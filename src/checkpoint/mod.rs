//! What is kept in files: the detector and the state of its training.

mod calibration;
mod checksum;
mod detector;
mod file;
mod levels;
mod loss_scale;
mod recipe;
mod training;

pub use calibration::{Calibration, ImageStats};
pub use detector::{BackboneId, Checkpoint, CheckpointConfig};
pub use levels::Levels;
pub use loss_scale::LossScale;
pub use recipe::{Ema, LossWeight, Recipe, Steps};
pub use training::{TrainingConfig, TrainingState};
