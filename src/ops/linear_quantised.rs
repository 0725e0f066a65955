//! Linear layers of numbers of eight bits.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};
use crate::types::EightBits;

/// The most terms whose sum of products of integers fits 32 bits.
const MOST_TERMS: usize = i32::MAX as usize / (127 * 127);

/// What [`quantise`](super::quantise) makes.
#[derive(Clone, Copy, Debug)]
pub struct Quantised<'a> {
    /// (…, K), u8.
    pub codes: TensorView<'a>,
    /// (rows), or (1) for one of all; f32.
    pub scales: TensorView<'a>,
    /// What the codes are of.
    pub format: EightBits,
}

/// y = x · weightᵀ + bias, where both are quantised: Σ decode(x)·decode(weight), times the scales of row and column.
///
/// `x`: (…, K); `weight`: (N, K), of the same format; `bias`: (N), f32; `y`: (…, N), f32. Sums of integers are exact and
/// rounded once, those of E4M3 are f32. On a GPU there are codes of [`EightBits::Int8`] by a scale of each row, and K is a
/// multiple of 16.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together; [`Error::Argument`] if the formats differ, or for integers where K
/// is above 133,144, for which sums could overflow.
pub fn linear_quantised<'a>(
    x: Quantised<'a>,
    weight: Quantised<'a>,
    bias: Option<TensorView<'a>>,
    y: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "linear_quantised";
    let y = y.into();
    let &[n, k] = weight.codes.shape() else {
        return Err(Error::shape(OP, "weight", "(N, K)", weight.codes.shape()));
    };
    let Some((&last, rows)) = x.codes.shape().split_last() else {
        return Err(Error::shape(OP, "x", "(…, K)", x.codes.shape()));
    };
    if last != k {
        return Err(Error::shape(OP, "x", format!("(…, {k})"), x.codes.shape()));
    }
    expect_shape(OP, "y", y.shape(), &[rows, &[n]].concat())?;
    if let Some(bias) = &bias {
        expect_shape(OP, "bias", bias.shape(), &[n])?;
    }
    let m: usize = rows.iter().product();
    for (arg, scales, rows) in [("x's scales", x.scales, m), ("weight's scales", weight.scales, n)]
    {
        if scales.shape() != [rows] && scales.shape() != [1] {
            return Err(Error::shape(OP, arg, format!("[{rows}] or [1]"), scales.shape()));
        }
    }
    if x.format != weight.format {
        let expected = format!("{:?}, as x is", x.format);
        return Err(Error::argument(OP, "weight", expected, format!("{:?}", weight.format)));
    }
    require_terms(OP, x.format, k)?;
    on_gpu!(x.codes, crate::cuda::ops::linear_quantised(x, weight, bias, y, (m, k, n)));
    cpu::linear_quantised(
        (x.codes.u8s(OP, "x")?, x.scales.f32s(OP, "x's scales")?),
        (weight.codes.u8s(OP, "weight")?, weight.scales.f32s(OP, "weight's scales")?),
        x.format,
        bias.map(|bias| bias.f32s(OP, "bias")).transpose()?,
        y.into_f32s(OP, "y")?,
        (m, k, n),
    );
    Ok(())
}

/// Whether sums of so many terms are exact.
pub(super) fn require_terms(op: &'static str, format: EightBits, k: usize) -> Result<()> {
    match format {
        EightBits::Int8 if k > MOST_TERMS => {
            let expected = format!("of at most {MOST_TERMS} terms");
            Err(Error::argument(op, "weight", expected, k))
        }
        _ => Ok(()),
    }
}
