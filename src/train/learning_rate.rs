//! The learning rate of a step.

use serde::{Deserialize, Serialize};

/// A linear warm-up from `initial` to `peak`, then half a cosine from `peak` to `last`.
///
/// lr(k) = initial + (peak − initial)·k/warmup for k < `warmup`,
/// lr(k) = last + (peak − last)·½(1 + cos(π·(k − warmup)/(total − warmup))) for `warmup` ≤ k < `total`,
/// lr(k) = last from k = `total` on.
///
/// Steps are numbered from 0. The step at which the cosine reaches `last` is thus the one after the
/// last of `total` steps.
///
/// ```
/// let rate = invad::train::LearningRate { initial: 1.0, peak: 5.0, last: 3.0, warmup: 2, total: 6 };
/// let rates: Vec<f64> = [0, 1, 2, 4, 6, u64::MAX].map(|k| rate.at(k)).into();
/// assert_eq!(rates, [1.0, 3.0, 5.0, 4.0, 3.0, 3.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// The rate of step 0.
    pub initial: f64,
    /// The rate of step `warmup`.
    pub peak: f64,
    /// What the rate falls to.
    pub last: f64,
    /// Steps of the warm-up; none if 0.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
}

impl LearningRate {
    /// The rate of step `step`, the first being 0.
    pub fn at(&self, step: u64) -> f64 {
        let &Self { initial, peak, last, warmup, total } = self;
        if step < warmup {
            initial + (peak - initial) * (step as f64 / warmup as f64)
        } else if step < total {
            let progress = (step - warmup) as f64 / (total - warmup) as f64;
            last + (peak - last) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
        } else {
            last
        }
    }
}
