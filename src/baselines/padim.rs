//! A Gaussian for each position.

use std::fmt;

use nalgebra::{Cholesky, DMatrix, Dyn};
use rayon::prelude::*;

use super::{Baseline, expect_features, expect_images, maximum};
use crate::detect::{AnomalyMap, PIXELS};
use crate::error::{Error, Result};
use crate::gaussian::deviations;
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
/// images. An image's score is the maximum of its map at 256 × 256. Holds G²·C² f64.
pub struct Padim {
    grid: usize,
    channels: usize,
    means: Vec<Vec<f64>>,
    covariances: Vec<Cholesky<f64, Dyn>>,
}

impl fmt::Debug for Padim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Padim")
            .field("grid", &self.grid)
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

impl Baseline for Padim {
    fn fit<'a>(features: impl Into<TensorView<'a>>) -> Result<Self> {
        let features = features.into();
        let (x, [_, grid, channels]) = expect_features("Padim::fit", &features)?;
        let positions = grid * grid;
        let images: Vec<&[f32]> = x.chunks_exact(positions * channels).collect();
        let (means, own): (Vec<_>, Vec<_>) = (0..positions)
            .into_par_iter()
            .map(|p| {
                let mean = deviations(&images, p, &vec![0.0; channels]).column_mean();
                let mean = mean.as_slice().to_vec();
                let off = deviations(&images, p, &mean);
                let covariance = &off * off.transpose() / (images.len().max(2) - 1) as f64;
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

    fn maps<'a>(&self, features: impl Into<TensorView<'a>>) -> Result<Vec<AnomalyMap>> {
        let features = features.into();
        let x = expect_images("Padim::maps", &features, self.grid, self.channels)?;
        let images: Vec<&[f32]> = x.chunks_exact(self.means.len() * self.channels).collect();
        // A position's covariance, which is large, is read once for all images.
        let gaussians = self.means.par_iter().zip(&self.covariances).enumerate();
        let distances = gaussians.map(|(p, (mean, covariance))| {
            let mut off = deviations(&images, p, mean);
            covariance.l_dirty().solve_lower_triangular_unchecked_mut(&mut off);
            off.column_iter().map(|off| off.norm() as f32).collect()
        });
        let distances: Vec<Vec<f32>> = distances.collect();
        let map = |i: usize| distances.iter().map(|position| position[i]).collect();
        (0..images.len()).map(|i| AnomalyMap::new(self.grid, map(i))).collect()
    }

    fn score(map: &AnomalyMap) -> f64 {
        maximum(&map.resize(PIXELS, PIXELS).expect("a size that is not 0"))
    }
}
