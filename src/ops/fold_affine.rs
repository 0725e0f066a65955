//! The weight and bias of LayerNorms, as part of the modulation that follows them.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// Folds the weights and biases of LayerNorms into the modulation of what they normalise, so that
/// [`adaln_zero`](super::adaln_zero), whose LayerNorm has none, computes both:
/// (LN(x)·w + b)·(1 + scale) + shift = LN(x)·(1 + scale') + shift' with scale' = w·(1 + scale) − 1 and
/// shift' = b·(1 + scale) + shift.
///
/// `table`, `folded`: (B, (3S − 1)·D), of each of S sites the vectors shift, scale and, but for the last site, gate,
/// which stays as it is; `affine`: (S, 2, D), weight and bias of each. On a GPU all hold f32.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn fold_affine<'a>(
    table: impl Into<TensorView<'a>>,
    affine: impl Into<TensorView<'a>>,
    folded: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "fold_affine";
    let (table, affine, folded) = (table.into(), affine.into(), folded.into());
    let sizes = check(OP, table.shape(), affine.shape())?;
    expect_shape(OP, "folded", folded.shape(), table.shape())?;
    on_gpu!(table, crate::cuda::ops::fold_affine(table, affine, folded, sizes));
    let (table, affine) = (table.f32s(OP, "table")?, affine.f32s(OP, "affine")?);
    cpu::fold_affine(table, affine, folded.into_f32s(OP, "folded")?, sizes);
    Ok(())
}

/// The gradients of [`fold_affine`]'s inputs.
///
/// `table`, `affine`: as in the forward pass; `dtable`: shaped like `table`, on entry the gradient of `folded`, on
/// return that of `table`; `daffine`: shaped like `affine`, accumulated. On a GPU all hold f32.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn fold_affine_backward<'a>(
    table: impl Into<TensorView<'a>>,
    affine: impl Into<TensorView<'a>>,
    dtable: impl Into<TensorViewMut<'a>>,
    daffine: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "fold_affine_backward";
    let (table, affine) = (table.into(), affine.into());
    let (dtable, daffine) = (dtable.into(), daffine.into());
    let sizes = check(OP, table.shape(), affine.shape())?;
    expect_shape(OP, "dtable", dtable.shape(), table.shape())?;
    expect_shape(OP, "daffine", daffine.shape(), affine.shape())?;
    on_gpu!(table, crate::cuda::ops::fold_affine_backward(table, affine, dtable, daffine, sizes));
    let (table, affine) = (table.f32s(OP, "table")?, affine.f32s(OP, "affine")?);
    let dtable = dtable.into_f32s(OP, "dtable")?;
    cpu::fold_affine_backward(table, affine, dtable, daffine.into_f32s(OP, "daffine")?, sizes);
    Ok(())
}

/// B, S and D.
fn check(op: &'static str, table: &[usize], affine: &[usize]) -> Result<[usize; 3]> {
    let (sites, width) = match *affine {
        [sites, 2, width] if sites > 0 && width > 0 => (sites, width),
        _ => return Err(Error::shape(op, "affine", "(S, 2, D)", affine)),
    };
    let columns = (3 * sites - 1) * width;
    match *table {
        [images, got] if got == columns => Ok([images, sites, width]),
        _ => Err(Error::shape(op, "table", format!("(B, {columns})"), table)),
    }
}
