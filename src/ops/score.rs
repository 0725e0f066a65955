//! Distance of a latent from the Gaussian prior.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// Columns of [`score`]'s `stats`.
pub const SCORE_STATS: usize = 5;

/// map(p) = ‖z_p‖₂ over channels, and for each image the five numbers
/// (max map, min map, Abs = max − min, mean of the 5 largest, NLL = ½·Σz² + ½·C·N·ln 2π).
///
/// `latent` (z): (B, N, C); `map`: (B, N); `stats`: (B, 5). Where N < 5 the mean is over N.
/// A NaN anywhere in a latent makes all of its image's stats NaN.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn score<'a>(
    latent: impl Into<TensorView<'a>>,
    map: impl Into<TensorViewMut<'a>>,
    stats: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "score";
    let (latent, map, stats) = (latent.into(), map.into(), stats.into());
    let [images, tokens, channels] = *latent.shape() else {
        return Err(Error::shape(OP, "latent", "(B, N, C)", latent.shape()));
    };
    if tokens * channels == 0 {
        return Err(Error::shape(OP, "latent", "(B, N ≥ 1, C ≥ 1)", latent.shape()));
    }
    expect_shape(OP, "map", map.shape(), &[images, tokens])?;
    expect_shape(OP, "stats", stats.shape(), &[images, SCORE_STATS])?;
    on_gpu!(latent, crate::cuda::ops::score(latent, map, stats));
    let (map, stats) = (map.into_f32s(OP, "map")?, stats.into_f32s(OP, "stats")?);
    cpu::score(latent.f32s(OP, "latent")?, map, stats, (tokens, channels));
    Ok(())
}
