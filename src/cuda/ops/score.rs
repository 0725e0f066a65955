//! `kernels/score.cu` and `kernels/score_stats.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Norms of a latent (f32) and each image's stats; with a step (output, a, b) the latent is
/// a·latent + b·output, output in f16.
pub(crate) fn score(
    latent: TensorView,
    step: Option<(TensorView, f32, f32)>,
    map: TensorViewMut,
    stats: TensorViewMut,
) -> Result<()> {
    let op = Op::new("score", "latent", latent.on_cuda())?;
    op.load("score_stats", &[])?;
    let (images, tokens) = (latent.shape()[0], latent.shape()[1]);
    let n = op.int("latent", tokens)?;
    let rows = op.int("latent", images * tokens)?;
    let channels = op.int("latent", latent.shape()[2])?;
    let latent = op.read("latent", latent, DType::F32)?;
    let (output, a, b) = match step {
        Some((output, a, b)) => (Some(op.read("output", output, DType::F16)?), a, b),
        None => (None, 1.0, 0.0),
    };
    let map = op.write("map", map, DType::F32)?;
    let stats = op.write("stats", stats, DType::F32)?;
    let launch = Launch { grid: [(images * tokens).div_ceil(8), 1, 1], block: 256, shared: 0 };
    let args = args![latent, output, map, rows, channels, a, b];
    // SAFETY: latent and output have `rows` rows of `channels` numbers, map has a number for each.
    unsafe { op.launch("score", &[], launch, &args)? };
    let launch = Launch { grid: [images, 1, 1], block: 32, shared: 0 };
    // SAFETY: map has n numbers for each image, stats five.
    unsafe { op.launch("score_stats", &[], launch, &args![map, stats, n]) }
}
