//! Bilinear resizing of feature maps.

use super::{expect_axes, expect_shape};
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// y[b, i, j, c]: x interpolated linearly along both axes at ((i + ½)·H/H' − ½, (j + ½)·W/W' − ½), coordinates
/// clamped to the image. Pixel corners are not aligned and shrinking does not average.
///
/// `x`: (B, H, W, C). `y`: (B, H', W', C), of any size.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not agree or `x` has no pixels.
pub fn resize_bilinear<'a>(
    x: impl Into<TensorView<'a>>,
    y: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "resize_bilinear";
    let (x, y) = (x.into(), y.into());
    let [input, output, [_, c]] = shapes(OP, ["x", "y"], x.shape(), y.shape())?;
    on_gpu!(x, crate::cuda::ops::resize_bilinear(x, y));
    cpu::resize_bilinear(input, output, c, x.f32s(OP, "x")?, y.into_f32s(OP, "y")?);
    Ok(())
}

/// [H, W], [H', W'] and [B, C].
fn shapes(
    op: &'static str,
    args: [&'static str; 2],
    x: &[usize],
    y: &[usize],
) -> Result<[[usize; 2]; 3]> {
    let [b, h, w, c] = expect_axes(op, args[0], x, "(B, H, W, C)")?;
    let [_, out_h, out_w, _] = expect_axes(op, args[1], y, "(B, H', W', C)")?;
    expect_shape(op, args[1], y, &[b, out_h, out_w, c])?;
    if h == 0 || w == 0 {
        return Err(Error::shape(op, args[0], "(B, H, W, C) with at least one pixel", x));
    }
    Ok([[h, w], [out_h, out_w], [b, c]])
}
