//! ReLU6, elementwise.

use super::expect_shape;
use crate::cpu;
use crate::error::Result;
use crate::tensor::{TensorView, TensorViewMut};

/// y = min(max(x, 0), 6).
///
/// `x` and `y`: any shape, the same.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes differ.
pub fn relu6<'a>(x: impl Into<TensorView<'a>>, y: impl Into<TensorViewMut<'a>>) -> Result<()> {
    let (x, y) = (x.into(), y.into());
    expect_shape("relu6", "y", y.shape(), x.shape())?;
    cpu::relu6(x.f32s("relu6", "x")?, y.into_f32s("relu6", "y")?);
    Ok(())
}

/// dx = dy where 0 < y < 6, and 0 elsewhere: from the output, so that a convolution followed by
/// [`Activation::Relu6`](super::Activation::Relu6) need not keep its input.
///
/// `y`, `dy` and `dx`: any shape, the same. `dx` is written.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes differ.
pub fn relu6_backward<'a>(
    y: impl Into<TensorView<'a>>,
    dy: impl Into<TensorView<'a>>,
    dx: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "relu6_backward";
    let (y, dy, dx) = (y.into(), dy.into(), dx.into());
    expect_shape(OP, "dy", dy.shape(), y.shape())?;
    expect_shape(OP, "dx", dx.shape(), y.shape())?;
    cpu::relu6_backward(y.f32s(OP, "y")?, dy.f32s(OP, "dy")?, dx.into_f32s(OP, "dx")?);
    Ok(())
}
