//! The positional embedding.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// x = tokens + position, for every image: the beginning of the residual stream.
///
/// `tokens`: (B, T, D) with T ≤ N; `position`: (N, D); `x`: (B, N, D). Where there are fewer tokens they belong to the
/// last positions, and the first rows of `x` are the position alone, as those of a class token are. On a GPU `tokens` hold f16, `x` f32 or f16, and D is
/// a multiple of 8.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn add_position<'a>(
    tokens: impl Into<TensorView<'a>>,
    position: impl Into<TensorView<'a>>,
    x: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "add_position";
    let (tokens, position, x) = (tokens.into(), position.into(), x.into());
    let &[n, d] = position.shape() else {
        return Err(Error::shape(OP, "position", "(N, D)", position.shape()));
    };
    match *tokens.shape() {
        [b, t, width] if width == d && t <= n && n * d > 0 => {
            expect_shape(OP, "x", x.shape(), &[b, n, d])?;
        }
        ref got => return Err(Error::shape(OP, "tokens", format!("(B, at most {n}, {d})"), got)),
    }
    on_gpu!(tokens, crate::cuda::ops::add_position(tokens, position, x));
    let (tokens, position) = (tokens.f32s(OP, "tokens")?, position.f32s(OP, "position")?);
    cpu::add_position(tokens, position, x.into_f32s(OP, "x")?);
    Ok(())
}

/// dposition += Σ over images of dx.
///
/// `dx`: (B, N, D); `dposition`: (N, D), accumulated; both f32 on a GPU too.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn add_position_backward<'a>(
    dx: impl Into<TensorView<'a>>,
    dposition: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "add_position_backward";
    let (dx, dposition) = (dx.into(), dposition.into());
    match (dx.shape(), dposition.shape()) {
        ([_, rest @ ..], position) if rest == position && !position.contains(&0) => {}
        (got, position) => {
            return Err(Error::shape(OP, "dx", format!("(B, …) with … = {position:?}"), got));
        }
    }
    on_gpu!(dx, crate::cuda::ops::add_position_backward(dx, dposition));
    cpu::add_position_backward(dx.f32s(OP, "dx")?, dposition.into_f32s(OP, "dposition")?);
    Ok(())
}
