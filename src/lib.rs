//! Diffusion-inversion anomaly detection.
#![deny(missing_docs)]

mod cpu;
mod cuda;
pub mod data;
pub mod detect;
mod error;
pub mod files;
pub mod metrics;
pub mod nn;
pub mod ops;
pub mod tensor;

pub use error::{Error, Result};
pub use tensor::{DType, Device, Tensor};
