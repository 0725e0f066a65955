//! Every operation against an oracle in f64 written for the test.

mod common;
mod silu;
