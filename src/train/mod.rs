//! batch → loss → gradients → update.

mod features;
mod learning_rate;
mod split;
mod trainer;

pub use features::extract_features;
pub use learning_rate::LearningRate;
pub use split::{Split, hold_out};
pub use trainer::{StepReport, Trainer};
