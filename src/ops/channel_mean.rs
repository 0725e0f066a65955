//! The mean over an image's pixels: the squeeze of squeeze-excite.

use super::{expect_axes, expect_shape};
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// mean[b, c] = Σ x[b, i, j, c] / (H·W), over i and j (Hu et al., "Squeeze-and-Excitation
/// Networks", 2018).
///
/// `x`: (B, H, W, C), at least one pixel. `mean`: (B, C). On a GPU both hold f16, and C is a
/// multiple of 8.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn channel_mean<'a>(
    x: impl Into<TensorView<'a>>,
    mean: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "channel_mean";
    let (x, mean) = (x.into(), mean.into());
    let [b, h, w, c] = expect_axes(OP, "x", x.shape(), "(B, H, W, C)")?;
    if h * w == 0 {
        return Err(Error::shape(OP, "x", "(B, H ≥ 1, W ≥ 1, C)", x.shape()));
    }
    expect_shape(OP, "mean", mean.shape(), &[b, c])?;
    on_gpu!(x, crate::cuda::ops::channel_mean(x, mean));
    cpu::channel_mean(x.f32s(OP, "x")?, mean.into_f32s(OP, "mean")?, [h * w, c]);
    Ok(())
}
