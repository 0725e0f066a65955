//! AdamW over a flat arena of parameters, with its global norm.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// The constants of an AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// β 0.9 and 0.999, ε 1e-8, no weight decay; the learning rate is 0.
    fn default() -> Self {
        Self { learning_rate: 0.0, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// ‖x‖₂ over all elements.
///
/// # Errors
/// [`Error::DType`](crate::Error::DType) if `x` does not hold f32.
pub fn global_norm<'a>(x: impl Into<TensorView<'a>>) -> Result<f64> {
    Ok(cpu::global_norm(x.into().f32s("global_norm", "x")?))
}

/// The factor that clips gradients of norm `norm` to `max_norm`: min(1, max_norm/(norm + 1e-6)),
/// NaN for a norm of NaN.
pub fn clip_coefficient(norm: f64, max_norm: f64) -> f64 {
    let factor = max_norm / (norm + 1e-6);
    if factor > 1.0 { 1.0 } else { factor }
}

/// One step of AdamW (Loshchilov & Hutter, 2019) with the gradient g = clip·`gradient`:
/// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²,
/// p ← p·(1 − lr·decay) − lr·(m/(1−β₁ᵏ)) / (√v/√(1−β₂ᵏ) + ε) at step k = 1, 2, ….
///
/// `parameters` (p), `gradient`, `m`, `v`: any shape, the same.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Argument`] if `step` is 0.
pub fn adamw<'a>(
    config: AdamW,
    step: u64,
    clip: f64,
    parameters: impl Into<TensorViewMut<'a>>,
    gradient: impl Into<TensorView<'a>>,
    m: impl Into<TensorViewMut<'a>>,
    v: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "adamw";
    let (parameters, gradient) = (parameters.into(), gradient.into());
    let (m, v) = (m.into(), v.into());
    expect_shape(OP, "gradient", gradient.shape(), parameters.shape())?;
    expect_shape(OP, "m", m.shape(), parameters.shape())?;
    expect_shape(OP, "v", v.shape(), parameters.shape())?;
    if step == 0 {
        return Err(Error::argument(OP, "step", "1 or more", step));
    }
    cpu::adamw(
        config,
        step,
        clip,
        parameters.into_f32s(OP, "parameters")?,
        gradient.f32s(OP, "gradient")?,
        m.into_f32s(OP, "m")?,
        v.into_f32s(OP, "v")?,
    );
    Ok(())
}
