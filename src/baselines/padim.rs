//! A Gaussian for each position.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use rayon::prelude::*;

use super::{expect_features, expect_image};
use crate::detect::AnomalyMap;
use crate::error::{Error, Result};
use crate::tensor::TensorView;

/// The share of a position's own covariance; the rest is that of all positions pooled.
const OWN: f64 = 0.5;
/// Added to the diagonal, in parts of the mean variance.
const SHRINKAGE: f64 = 0.01;
/// The least that is added, so that images which do not differ at all leave a distance to divide
/// by.
const FLOOR: f64 = 1e-12;

/// The Mahalanobis distance of a feature to the normal ones of its position.
///
/// At each position p, with S_p the covariance over images (of n − 1) and G the mean of S_p over
/// positions, Σ_p = ½·S_p + ½·G + 0.01·tr(G)/C·I: distance √((x − μ_p)ᵀ·Σ_p⁻¹·(x − μ_p)). After
/// PaDiM (Defard et al., 2020), whose covariances are the positions' own; pooling makes up for few
/// images. Holds G²·C² f64.
pub struct Padim {
    grid: usize,
    channels: usize,
    means: Vec<DVector<f64>>,
    covariances: Vec<Cholesky<f64, Dyn>>,
}

impl Padim {
    /// The Gaussians of normal images. `features`: (n, G, G, C), n ≥ 1.
    ///
    /// # Errors
    /// [`Error::Shape`] if `features` has another shape; [`Error::Argument`] if one is not finite.
    pub fn fit<'a>(features: impl Into<TensorView<'a>>) -> Result<Self> {
        let features = features.into();
        let (x, [images, grid, channels]) = expect_features("Padim::fit", &features)?;
        let positions = grid * grid;
        let (means, own): (Vec<_>, Vec<_>) = (0..positions)
            .into_par_iter()
            .map(|p| {
                let at = |c: usize, i: usize| f64::from(x[(i * positions + p) * channels + c]);
                let mut x = DMatrix::from_fn(channels, images, at);
                let mean = x.column_mean();
                x.column_iter_mut().for_each(|mut column| column -= &mean);
                let covariance = &x * x.transpose() / (images.max(2) - 1) as f64;
                (mean, covariance)
            })
            .unzip();
        let zero = DMatrix::zeros(channels, channels);
        let pooled = own.iter().fold(zero, |sum, own| sum + own) / positions as f64;
        let ridge = (SHRINKAGE * pooled.trace() / channels as f64).max(FLOOR);
        let shared = (1.0 - OWN) * pooled + DMatrix::identity(channels, channels) * ridge;
        let covariances: Option<Vec<_>> =
            own.into_par_iter().map(|own| Cholesky::new(OWN * own + &shared)).collect();
        let covariances = covariances.ok_or_else(|| {
            Error::argument("Padim::fit", "features", "of a covariance that can be inverted", "not")
        })?;
        Ok(Self { grid, channels, means, covariances })
    }

    /// The distances of an image. `features`: (1, G, G, C).
    ///
    /// # Errors
    /// [`Error::Shape`] if `features` has another shape; [`Error::Argument`] if one is not finite.
    pub fn map<'a>(&self, features: impl Into<TensorView<'a>>) -> Result<AnomalyMap> {
        let features = features.into();
        let x = expect_image("Padim::map", &features, self.grid, self.channels)?;
        let gaussians = self.means.par_iter().zip(&self.covariances);
        let distances = gaussians.zip(x.par_chunks_exact(self.channels)).map(|(gaussian, x)| {
            let (mean, covariance) = gaussian;
            let mut off = DVector::from_iterator(x.len(), x.iter().map(|&v| f64::from(v))) - mean;
            covariance.l_dirty().solve_lower_triangular_unchecked_mut(&mut off);
            off.norm() as f32
        });
        AnomalyMap::new(self.grid, distances.collect())
    }
}
