//! Networks with explicit forward and backward passes.

mod dit;
mod whitening;

pub use dit::{Activations, Dit, DitConfig, Gradients, PackedDit, Parameter, TimestepActivations};
pub use whitening::Whitening;
