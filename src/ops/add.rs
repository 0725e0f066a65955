//! Addition, elementwise.

use super::expect_shape;
use crate::cpu;
use crate::error::Result;
use crate::tensor::{TensorView, TensorViewMut};

/// y += x.
///
/// `x` and `y`: any shape, the same. On a GPU each holds f16 or f32; the sum is rounded once.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes differ.
pub fn add<'a>(y: impl Into<TensorViewMut<'a>>, x: impl Into<TensorView<'a>>) -> Result<()> {
    const OP: &str = "add";
    let (y, x) = (y.into(), x.into());
    expect_shape(OP, "y", y.shape(), x.shape())?;
    on_gpu!(x, crate::cuda::ops::add(y, x));
    cpu::add(y.into_f32s(OP, "y")?, x.f32s(OP, "x")?);
    Ok(())
}
