//! Noising: a sum of two tensors with two factors per image.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// out = a\[b\]·x + s\[b\]·noise for image b.
///
/// With a = √ᾱ_t and s = √(1−ᾱ_t) it is the forward process x_t; with a = −√(1−ᾱ_t) and s = √ᾱ_t
/// the velocity v. `x`, `noise`, `out`: (B, …); `signal_scale` (a), `noise_scale` (s): (B). On a GPU
/// `x` holds f16, the others f32.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn add_noise<'a>(
    x: impl Into<TensorView<'a>>,
    noise: impl Into<TensorView<'a>>,
    signal_scale: impl Into<TensorView<'a>>,
    noise_scale: impl Into<TensorView<'a>>,
    out: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "add_noise";
    let (x, noise, out) = (x.into(), noise.into(), out.into());
    let (signal_scale, noise_scale) = (signal_scale.into(), noise_scale.into());
    let Some(&images) = x.shape().first() else {
        return Err(Error::shape(OP, "x", "(B, …)", x.shape()));
    };
    expect_shape(OP, "noise", noise.shape(), x.shape())?;
    expect_shape(OP, "out", out.shape(), x.shape())?;
    expect_shape(OP, "signal_scale", signal_scale.shape(), &[images])?;
    expect_shape(OP, "noise_scale", noise_scale.shape(), &[images])?;
    on_gpu!(x, crate::cuda::ops::add_noise(x, noise, signal_scale, noise_scale, out));
    cpu::add_noise(
        x.f32s(OP, "x")?,
        noise.f32s(OP, "noise")?,
        signal_scale.f32s(OP, "signal_scale")?,
        noise_scale.f32s(OP, "noise_scale")?,
        out.into_f32s(OP, "out")?,
    );
    Ok(())
}
