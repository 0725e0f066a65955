//! The two flows and the files between them, on data small enough for a few seconds.

mod checkpoint;
mod common;
mod detector;
mod evaluate;
mod files;
mod fit;
mod inversion;
#[allow(dead_code)]
#[path = "../ops/common.rs"]
mod numbers;
mod resources;
mod trainer;
