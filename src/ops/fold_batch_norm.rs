//! Batch normalisation with fixed statistics, as part of the convolution before it.

use super::expect_shape;
use crate::error::{Error, Result};

/// The parameters and statistics of a batch normalisation: y = scale·(x − mean)/√(variance + ε) + shift,
/// all of one number per channel.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// Multiplies the normalised channel.
    pub scale: &'a [f32],
    /// Is added to it.
    pub shift: &'a [f32],
    /// The channel's mean.
    pub mean: &'a [f32],
    /// The channel's variance.
    pub variance: &'a [f32],
    /// Keeps the root from zero; 1e-3 in EfficientNet.
    pub eps: f64,
}

/// Folds a batch normalisation into the convolution (without a bias) that it follows:
/// weight\[…, o\] ·= scale\[o\]/√(variance\[o\] + ε), bias\[o\] = shift\[o\] − mean\[o\]·scale\[o\]/√(variance\[o\] + ε),
/// computed in f64.
///
/// `weight`: any number of rows of O output channels, so (KH, KW, C, O) or, depthwise, (K, K, C).
/// `bias`: (O), written.
///
/// # Errors
/// [`Error::Shape`] if the lengths do not agree; [`Error::Argument`] if variance\[o\] + ε is not positive.
pub fn fold_batch_norm(norm: BatchNorm, weight: &mut [f32], bias: &mut [f32]) -> Result<()> {
    const OP: &str = "fold_batch_norm";
    let o = [bias.len()];
    expect_shape(OP, "scale", &[norm.scale.len()], &o)?;
    expect_shape(OP, "shift", &[norm.shift.len()], &o)?;
    expect_shape(OP, "mean", &[norm.mean.len()], &o)?;
    expect_shape(OP, "variance", &[norm.variance.len()], &o)?;
    let rows = weight.len() / bias.len().max(1);
    expect_shape(OP, "weight", &[weight.len()], &[rows * bias.len()])?;
    if let Some(bad) = norm.variance.iter().find(|v| f64::from(**v) + norm.eps <= 0.0) {
        return Err(Error::argument(OP, "variance", "positive with ε", bad));
    }
    for (o, bias) in bias.iter_mut().enumerate() {
        let factor = f64::from(norm.scale[o]) / (f64::from(norm.variance[o]) + norm.eps).sqrt();
        for w in weight[o..].iter_mut().step_by(norm.scale.len()) {
            *w = (f64::from(*w) * factor) as f32;
        }
        *bias = (f64::from(norm.shift[o]) - f64::from(norm.mean[o]) * factor) as f32;
    }
    Ok(())
}
