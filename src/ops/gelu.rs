//! GELU, elementwise.

use super::{Activation, expect_shape};
use crate::error::Result;
use crate::tensor::{TensorView, TensorViewMut};

/// y = GELU(x) in its tanh form, as [`Activation::Gelu`] makes it of a linear layer's output.
///
/// `x` and `y`: any shape, the same. On a GPU both hold f16, a multiple of 8
/// numbers.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes differ.
pub fn gelu<'a>(x: impl Into<TensorView<'a>>, y: impl Into<TensorViewMut<'a>>) -> Result<()> {
    const OP: &str = "gelu";
    let (x, y) = (x.into(), y.into());
    expect_shape(OP, "y", y.shape(), x.shape())?;
    on_gpu!(x, crate::cuda::ops::gelu(x, y));
    let (x, y) = (x.f32s(OP, "x")?, y.into_f32s(OP, "y")?);
    y.copy_from_slice(x);
    Activation::Gelu.apply_all(y);
    Ok(())
}
