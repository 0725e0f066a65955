//! From images to anomaly scores and maps.

pub mod overlay;
pub mod panel;
