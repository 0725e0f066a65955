//! Numbers as codes of eight bits.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};
use crate::types::EightBits;

/// scale = max(max |x| / largest, 2⁻¹²⁶), codes = encode(x / scale), of each row or of all numbers.
///
/// `x`: (…, K), f32; `codes`: shaped like `x`, u8; `scales`: (rows), f32, or (1) for one scale of all. A scale of zeros
/// alone is 1. Where there is a number that is not finite the scale is NaN, and so is what is computed with it. On a GPU
/// there are codes of [`EightBits::Int8`] by a scale of each row, `x` may hold f16, and K is a multiple of 8.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn quantise<'a>(
    x: impl Into<TensorView<'a>>,
    format: EightBits,
    codes: impl Into<TensorViewMut<'a>>,
    scales: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "quantise";
    let (x, codes, scales) = (x.into(), codes.into(), scales.into());
    let Some((&k, rows)) = x.shape().split_last() else {
        return Err(Error::shape(OP, "x", "(…, K)", x.shape()));
    };
    let rows: usize = rows.iter().product();
    expect_shape(OP, "codes", codes.shape(), x.shape())?;
    if scales.shape() != [rows] && scales.shape() != [1] {
        return Err(Error::shape(OP, "scales", format!("[{rows}] or [1]"), scales.shape()));
    }
    on_gpu!(x, crate::cuda::ops::quantise(x, format, codes, scales, (rows, k)));
    let (codes, scales) = (codes.into_u8s(OP, "codes")?, scales.into_f32s(OP, "scales")?);
    cpu::quantise(x.f32s(OP, "x")?, format, codes, scales, k);
    Ok(())
}
