//! What networks compute with.

use std::fmt;

use super::{DType, Device, Products};

/// The numbers that a network computes with: its weights, and what lies between its operations. Sums, statistics and
/// what is added up over many layers or steps are f32 with any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Precision {
    dtype: DType,
    products: Option<Products>,
}

impl Precision {
    /// 32-bit floats: what the CPU has operations for.
    pub const F32: Self = Self { dtype: DType::F32, products: None };
    /// 16-bit floats: what a GPU has operations for.
    pub const F16: Self = Self { dtype: DType::F16, products: None };

    /// The one that a device has all operations for.
    pub fn of(device: Device) -> Self {
        match device {
            Device::Cpu => Self::F32,
            Device::Cuda(_) => Self::F16,
        }
    }

    /// The same, but in evaluations the linear layers between a network's first and its last multiply other
    /// numbers, if any are given.
    pub fn with_products(self, products: Option<Products>) -> Self {
        Self { products, ..self }
    }

    /// The type of what lies between operations, and of the weights that they read.
    pub fn dtype(self) -> DType {
        self.dtype
    }

    /// What the linear layers of evaluations multiply, where it is not that type.
    pub fn products(self) -> Option<Products> {
        self.products
    }
}

impl fmt::Display for Precision {
    /// What the linear layers of evaluations multiply.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.products, self.dtype) {
            (Some(products), _) => products.fmt(f),
            (None, DType::F32) => f.write_str("f32"),
            (None, _) => f.write_str("f16"),
        }
    }
}
