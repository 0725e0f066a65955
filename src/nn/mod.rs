//! Networks with explicit forward and backward passes.

mod dit;
pub mod efficientnet;
pub mod features;

pub use dit::{Activations, Dit, DitConfig, Gradients, PackedDit, Parameter, TimestepActivations};
