//! What tensors hold.

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of a 32-bit IEEE float.
    BF16,
    /// 8-bit unsigned: images' bytes, and codes of [`EightBits`](crate::EightBits).
    U8,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::U8 => 1,
        }
    }
}

/// A number as a byte: rounded, and the nearest that there is; 0 for NaN.
pub(crate) fn to_u8(x: f32) -> u8 {
    x.round() as u8
}
