//! Whitening: a fixed linear map to features of zero mean and nearly identity covariance.

use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ops::{self, Activation, PackedWeight};
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};

/// Tokens whose sums are taken at once.
const BLOCK: usize = 512;
/// Shrinkage of the covariance, in parts of its mean eigenvalue.
const SHRINKAGE: f64 = 0.03;
/// Added to every eigenvalue, so that constant channels divide by more than 0.
const FLOOR: f64 = 1e-6;

/// z = (x − μ)·U·diag(λ + 0.03·tr(Σ)/C + 1e-6)^(−½) with Σ = U·diag(λ)·Uᵀ, as one linear layer.
#[derive(Debug)]
pub struct Whitening {
    weight: Tensor,
    bias: Tensor,
    packed: PackedWeight,
}

impl Whitening {
    /// The whitening of the tokens of `features`: (…, C), at least one token.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no tokens; [`Error::Argument`] if a feature is not finite.
    pub fn fit<'a>(features: impl Into<TensorView<'a>>) -> Result<Self> {
        const OP: &str = "Whitening::fit";
        let features = features.into();
        let channels = features.shape().last().copied().unwrap_or(0);
        if channels == 0 || features.is_empty() {
            return Err(Error::shape(OP, "features", "(…, C), not empty", features.shape()));
        }
        let x = features.f32s(OP, "features")?;
        let tokens = (x.len() / channels) as f64;
        let mean: Vec<f64> = sum_blocks(x, channels, channels, |block, sums| {
            for token in block.chunks_exact(channels) {
                sums.iter_mut().zip(token).for_each(|(s, &v)| *s += f64::from(v));
            }
        });
        let mean: Vec<f64> = mean.into_iter().map(|s| s / tokens).collect();
        if let Some(bad) = mean.iter().find(|m| !m.is_finite()) {
            return Err(Error::argument(OP, "features", "finite", bad));
        }
        let covariance = sum_blocks(x, channels, channels * channels, |block, sums| {
            let rows = block.len() / channels;
            let centred = DMatrix::from_fn(channels, rows, |c, r| {
                f64::from(block[r * channels + c]) - mean[c]
            });
            sums.copy_from_slice((&centred * centred.transpose()).as_slice());
        });
        let covariance = DMatrix::from_vec(channels, channels, covariance) / tokens;
        let shrinkage = SHRINKAGE * covariance.trace() / channels as f64 + FLOOR;
        let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(covariance);
        let mut weight = Vec::with_capacity(channels * channels);
        let mut bias = Vec::with_capacity(channels);
        for (vector, value) in eigenvectors.column_iter().zip(eigenvalues.iter()) {
            let scale = (value.max(0.0) + shrinkage).sqrt().recip();
            weight.extend(vector.iter().map(|u| (u * scale) as f32));
            bias.push((-scale * vector.iter().zip(&mean).map(|(u, m)| u * m).sum::<f64>()) as f32);
        }
        let device = features.device();
        Self::from_parts(
            Tensor::from_f32(weight, &[channels, channels], device)?,
            Tensor::from_f32(bias, &[channels], device)?,
        )
    }

    /// A whitening whose layer is known. `weight`: (C, C); `bias`: (C).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit together.
    pub fn from_parts(weight: Tensor, bias: Tensor) -> Result<Self> {
        let c = bias.len();
        ops::expect_shape("Whitening", "weight", weight.shape(), &[c, c])?;
        let packed = PackedWeight::new(&weight)?;
        Ok(Self { weight, bias, packed })
    }

    /// The same whitening on a device; on a GPU its weight is rounded to f16, and it takes features in
    /// f16 to f32.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used; [`Error::OutOfMemory`] if it has not
    /// enough memory.
    pub fn on(&self, device: Device) -> Result<Self> {
        Ok(Self {
            weight: self.weight.view().copied_to(device, DType::F32)?,
            bias: self.bias.view().copied_to(device, DType::F32)?,
            packed: PackedWeight::on(device, &self.weight)?,
        })
    }

    /// The layer's weight (C, C) and bias (C).
    pub fn parts(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }

    /// Whitens features. `x`, `z`: (…, C).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit together.
    pub fn apply<'a>(
        &'a self,
        x: impl Into<TensorView<'a>>,
        z: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        ops::linear(x, &self.packed, Some(self.bias.view()), Activation::None, None, z)
    }

    /// Where the layer's numbers are.
    pub fn device(&self) -> Device {
        self.weight.device()
    }
}

/// Sums of `len` numbers over blocks of tokens, added in the order of the blocks.
fn sum_blocks(
    x: &[f32],
    channels: usize,
    len: usize,
    f: impl Fn(&[f32], &mut [f64]) + Sync,
) -> Vec<f64> {
    // A few blocks at a time: their sums are large.
    let mut total = vec![0.0; len];
    for group in x.chunks(16 * BLOCK * channels) {
        let parts: Vec<Vec<f64>> = group
            .par_chunks(BLOCK * channels)
            .map(|block| {
                let mut sums = vec![0.0; len];
                f(block, &mut sums);
                sums
            })
            .collect();
        for part in parts {
            total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
        }
    }
    total
}
