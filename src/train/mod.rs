//! Training a denoiser.

mod learning_rate;

pub use learning_rate::LearningRate;
