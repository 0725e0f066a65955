//! Networks with explicit forward and backward passes.

mod dit;
mod prior;
mod whitening;

pub(crate) use dit::stored;
pub use dit::{
    Activations, Dit, DitConfig, Gradients, PackedDit, Parameter, Parameters, Recompute,
};
pub(crate) use prior::deviations;
pub use prior::{Gaussians, Prior};
pub use whitening::Whitening;
