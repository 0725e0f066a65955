//! One Euler step of DDIM inversion.

use super::expect_shape;
use crate::cpu;
use crate::error::Result;
use crate::tensor::{TensorView, TensorViewMut};

/// x ← a·x + b·output.
///
/// With ε-prediction, a = √(ᾱ′/ᾱ) and b = √(1−ᾱ′) − √ᾱ′·√(1/ᾱ − 1) take x from noise level ᾱ to ᾱ′;
/// [`ddim_factors`](crate::diffusion::Parameterisation::ddim_factors) gives the factors of
/// either parameterisation. `x`, `output`: any shape, the same. On a GPU `output` holds f16.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes differ.
pub fn inversion_step<'a>(
    x: impl Into<TensorViewMut<'a>>,
    output: impl Into<TensorView<'a>>,
    a: f32,
    b: f32,
) -> Result<()> {
    const OP: &str = "inversion_step";
    let (x, output) = (x.into(), output.into());
    expect_shape(OP, "output", output.shape(), x.shape())?;
    on_gpu!(x, crate::cuda::ops::inversion_step(x, output, a, b));
    cpu::inversion_step(x.into_f32s(OP, "x")?, output.f32s(OP, "output")?, a, b);
    Ok(())
}
