//! Tokens of a network's blocks as channels of features.

use super::{expect_axes, expect_shape};
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// features[b, t, first_channel + c] = x[b, N − T + t, c]: the last T tokens, those of the patches behind a class token.
///
/// `x`: (B, N, D). `features`: (B, T, F) with T ≤ N, of which channels from `first_channel` on are written and the
/// others left. f32; on a GPU each holds f16 or f32, and D, F and `first_channel` are multiples of 8.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together; [`Error::Argument`] if `features` has not so many channels.
pub fn gather_tokens<'a>(
    x: impl Into<TensorView<'a>>,
    first_channel: usize,
    features: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "gather_tokens";
    let (x, features) = (x.into(), features.into());
    let [b, n, d] = expect_axes(OP, "x", x.shape(), "(B, N, D)")?;
    let [_, t, all] = expect_axes(OP, "features", features.shape(), "(B, T, F)")?;
    expect_shape(OP, "features", features.shape(), &[b, t.min(n), all])?;
    if first_channel.checked_add(d).is_none_or(|end| end > all) {
        let expected = format!("such that {d} channels from it on are among {all}");
        return Err(Error::argument(OP, "first_channel", expected, first_channel));
    }
    on_gpu!(x, crate::cuda::ops::gather_tokens(x, features, first_channel));
    let sizes = cpu::TokenSizes { tokens: n, width: d, taken: t, channels: all };
    let (x, features) = (x.f32s(OP, "x")?, features.into_f32s(OP, "features")?);
    cpu::gather_tokens(x, features, first_channel, sizes);
    Ok(())
}
