//! Nearest-neighbour resizing of masks.

use super::resize_antialias::check_image;
use crate::cpu;
use crate::error::Result;

/// Resizes an image of one byte per pixel, every output being the input under its centre: what
/// Pillow's `resize(…, NEAREST)` gives.
///
/// `src`: height × width with `from` = (height, width); `dst` likewise with `to`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if a slice has not as many bytes as its size says;
/// [`Error::Argument`](crate::Error::Argument) if a side is zero.
pub fn resize_nearest(src: &[u8], from: [usize; 2], dst: &mut [u8], to: [usize; 2]) -> Result<()> {
    const OP: &str = "resize_nearest";
    check_image(OP, ["src", "from"], src.len(), from, 1)?;
    check_image(OP, ["dst", "to"], dst.len(), to, 1)?;
    cpu::resize_nearest(src, from, dst, to);
    Ok(())
}
