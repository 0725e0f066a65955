//! Networks with explicit forward and backward passes.

mod dit;

pub use dit::{Activations, Dit, DitConfig, Gradients, PackedDit, Parameter, TimestepActivations};
