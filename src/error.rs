//! What can go wrong, as data.

use std::path::{Path, PathBuf};

use crate::types::{DType, Device};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: which operation, which argument, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument has the wrong shape.
    #[error("{op}: `{arg}` should have shape {expected}, got {got:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The argument's name.
        arg: &'static str,
        /// The shape expected, with the names of its axes where they help.
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// An argument has the wrong element type.
    #[error("{op}: `{arg}` should hold {expected:?}, got {got:?}")]
    DType {
        /// The operation.
        op: &'static str,
        /// The argument's name.
        arg: &'static str,
        /// The element type expected.
        expected: DType,
        /// The element type that came.
        got: DType,
    },
    /// An argument lives on another device than the rest.
    #[error("{op}: `{arg}` should be on {expected}, got {got}")]
    Device {
        /// The operation.
        op: &'static str,
        /// The argument's name.
        arg: &'static str,
        /// The device of the other arguments.
        expected: Device,
        /// The device of this one.
        got: Device,
    },
    /// An argument has a value that the operation cannot work with.
    #[error("{op}: `{arg}` should be {expected}, got {got}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// The argument's name.
        arg: &'static str,
        /// What values are accepted.
        expected: String,
        /// The value that came.
        got: String,
    },
    /// Something this machine or this build does not have.
    #[error("{what} is not available: {why}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// Why it cannot be had, and what to do.
        why: String,
    },
    /// A device has not enough free memory.
    #[error(
        "{device}: {} asked for, {} of {} free; lower the batch size (`Detector::with_batch_size`, `--batch`)",
        megabytes(*asked), megabytes(*free), megabytes(*total)
    )]
    OutOfMemory {
        /// The device.
        device: Device,
        /// Bytes asked for.
        asked: usize,
        /// Bytes that were free.
        free: usize,
        /// Bytes that the device has.
        total: usize,
    },
    /// The host has not enough memory.
    #[error("cpu: {} asked for, which the system does not give; lower the batch size", megabytes(*asked))]
    HostMemory {
        /// Bytes asked for.
        asked: usize,
    },
    /// A training needs more memory than there is.
    #[error(
        "training on {device} needs {}, {} of it for {purpose}, and has {}; {setting} needs less",
        megabytes(*needed), megabytes(*largest), megabytes(*available)
    )]
    TooLarge {
        /// The device.
        device: Device,
        /// Bytes that the training needs.
        needed: usize,
        /// Bytes that it may have.
        available: usize,
        /// Bytes of the largest part.
        largest: usize,
        /// What the largest part is.
        purpose: String,
        /// What would make it smaller.
        setting: String,
    },
    /// A CUDA library returned an error.
    #[error("{device}: {call}: {reason}")]
    Cuda {
        /// The device.
        device: Device,
        /// What was being done.
        call: String,
        /// What the library said.
        reason: String,
    },
    /// A kernel does not compile.
    #[error("kernel {kernel} does not compile for sm_{arch} with {compiler}: {log}")]
    Compile {
        /// The kernel.
        kernel: String,
        /// The architecture.
        arch: u32,
        /// The compiler and its version.
        compiler: String,
        /// What the compiler said.
        log: String,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// An image cannot be used.
    #[error("{}: {reason}", path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A data set on disk cannot be used.
    #[error("{}: {reason}", path.display())]
    Dataset {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// A detector, training state or weights file cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// Training met a loss or a gradient that is not a finite number.
    #[error("training step {}: {what} is not finite; the state after {last_good} steps is kept", step + 1)]
    NonFinite {
        /// The step (0-based) at which it appeared.
        step: u64,
        /// The loss or the gradient norm.
        what: &'static str,
        /// How many steps had been completed before.
        last_good: u64,
    },
}

impl Error {
    /// A shape that `op` cannot work with.
    pub fn shape(
        op: &'static str,
        arg: &'static str,
        expected: impl Into<String>,
        got: &[usize],
    ) -> Self {
        Error::Shape { op, arg, expected: expected.into(), got: got.to_vec() }
    }

    /// An I/O error at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// An unusable image at `path`.
    pub fn image(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Error::Image { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// An unusable data set at `path`.
    pub fn dataset(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Error::Dataset { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// An unusable detector, state or weights file at `path`.
    pub fn file(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// A value that `op` cannot work with.
    pub fn argument(
        op: &'static str,
        arg: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Error::Argument { op, arg, expected: expected.into(), got: got.to_string() }
    }
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
