//! SiLU, elementwise.

use super::expect_shape;
use crate::cpu;
use crate::error::Result;
use crate::tensor::{TensorView, TensorViewMut};

/// y = x · σ(x).
///
/// `x` and `y`: any shape, the same. On a GPU `y` holds f16, `x` f16 or f32.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes differ.
pub fn silu<'a>(x: impl Into<TensorView<'a>>, y: impl Into<TensorViewMut<'a>>) -> Result<()> {
    let (x, y) = (x.into(), y.into());
    expect_shape("silu", "y", y.shape(), x.shape())?;
    on_gpu!(x, crate::cuda::ops::silu(x, y));
    cpu::silu(x.f32s("silu", "x")?, y.into_f32s("silu", "y")?);
    Ok(())
}

/// dx = dy · σ(x) · (1 + x · (1 − σ(x))).
///
/// `x`, `dy` and `dx`: any shape, the same. `dx` is written. On a GPU `x` holds f16 or f32, and
/// both gradients hold f16 or both f32.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes differ.
pub fn silu_backward<'a>(
    x: impl Into<TensorView<'a>>,
    dy: impl Into<TensorView<'a>>,
    dx: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "silu_backward";
    let (x, dy, dx) = (x.into(), dy.into(), dx.into());
    expect_shape(OP, "dy", dy.shape(), x.shape())?;
    expect_shape(OP, "dx", dx.shape(), x.shape())?;
    on_gpu!(x, crate::cuda::ops::silu_backward(x, dy, dx));
    cpu::silu_backward(x.f32s(OP, "x")?, dy.f32s(OP, "dy")?, dx.into_f32s(OP, "dx")?);
    Ok(())
}
