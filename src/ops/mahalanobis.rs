//! Distance to a Gaussian of each position.

use super::{expect_axes, expect_shape};
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// map[b, p] = √(max(0, |y|² − Σ_k (v[p, k]·y)²)), y = x[b, p, ·] − mean[p, ·].
///
/// This is the Mahalanobis distance √(yᵀ·Σ⁻¹·y) to a Gaussian whose covariance at p is the identity
/// and a part of low rank, Σ = I + U·diag(λ)·Uᵀ with orthonormal columns u_k: its inverse is I − VᵀV
/// with rows v_k = √(λ_k/(1 + λ_k))·u_k (Woodbury, "Inverting modified matrices", 1950).
///
/// `x`: (B, P, C), or with other axes before the last that multiply to B·P, as (B, G, G, C) with
/// P = G². `mean`: (P, C), at least one number. `vectors` (v): (P, K, C), K may be 0. `map`: (B, P).
/// On a GPU `x` holds f16 or f32, the rest f32, and C is a multiple of 8.
///
/// Sums are f32: map² is off by some 1e-7 of |y|², of which along u_k all but 1/(1 + λ_k) cancels.
/// Vectors in f16 would be off by 1e-3 of it, so they are f32 on a GPU as well. A row of `x` with a
/// NaN or an infinity, or whose squares overflow, comes out as NaN or infinity.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn mahalanobis<'a>(
    x: impl Into<TensorView<'a>>,
    mean: impl Into<TensorView<'a>>,
    vectors: impl Into<TensorView<'a>>,
    map: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "mahalanobis";
    let (x, mean, vectors, map) = (x.into(), mean.into(), vectors.into(), map.into());
    let [positions, channels] = expect_axes(OP, "mean", mean.shape(), "(P, C)")?;
    if mean.is_empty() {
        return Err(Error::shape(OP, "mean", "(P ≥ 1, C ≥ 1)", mean.shape()));
    }
    let [_, rank, _] = expect_axes(OP, "vectors", vectors.shape(), "(P, K, C)")?;
    expect_shape(OP, "vectors", vectors.shape(), &[positions, rank, channels])?;
    let [images, _] = expect_axes(OP, "map", map.shape(), "(B, P)")?;
    expect_shape(OP, "map", map.shape(), &[images, positions])?;
    if x.len() != map.len() * channels || x.shape().last() != Some(&channels) {
        let expected = format!("(…, {channels}) with {} rows", map.len());
        return Err(Error::shape(OP, "x", expected, x.shape()));
    }
    on_gpu!(x, crate::cuda::ops::mahalanobis(x, mean, vectors, map));
    let (mean, vectors) = (mean.f32s(OP, "mean")?, vectors.f32s(OP, "vectors")?);
    let gaussians = cpu::Gaussians { mean, vectors, positions, rank, channels };
    cpu::mahalanobis(gaussians, x.f32s(OP, "x")?, map.into_f32s(OP, "map")?);
    Ok(())
}
