//! The CUDA backend apart from its operations.

mod alone;
mod cache;
#[allow(dead_code)]
#[path = "../flows/common.rs"]
mod common;
#[allow(dead_code)]
#[path = "../emulator/mod.rs"]
mod emulator;
mod features;
mod fit;
mod graph;
mod inversion;
mod memory;
#[allow(dead_code)]
#[path = "../ops/common.rs"]
mod numbers;
mod probe;
mod queue;
mod refused;
mod training;
mod transfer;
