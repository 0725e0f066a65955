//! The positional embedding.

use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// x ← x + position, for every image.
///
/// `x`: (B, N, D); `position`: (N, D).
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn add_position<'a>(
    x: impl Into<TensorViewMut<'a>>,
    position: impl Into<TensorView<'a>>,
) -> Result<()> {
    const OP: &str = "add_position";
    let (x, position) = (x.into(), position.into());
    check(OP, "x", x.shape(), position.shape())?;
    cpu::add_position(x.into_f32s(OP, "x")?, position.f32s(OP, "position")?);
    Ok(())
}

/// dposition += Σ over images of dx.
///
/// `dx`: (B, N, D); `dposition`: (N, D), accumulated.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn add_position_backward<'a>(
    dx: impl Into<TensorView<'a>>,
    dposition: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "add_position_backward";
    let (dx, dposition) = (dx.into(), dposition.into());
    check(OP, "dx", dx.shape(), dposition.shape())?;
    cpu::add_position_backward(dx.f32s(OP, "dx")?, dposition.into_f32s(OP, "dposition")?);
    Ok(())
}

fn check(op: &'static str, arg: &'static str, x: &[usize], position: &[usize]) -> Result<()> {
    match (x, position) {
        ([_, rest @ ..], position) if rest == position && !position.contains(&0) => Ok(()),
        _ => Err(Error::shape(op, arg, format!("(B, …) with … = {position:?}"), x)),
    }
}
