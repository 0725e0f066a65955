//! Simpler methods on the features that a detector sees, to compare it with.
//!
//! | | a cell's value | an image's score |
//! |---|---|---|
//! | [`Padim`] | Mahalanobis distance to the Gaussian of its position | maximum of the map at 256 × 256 |
//! | [`NearestNeighbour`] | distance to the nearest normal patch | maximum over the cells |
//!
//! Each is fitted to the normal images of one category, and has a threshold by a detector's default rule,
//! from images that it was not fitted to. [`evaluate`] divides them as the training of a detector does.

mod evaluate;
mod index;
mod nearest_neighbour;
mod padim;

use rayon::prelude::*;

pub use evaluate::{Baselines, evaluate};
pub use nearest_neighbour::NearestNeighbour;
pub use padim::Padim;

use crate::detect::Moments;
use crate::detect::{AnomalyMap, DEVIATIONS, LONE_SPREAD_STANDING_OUT};
use crate::error::{Error, Result};
use crate::ops::expect_shape;
use crate::tensor::TensorView;

/// A method that holds features of images against those of normal ones: (n, G, G, C), f32, on the CPU, as
/// [`Loaded::extract`](crate::backbones::Loaded::extract) leaves them.
pub trait Baseline: Sized {
    /// Learns what is normal. `features`: (n, G, G, C) of normal images, n ≥ 1.
    ///
    /// # Errors
    /// [`Error::Shape`] if `features` has another shape; [`Error::Argument`] if one is not finite.
    fn fit<'a>(features: impl Into<TensorView<'a>>) -> Result<Self>;

    /// The distances of images to what is normal. `features`: (n, G, G, C), n ≥ 0. An image's map does not depend on
    /// the images beside it.
    ///
    /// # Errors
    /// As [`fit`](Self::fit).
    fn maps<'a>(&self, features: impl Into<TensorView<'a>>) -> Result<Vec<AnomalyMap>>;

    /// The score of an image with this map; larger is less normal.
    fn score(map: &AnomalyMap) -> f64;

    /// The score from which on an image counts as anomalous: 3 standard deviations above the mean of normal
    /// images that the method was not fitted to, as [`Moments::bound`] allows for their number.
    /// `held_out`: (n, G, G, C), n ≥ 1.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no images; as [`fit`](Self::fit).
    fn threshold<'a>(&self, held_out: impl Into<TensorView<'a>>) -> Result<f64> {
        let held_out = held_out.into();
        expect_features("Baseline::threshold", &held_out)?;
        let maps = self.maps(held_out)?;
        let scores: Vec<f64> = maps.par_iter().map(Self::score).collect();
        let moments = Moments::of(scores.iter().copied());
        Ok(match scores[..] {
            [_] => moments.lone(LONE_SPREAD_STANDING_OUT).lone_bound(DEVIATIONS),
            _ => moments.bound(DEVIATIONS),
        })
    }
}

fn maximum(values: &[f32]) -> f64 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max).into()
}

/// The values of (n, G, G, C), and \[n, G, C\].
fn expect_features<'a>(op: &'static str, x: &'a TensorView<'a>) -> Result<(&'a [f32], [usize; 3])> {
    match *x.shape() {
        [n, g, h, c] if g == h && n * g * c > 0 => Ok((finite(op, x)?, [n, g, c])),
        _ => Err(Error::shape(op, "features", "(n, G, G, C), not empty", x.shape())),
    }
}

/// The values of (n, G, G, C), G and C as given.
fn expect_images<'a>(
    op: &'static str,
    x: &'a TensorView<'a>,
    grid: usize,
    channels: usize,
) -> Result<&'a [f32]> {
    let images = x.shape().first().copied().unwrap_or(0);
    expect_shape(op, "features", x.shape(), &[images, grid, grid, channels])?;
    finite(op, x)
}

fn finite<'a>(op: &'static str, x: &'a TensorView<'a>) -> Result<&'a [f32]> {
    let values = x.f32s(op, "features")?;
    match values.par_iter().find_any(|v| !v.is_finite()) {
        Some(bad) => Err(Error::argument(op, "features", "finite", bad)),
        None => Ok(values),
    }
}
