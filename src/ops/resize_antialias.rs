//! Antialiased bilinear resizing of 8-bit RGB images.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};

/// Resizes an 8-bit RGB image, every output the mean of the inputs under a triangle as wide as two
/// output pixels (two input pixels when enlarging). Rows first, rounded to 8 bits, then columns, or
/// the other way round where the height shrinks by more than twice as many pixels as the width; with weights in
/// 22-bit fixed point: bit for bit what `resize(…, BILINEAR)` gives in Pillow 13 (before it, rows always came first).
///
/// `src`: height × width × 3 with `from` = (height, width); `dst` likewise with `to`.
///
/// # Errors
/// [`Error::Shape`] if a slice has not as many bytes as its size says; [`Error::Argument`] if a side
/// is zero.
pub fn resize_antialias(
    src: &[u8],
    from: [usize; 2],
    dst: &mut [u8],
    to: [usize; 2],
) -> Result<()> {
    const OP: &str = "resize_antialias";
    check_image(OP, ["src", "from"], src.len(), from, 3)?;
    check_image(OP, ["dst", "to"], dst.len(), to, 3)?;
    cpu::resize_antialias(src, from, dst, to, &mut cpu::Resize::default());
    Ok(())
}

/// Checks that `len` bytes are an image of `size` = (height, width) with pixels.
pub(super) fn check_image(
    op: &'static str,
    [data, size_arg]: [&'static str; 2],
    len: usize,
    size: [usize; 2],
    channels: usize,
) -> Result<()> {
    // Kept below the size at which an index into the image might overflow.
    let bytes = size[0].checked_mul(size[1]).and_then(|n| n.checked_mul(channels));
    match bytes {
        Some(n) if n > 0 => expect_shape(op, data, &[len], &[n]),
        _ => Err(Error::argument(
            op,
            size_arg,
            "(height, width), both at least 1",
            format!("{size:?}"),
        )),
    }
}
