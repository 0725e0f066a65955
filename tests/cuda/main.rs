//! The CUDA backend apart from its operations.

mod cache;
#[allow(dead_code)]
#[path = "../emulator/mod.rs"]
mod emulator;
mod graph;
mod memory;
#[allow(dead_code)]
#[path = "../ops/common.rs"]
mod numbers;
mod probe;
