//! What a denoiser's prediction is worth, and the gradient that training starts with.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// What is to be predicted: `signal_scale`\[b\]·`x0` + `noise_scale`\[b\]·`noise` for image b.
///
/// Scales of 0 and 1 make it the noise ε, 1 and 0 the image, −√(1−ᾱ_t) and √ᾱ_t the velocity v.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The image, (B, …).
    pub x0: TensorView<'a>,
    /// The noise, (B, …).
    pub noise: TensorView<'a>,
    /// One number per image, (B).
    pub signal_scale: TensorView<'a>,
    /// One number per image, (B).
    pub noise_scale: TensorView<'a>,
}

/// loss\[b\] = w\[b\]·mean((prediction − target)²) over image b, and
/// dprediction = slope\[b\]·(prediction − target).
///
/// `prediction`, `dprediction`: (B, …); `weight` (w), `slope`, `loss`: (B). `loss` and `dprediction`
/// are written. With slope\[b\] = s·2·w\[b\]/n, n the elements of all images of a step,
/// `dprediction` is s times the gradient of the mean of the step's losses; it may be left out. On a GPU
/// `prediction`, `dprediction` and `x0` hold f16, the others f32.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn denoising_loss<'a>(
    prediction: impl Into<TensorView<'a>>,
    target: Target<'a>,
    weight: impl Into<TensorView<'a>>,
    slope: impl Into<TensorView<'a>>,
    loss: impl Into<TensorViewMut<'a>>,
    dprediction: Option<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "denoising_loss";
    let (prediction, weight, slope) = (prediction.into(), weight.into(), slope.into());
    let loss = loss.into();
    let Some(&images) = prediction.shape().first() else {
        return Err(Error::shape(OP, "prediction", "(B, …)", prediction.shape()));
    };
    for (arg, like) in [("x0", target.x0), ("noise", target.noise)] {
        expect_shape(OP, arg, like.shape(), prediction.shape())?;
    }
    if let Some(d) = &dprediction {
        expect_shape(OP, "dprediction", d.shape(), prediction.shape())?;
    }
    let Target { x0, noise, signal_scale, noise_scale } = target;
    for (arg, shape) in [
        ("signal_scale", signal_scale.shape()),
        ("noise_scale", noise_scale.shape()),
        ("weight", weight.shape()),
        ("slope", slope.shape()),
        ("loss", loss.shape()),
    ] {
        expect_shape(OP, arg, shape, &[images])?;
    }
    on_gpu!(
        prediction,
        crate::cuda::ops::denoising_loss(prediction, target, weight, slope, loss, dprediction)
    );
    cpu::denoising_loss(
        prediction.f32s(OP, "prediction")?,
        cpu::Target {
            x0: x0.f32s(OP, "x0")?,
            noise: noise.f32s(OP, "noise")?,
            signal_scale: signal_scale.f32s(OP, "signal_scale")?,
            noise_scale: noise_scale.f32s(OP, "noise_scale")?,
        },
        weight.f32s(OP, "weight")?,
        slope.f32s(OP, "slope")?,
        loss.into_f32s(OP, "loss")?,
        dprediction.map(|d| d.into_f32s(OP, "dprediction")).transpose()?,
    );
    Ok(())
}
