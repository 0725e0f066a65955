//! batch → loss → gradients → update.

mod learning_rate;
mod split;
mod trainer;

pub use learning_rate::LearningRate;
pub use split::{Split, hold_out};
pub use trainer::{StepReport, Trainer};
