//! batch → loss → gradients → update.

mod batches;
mod features;
mod learning_rate;
mod resources;
mod space;
mod split;
mod trainer;

pub use features::extract_features;
pub use learning_rate::LearningRate;
pub use resources::{Average, Memory, Resources};
pub use split::{Split, divide, hold_out};
pub use trainer::{StepReport, Trainer};
