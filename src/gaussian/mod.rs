//! Gaussians of features and latents: whitening, and what latents of normal images are like.

mod prior;
mod whitening;

pub(crate) use prior::deviations;
pub use prior::{Gaussians, Prior};
pub use whitening::Whitening;
