//! The backbone.

pub mod efficientnet;
pub mod features;

pub use features::Backbone;
