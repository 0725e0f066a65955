//! RGB to grey.

use super::expect_shape;
use crate::cpu;
use crate::error::Result;

/// luma = 0.299 R + 0.587 G + 0.114 B, rounded: bit for bit Pillow's `convert("L")`.
///
/// `rgb`: bytes of any number of pixels; `luma`: one byte each.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if `luma` has not a third as many bytes as `rgb`.
pub fn rgb_to_luma(rgb: &[u8], luma: &mut [u8]) -> Result<()> {
    expect_shape("rgb_to_luma", "rgb", &[rgb.len()], &[luma.len().saturating_mul(3)])?;
    cpu::rgb_to_luma(rgb, luma);
    Ok(())
}
