//! The CUDA backend apart from its operations.

mod alone;
mod cache;
mod compiling;
mod features;
mod fit;
mod graph;
mod interop;
mod inversion;
mod memory;
mod probe;
mod refused;
mod roofline;
mod scores;
#[path = "../support/mod.rs"]
mod support;
mod training;
mod transfer;
mod tuning;
