//! Distance of a latent from the Gaussian prior.

use super::{expect_shape, inversion_step};
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

const OP: &str = "score";

/// Columns of [`score`]'s `stats`.
pub const SCORE_STATS: usize = 5;

/// map(p) = ‖z_p‖₂ over channels, and for each image the five numbers
/// (max map, min map, Abs = max − min, mean of the 5 largest, ½·Σz²). The last is the part of NLL that differs between
/// latents: [`negative_log_likelihood`].
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
    let (latent, map, stats) = (latent.into(), map.into(), stats.into());
    let sizes = check("latent", latent.shape(), &map, &stats)?;
    on_gpu!(latent, crate::cuda::ops::score(latent, None, map, stats));
    let (map, stats) = (map.into_f32s(OP, "map")?, stats.into_f32s(OP, "stats")?);
    cpu::score(latent.f32s(OP, "latent")?, map, stats, sizes);
    Ok(())
}

/// NLL = ½·Σz² + ½·C·N·ln 2π in nats, of a latent under the Gaussian of variance 1: `half_squares`, ½·Σz² as [`score`] gives it,
/// of `numbers`, C·N. In f64, since the second term is the larger and the same for all: in f32 it would swallow the
/// difference between two latents where they are small, as those of a network that has hardly been trained.
pub fn negative_log_likelihood(half_squares: f32, numbers: usize) -> f64 {
    f64::from(half_squares) + 0.5 * numbers as f64 * std::f64::consts::TAU.ln()
}

/// The last step of an inversion and the [`score`] of the latent it leads to, z = a·x + b·output: on a
/// GPU without storing z. What is in `x` afterwards is not defined.
///
/// `x`, `output`: (B, N, C), on a GPU `output` holds f16; `map`: (B, N); `stats`: (B, 5).
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn score_step<'a>(
    x: impl Into<TensorViewMut<'a>>,
    output: impl Into<TensorView<'a>>,
    [a, b]: [f32; 2],
    map: impl Into<TensorViewMut<'a>>,
    stats: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    let (mut x, output, map, stats) = (x.into(), output.into(), map.into(), stats.into());
    check("x", x.shape(), &map, &stats)?;
    expect_shape(OP, "output", output.shape(), x.shape())?;
    on_gpu!(x, crate::cuda::ops::score(x.view(), Some((output, a, b)), map, stats));
    inversion_step(x.reborrow(), output, a, b)?;
    score(x.view(), map, stats)
}

/// N and C.
fn check(
    arg: &'static str,
    shape: &[usize],
    map: &TensorViewMut,
    stats: &TensorViewMut,
) -> Result<(usize, usize)> {
    let &[images, tokens, channels] = shape else {
        return Err(Error::shape(OP, arg, "(B, N, C)", shape));
    };
    if tokens * channels == 0 {
        return Err(Error::shape(OP, arg, "(B, N ≥ 1, C ≥ 1)", shape));
    }
    expect_shape(OP, "map", map.shape(), &[images, tokens])?;
    expect_shape(OP, "stats", stats.shape(), &[images, SCORE_STATS])?;
    Ok((tokens, channels))
}
