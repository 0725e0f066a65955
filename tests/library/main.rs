//! What works on files, pictures and figures, below detectors.

mod data;
mod documents;
mod features;
mod files;
mod layers;
mod metrics;
mod overlay;
mod report;
#[path = "../support/mod.rs"]
mod support;
mod synthetic;
mod units;
mod vit;
mod weights;

#[global_allocator]
static ALLOCATOR: support::memory::Counted = support::memory::Counted;
