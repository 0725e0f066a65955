//! What errors are about: devices and types of numbers.

mod device;
mod dtype;
mod eight_bits;
mod features;
mod precision;
mod products;
#[macro_use]
mod setters;

pub use device::Device;
pub use dtype::DType;
pub(crate) use dtype::to_u8;
pub use eight_bits::EightBits;
pub use features::FeatureShape;
pub use precision::Precision;
pub use products::Products;
