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

impl AdamW {
    /// How many numbers a step has.
    pub const NUMBERS: usize = 11;

    /// The numbers of step `step` = 1, 2, …, which [`global_norm`] and [`adamw`] take as a tensor, so
    /// that recorded work can be run again at the next step.
    ///
    /// `loss_scale`: what the gradient is to be divided by; `average_decay`: the decay of the
    /// average of the parameters.
    ///
    /// # Errors
    /// [`Error::Argument`] if `step` is 0.
    pub fn numbers(
        &self,
        step: u64,
        loss_scale: f64,
        average_decay: f64,
    ) -> Result<[f32; Self::NUMBERS]> {
        if step == 0 {
            return Err(Error::argument("adamw", "step", "1 or more", step));
        }
        let k = step as i32;
        Ok([
            1.0 / loss_scale,
            self.beta1,
            1.0 - self.beta1,
            self.beta2,
            1.0 - self.beta2,
            1.0 - self.learning_rate * self.weight_decay,
            self.learning_rate / (1.0 - self.beta1.powi(k)),
            1.0 / (1.0 - self.beta2.powi(k)).sqrt(),
            self.eps,
            1.0 - average_decay,
            // Which random numbers round the moments; f32 can tell 2²⁴ steps apart.
            step as f64,
        ]
        .map(|x| x as f32))
    }
}

/// norm\[0\] = ‖gradient‖₂ / `loss_scale`, over all elements; norm\[1\] = what the gradient is to be
/// multiplied by, min(1, `max_norm`/(norm\[0\] + 1e-6)) / `loss_scale`, or NaN where the norm is not
/// finite.
///
/// `numbers`: those of the step ([`AdamW::numbers`]); `norm`: (2), written.
///
/// # Errors
/// [`Error::Shape`] if `numbers` or `norm` has another shape.
pub fn global_norm<'a>(
    gradient: impl Into<TensorView<'a>>,
    max_norm: f64,
    numbers: impl Into<TensorView<'a>>,
    norm: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "global_norm";
    let (gradient, numbers, norm) = (gradient.into(), numbers.into(), norm.into());
    expect_shape(OP, "numbers", numbers.shape(), &[AdamW::NUMBERS])?;
    expect_shape(OP, "norm", norm.shape(), &[2])?;
    on_gpu!(gradient, crate::cuda::ops::global_norm(gradient, max_norm, numbers, norm));
    let (gradient, numbers) = (gradient.f32s(OP, "gradient")?, numbers.f32s(OP, "numbers")?);
    cpu::global_norm(gradient, max_norm, numbers[0], norm.into_f32s(OP, "norm")?);
    Ok(())
}

/// What a step of AdamW moves, all of one shape.
#[derive(Debug)]
pub struct Moved<'a> {
    /// The parameters (p).
    pub parameters: TensorViewMut<'a>,
    /// The first moment (m).
    pub m: TensorViewMut<'a>,
    /// The second moment (v).
    pub v: TensorViewMut<'a>,
    /// The average (a) of the parameters over the steps, if it is kept here.
    pub average: Option<TensorViewMut<'a>>,
    /// Receives the parameters in f16, on a GPU.
    pub rounded: Option<TensorViewMut<'a>>,
}

/// One step of AdamW (Loshchilov & Hutter, 2019) with the gradient g = norm\[1\]·`gradient`:
/// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²,
/// p ← p·(1 − lr·decay) − lr·(m/(1−β₁ᵏ)) / (√v/√(1−β₂ᵏ) + ε) at step k = 1, 2, …,
/// a ← a + (1 − average_decay)·(p − a).
///
/// Nothing is moved if norm\[1\] is NaN. `gradient`: shaped like the parameters; `numbers`: those of
/// the step ([`AdamW::numbers`]); `norm`: (2), as [`global_norm`] leaves it. On a GPU both moments may
/// hold bf16; they are then rounded at random, without bias, from `seed`, step and element.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together; [`Error::Argument`] if `rounded` is given
/// on the CPU.
pub fn adamw<'a>(
    gradient: impl Into<TensorView<'a>>,
    numbers: impl Into<TensorView<'a>>,
    norm: impl Into<TensorView<'a>>,
    seed: u64,
    moved: Moved<'a>,
) -> Result<()> {
    const OP: &str = "adamw";
    let (gradient, numbers, norm) = (gradient.into(), numbers.into(), norm.into());
    expect_shape(OP, "numbers", numbers.shape(), &[AdamW::NUMBERS])?;
    expect_shape(OP, "norm", norm.shape(), &[2])?;
    let shape = moved.parameters.shape();
    expect_shape(OP, "gradient", gradient.shape(), shape)?;
    expect_shape(OP, "m", moved.m.shape(), shape)?;
    expect_shape(OP, "v", moved.v.shape(), shape)?;
    for (arg, optional) in [("average", &moved.average), ("rounded", &moved.rounded)] {
        optional.as_ref().map_or(Ok(()), |t| expect_shape(OP, arg, t.shape(), shape))?;
    }
    on_gpu!(gradient, crate::cuda::ops::adamw(gradient, numbers, norm, seed, moved));
    let _ = seed; // The CPU rounds no moments.
    let Moved { parameters, m, v, average, rounded } = moved;
    if rounded.is_some() {
        return Err(Error::argument(OP, "rounded", "none on the CPU", "some"));
    }
    cpu::adamw(
        gradient.f32s(OP, "gradient")?,
        numbers.f32s(OP, "numbers")?,
        norm.f32s(OP, "norm")?[1],
        parameters.into_f32s(OP, "parameters")?,
        m.into_f32s(OP, "m")?,
        v.into_f32s(OP, "v")?,
        average.map(|a| a.into_f32s(OP, "average")).transpose()?,
    );
    Ok(())
}
