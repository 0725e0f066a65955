//! What networks compute with.

use super::{DType, Device};

/// The numbers that a network computes with: its weights, and what lies between its operations. Sums, statistics and
/// what is added up over many layers or steps are f32 with either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floats: what the CPU has operations for.
    F32,
    /// 16-bit floats: what a GPU has operations for.
    F16,
}

impl Precision {
    /// The one that a device has all operations for.
    pub fn of(device: Device) -> Self {
        match device {
            Device::Cpu => Self::F32,
            Device::Cuda(_) => Self::F16,
        }
    }

    /// The type of what lies between operations, and of the weights that they read.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }
}
