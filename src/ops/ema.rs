//! Exponential moving average of parameters.

use super::expect_shape;
use crate::cpu;
use crate::error::Result;
use crate::tensor::{TensorView, TensorViewMut};

/// average ← decay·average + (1 − decay)·parameters.
///
/// `average`, `parameters`: any shape, the same.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes differ.
pub fn ema<'a>(
    decay: f64,
    parameters: impl Into<TensorView<'a>>,
    average: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "ema";
    let (parameters, average) = (parameters.into(), average.into());
    expect_shape(OP, "average", average.shape(), parameters.shape())?;
    cpu::ema(decay, parameters.f32s(OP, "parameters")?, average.into_f32s(OP, "average")?);
    Ok(())
}
