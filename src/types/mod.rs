//! What errors are about: devices and types of numbers.

mod device;
mod dtype;

pub use device::Device;
pub use dtype::DType;
