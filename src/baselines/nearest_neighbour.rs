//! The nearest patch of all normal images.

use std::fmt;

use rayon::prelude::*;

use super::index::Index;
use super::{Baseline, expect_features, expect_images, maximum};
use crate::detect::AnomalyMap;
use crate::error::Result;
use crate::tensor::TensorView;

/// The distance of a patch to the nearest patch of any normal image, wherever that lies.
///
/// Features are divided by their standard deviation per channel, taken over the normal images, then
/// averaged over 3 × 3 cells, those beyond the edge counted as 0: PatchCore (Roth et al., 2022)
/// with all patches instead of a selection. More than 8192 patches are divided by k-means into about as many
/// lists as the root of their number, and only the 16 lists whose means are nearest are searched: now and then
/// a distance comes out a little too large. An image's score is the maximum over the cells.
/// Holds 2·n·G²·C f32 for n normal images.
pub struct NearestNeighbour {
    grid: usize,
    channels: usize,
    /// What each channel is multiplied by.
    scale: Vec<f32>,
    patches: Index,
}

impl fmt::Debug for NearestNeighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NearestNeighbour")
            .field("grid", &self.grid)
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

impl Baseline for NearestNeighbour {
    fn fit<'a>(features: impl Into<TensorView<'a>>) -> Result<Self> {
        let features = features.into();
        let (x, [_, grid, channels]) = expect_features("NearestNeighbour::fit", &features)?;
        let scale = deviations(x, channels);
        // A channel that never varies tells nothing of how much is much.
        let scale: Vec<f32> =
            scale.into_iter().map(|s| if s > 0.0 { (1.0 / s) as f32 } else { 1.0 }).collect();
        let patches = Index::new(pool(x, grid, &scale), channels);
        Ok(Self { grid, channels, scale, patches })
    }

    fn maps<'a>(&self, features: impl Into<TensorView<'a>>) -> Result<Vec<AnomalyMap>> {
        let features = features.into();
        let x = expect_images("NearestNeighbour::maps", &features, self.grid, self.channels)?;
        let distances = self.patches.distances(&pool(x, self.grid, &self.scale));
        let images = distances.chunks_exact(self.grid * self.grid);
        images.map(|image| AnomalyMap::new(self.grid, image.to_vec())).collect()
    }

    fn score(map: &AnomalyMap) -> f64 {
        maximum(map.values())
    }
}

/// The standard deviation of each channel over all cells.
fn deviations(x: &[f32], channels: usize) -> Vec<f64> {
    let cells = (x.len() / channels) as f64;
    let mean_of = |f: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
        let mut sums = vec![0.0; channels];
        for cell in x.chunks_exact(channels) {
            for (c, (sum, &v)) in sums.iter_mut().zip(cell).enumerate() {
                *sum += f(c, f64::from(v));
            }
        }
        sums.into_iter().map(|sum| sum / cells).collect()
    };
    let means = mean_of(&|_, v| v);
    mean_of(&|c, v| (v - means[c]).powi(2)).into_iter().map(f64::sqrt).collect()
}

/// The scaled features of images, averaged over 3 × 3 cells.
fn pool(images: &[f32], grid: usize, scale: &[f32]) -> Vec<f32> {
    let channels = scale.len();
    let mut pooled = vec![0.0; images.len()];
    let around = |at: usize| at.saturating_sub(1)..(at + 2).min(grid);
    let cells = pooled.par_chunks_exact_mut(channels).enumerate();
    cells.for_each(|(cell, out)| {
        let (image, cell) = (cell / (grid * grid), cell % (grid * grid));
        let image = &images[image * grid * grid * channels..];
        for (y, x) in around(cell / grid).flat_map(|y| around(cell % grid).map(move |x| (y, x))) {
            let from = &image[(y * grid + x) * channels..][..channels];
            out.iter_mut().zip(from).for_each(|(out, v)| *out += v);
        }
        out.iter_mut().zip(scale).for_each(|(out, s)| *out *= s / 9.0);
    });
    pooled
}
