//! Diffusion-inversion anomaly detection.
#![deny(missing_docs)]

mod cpu;
mod cuda;
pub mod data;
pub mod diffusion;
mod error;
pub mod metrics;
pub mod nn;
pub mod ops;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};
pub use tensor::{DType, Device, Tensor};
