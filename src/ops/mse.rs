//! Mean squared error with a weight per image.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// loss\[b\] = w\[b\]·mean((prediction − target)²) over image b; their mean is the batch's loss.
///
/// `prediction`, `target`: (B, …); `weight` (w), `loss`: (B).
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn mse<'a>(
    prediction: impl Into<TensorView<'a>>,
    target: impl Into<TensorView<'a>>,
    weight: impl Into<TensorView<'a>>,
    loss: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "mse";
    let (prediction, target) = (prediction.into(), target.into());
    let (weight, loss) = (weight.into(), loss.into());
    let images = check(OP, prediction.shape(), target.shape(), weight.shape())?;
    expect_shape(OP, "loss", loss.shape(), &[images])?;
    cpu::mse(
        prediction.f32s(OP, "prediction")?,
        target.f32s(OP, "target")?,
        weight.f32s(OP, "weight")?,
        loss.into_f32s(OP, "loss")?,
    );
    Ok(())
}

/// The gradient of the mean of [`mse`]'s losses: 2·w\[b\]·(prediction − target)/n, n the number of
/// elements of the batch.
///
/// `prediction`, `target`, `dprediction`: (B, …), the last written; `weight`: (B).
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn mse_backward<'a>(
    prediction: impl Into<TensorView<'a>>,
    target: impl Into<TensorView<'a>>,
    weight: impl Into<TensorView<'a>>,
    dprediction: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "mse_backward";
    let (prediction, target) = (prediction.into(), target.into());
    let (weight, dprediction) = (weight.into(), dprediction.into());
    check(OP, prediction.shape(), target.shape(), weight.shape())?;
    expect_shape(OP, "dprediction", dprediction.shape(), prediction.shape())?;
    cpu::mse_backward(
        prediction.f32s(OP, "prediction")?,
        target.f32s(OP, "target")?,
        weight.f32s(OP, "weight")?,
        dprediction.into_f32s(OP, "dprediction")?,
    );
    Ok(())
}

fn check(op: &'static str, p: &[usize], target: &[usize], weight: &[usize]) -> Result<usize> {
    let Some(&images) = p.first() else {
        return Err(Error::shape(op, "prediction", "(B, …)", p));
    };
    expect_shape(op, "target", target, p)?;
    expect_shape(op, "weight", weight, &[images])?;
    Ok(images)
}
