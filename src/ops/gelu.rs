//! The derivative of GELU; its forward pass is an epilogue of [`linear`](super::linear).

use super::expect_shape;
use crate::cpu;
use crate::error::Result;
use crate::tensor::{TensorView, TensorViewMut};

/// dx = dy · GELU′(x), GELU in its tanh form ½x(1 + tanh(√(2/π)(x + 0.044715x³))).
///
/// `x`: any shape, what the activation was applied to; `dx`: the same shape, on entry dy, on
/// return dx.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes differ.
pub fn gelu_backward<'a>(
    x: impl Into<TensorView<'a>>,
    dx: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "gelu_backward";
    let (x, dx) = (x.into(), dx.into());
    expect_shape(OP, "dx", dx.shape(), x.shape())?;
    cpu::gelu_backward(x.f32s(OP, "x")?, dx.into_f32s(OP, "dx")?);
    Ok(())
}
