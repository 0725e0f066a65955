//! The nearest patch of all normal images.

use rayon::prelude::*;

use super::{expect_features, expect_image};
use crate::cpu::gemm::{Epilogue, Mat, Threads, gemm};
use crate::detect::AnomalyMap;
use crate::error::Result;
use crate::tensor::TensorView;

/// Normal patches that an image's are multiplied with at once.
const BLOCK: usize = 4096;

/// The distance of a patch to the nearest patch of any normal image, wherever that lies.
///
/// Features are divided by their standard deviation per channel, taken over the normal images, then
/// averaged over 3 × 3 cells, those beyond the edge counted as 0: PatchCore (Roth et al., 2022)
/// with all patches instead of a selection. Holds n·G²·C f32 for n normal images.
pub struct NearestNeighbour {
    grid: usize,
    channels: usize,
    /// What each channel is multiplied by.
    scale: Vec<f32>,
    /// (n·G², C).
    patches: Vec<f32>,
    /// |patch|² of each.
    squares: Vec<f32>,
}

impl NearestNeighbour {
    /// Keeps the patches of normal images. `features`: (n, G, G, C), n ≥ 1.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if `features` has another shape;
    /// [`Error::Argument`](crate::Error::Argument) if one is not finite.
    pub fn fit<'a>(features: impl Into<TensorView<'a>>) -> Result<Self> {
        let features = features.into();
        let (x, [_, grid, channels]) = expect_features("NearestNeighbour::fit", &features)?;
        let scale = deviations(x, channels);
        // A channel that never varies tells nothing of how much is much.
        let scale: Vec<f32> =
            scale.into_iter().map(|s| if s > 0.0 { (1.0 / s) as f32 } else { 1.0 }).collect();
        let patches: Vec<f32> = x
            .par_chunks_exact(grid * grid * channels)
            .flat_map_iter(|image| pool(image, grid, &scale))
            .collect();
        let squares = patches.par_chunks_exact(channels).map(|p| dot(p, p)).collect();
        Ok(Self { grid, channels, scale, patches, squares })
    }

    /// The distances of an image. `features`: (1, G, G, C).
    ///
    /// # Errors
    /// As [`NearestNeighbour::fit`].
    pub fn map<'a>(&self, features: impl Into<TensorView<'a>>) -> Result<AnomalyMap> {
        let features = features.into();
        let c = self.channels;
        let x = expect_image("NearestNeighbour::map", &features, self.grid, c)?;
        let x = pool(x, self.grid, &self.scale);
        let cells = x.len() / c;
        // |x − p|² = |x|² + |p|² − 2·x·p, of which |x|² does not decide which patch is nearest.
        let mut nearest = vec![(f32::INFINITY, 0); cells];
        let mut products = vec![0.0; cells * BLOCK];
        let blocks = self.patches.chunks(BLOCK * c).zip(self.squares.chunks(BLOCK));
        for (block, (patches, squares)) in blocks.enumerate() {
            let n = squares.len();
            let products = &mut products[..cells * n];
            let b = Mat::new(patches, n, c).t();
            gemm(Mat::new(&x, cells, c), b, products, n, Epilogue::default(), Threads::All);
            let rows = products.par_chunks_exact(n).zip(&mut nearest);
            rows.for_each(|(products, nearest)| {
                for (i, (product, square)) in products.iter().zip(squares).enumerate() {
                    let distance = square - 2.0 * product;
                    if distance < nearest.0 {
                        *nearest = (distance, block * BLOCK + i);
                    }
                }
            });
        }
        // Small distances between long vectors: without the cancellation.
        let distance = |(x, (_, i)): (&[f32], (f32, usize))| {
            let patch = &self.patches[i * c..][..c];
            x.iter().zip(patch).map(|(x, p)| (x - p).powi(2)).sum::<f32>().sqrt()
        };
        AnomalyMap::new(self.grid, x.chunks_exact(c).zip(nearest).map(distance).collect())
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

/// The scaled features of an image, averaged over 3 × 3 cells.
fn pool(image: &[f32], grid: usize, scale: &[f32]) -> Vec<f32> {
    let channels = scale.len();
    let mut pooled = vec![0.0; image.len()];
    let around = |at: usize| at.saturating_sub(1)..(at + 2).min(grid);
    for (cell, out) in pooled.chunks_exact_mut(channels).enumerate() {
        for (y, x) in around(cell / grid).flat_map(|y| around(cell % grid).map(move |x| (y, x))) {
            let from = &image[(y * grid + x) * channels..][..channels];
            out.iter_mut().zip(from).for_each(|(out, v)| *out += v);
        }
        out.iter_mut().zip(scale).for_each(|(out, s)| *out *= s / 9.0);
    }
    pooled
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
