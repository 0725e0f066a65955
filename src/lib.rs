#![doc = include_str!("../README.md")]
#![deny(missing_docs, missing_debug_implementations)]

// Before those who use its macro.
#[macro_use]
mod types;

pub mod backbones;
pub mod baselines;
pub mod checkpoint;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "cuda/absent.rs"]
mod cuda;
pub mod data;
pub mod denoisers;
pub mod detect;
pub mod device;
pub mod diffusion;
mod error;
pub mod files;
mod fit;
pub mod gaussian;
pub mod metrics;
pub mod ops;
mod processor;
mod registry;
#[cfg(feature = "report")]
pub mod report;
pub mod sweep;
pub mod tensor;
pub mod train;
pub mod weights;

pub use cpu::{MeasuredUnit, measure_units};
pub use detect::Detector;
pub use error::{Error, Result};
pub use fit::{Comparison, Control, Event, FitOptions, Fitted, calibrate, fit, fit_on, quantise};
pub use tensor::{DType, Device, Tensor};
pub use train::Trainer;
pub use types::{EightBits, Precision, Products};
