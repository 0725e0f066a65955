//! What the tests of several binaries share, and the benches with them.
#![allow(dead_code)] // Each binary uses a part.

#[cfg(feature = "cuda")]
pub mod emulator;
pub mod files;
pub mod memory;
pub mod networks;
pub mod numbers;
pub mod png;
#[cfg(feature = "report")]
pub mod report;

use std::path::{Path, PathBuf};

/// The bundled photographs, a data set of three categories.
pub fn photographs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data")
}
