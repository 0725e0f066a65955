//! Distances to a Gaussian of each position on the host.

use std::array;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Images for which a position's vectors are read once.
const IMAGES: usize = 8;
/// Positions of one task.
const POSITIONS: usize = 16;
/// Vectors multiplied together, with two images: their sums stay in registers.
const ROWS: usize = 4;
/// Channels summed in f32 before the sum goes on in f64.
const BLOCK: usize = 256;

/// A Gaussian of each position.
#[derive(Clone, Copy)]
pub(crate) struct Gaussians<'a> {
    /// (positions, channels).
    pub mean: &'a [f32],
    /// (positions, rank, channels).
    pub vectors: &'a [f32],
    pub positions: usize,
    pub rank: usize,
    pub channels: usize,
}

pub(crate) fn mahalanobis(gaussians: Gaussians, x: &[f32], map: &mut [f32]) {
    let Gaussians { positions, channels, .. } = gaussians;
    map.par_chunks_mut(IMAGES * positions)
        .zip(x.par_chunks(IMAGES * positions * channels))
        .for_each(|(map, x)| {
            let mut rows = map.chunks_exact_mut(positions);
            let map = array::from_fn(|_| rows.next().unwrap_or_default());
            Task { gaussians, x, first: 0, map }.run();
        });
}

/// Distances of a few images at neighbouring positions.
struct Task<'a> {
    gaussians: Gaussians<'a>,
    /// The images, one after another.
    x: &'a [f32],
    /// The first of the positions.
    first: usize,
    /// Of each image its part of the map, empty where there is no image.
    map: [&'a mut [f32]; IMAGES],
}

impl Task<'_> {
    /// In halves, of which another thread may take one.
    fn run(mut self) {
        let positions = self.map[0].len();
        if positions <= POSITIONS {
            return Arch::new().dispatch(self);
        }
        let half = positions / 2;
        let map = self.map.each_mut().map(|map| map.split_off_mut(half..).unwrap_or_default());
        let right = Task { first: self.first + half, map, ..self };
        rayon::join(|| self.run(), || right.run());
    }
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { gaussians, x, first, mut map } = self;
        let Gaussians { positions, rank, channels, .. } = gaussians;
        for i in 0..map[0].len() {
            let position = first + i;
            let mean = &gaussians.mean[position * channels..][..channels];
            let vectors = &gaussians.vectors[position * rank * channels..][..rank * channels];
            let row = |image: usize| &x[(image * positions + position) * channels..][..channels];
            for (pair, map) in map.chunks_exact_mut(2).enumerate() {
                let image = 2 * pair;
                match map {
                    [a, b] if !b.is_empty() => {
                        let x = [row(image), row(image + 1)];
                        [a[i], b[i]] = distances(simd, x, mean, vectors);
                    }
                    [a, _] if !a.is_empty() => {
                        [a[i]] = distances(simd, [row(image)], mean, vectors);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Distances of `N` images at a position. The order of the sums is the same for any `N`.
#[inline(always)]
fn distances<const N: usize, S: Simd>(
    simd: S,
    x: [&[f32]; N],
    mean: &[f32],
    vectors: &[f32],
) -> [f32; N] {
    let mut left = squares(simd, x, mean);
    let mut subtract = |products: [f64; N]| {
        left.iter_mut().zip(products).for_each(|(left, product)| *left -= product * product);
    };
    let channels = mean.len();
    let tiles = vectors.chunks_exact(ROWS * channels);
    let rest = tiles.remainder().chunks_exact(channels);
    for tile in tiles {
        let rows: [&[f32]; ROWS] = array::from_fn(|r| &tile[r * channels..][..channels]);
        products(simd, x, mean, rows).into_iter().for_each(&mut subtract);
    }
    for row in rest {
        products(simd, x, mean, [row]).into_iter().for_each(&mut subtract);
    }
    // Below zero by rounding is zero; NaN stays, and −∞, of vectors or rows too large, becomes one.
    left.map(|d| if d < 0.0 && d.is_finite() { 0.0 } else { d.sqrt() as f32 })
}

/// |x − mean|² of each image.
#[inline(always)]
fn squares<const N: usize, S: Simd>(simd: S, x: [&[f32]; N], mean: &[f32]) -> [f64; N] {
    let sum_of = |sum| f64::from(simd.reduce_sum_f32s(sum));
    let mut totals = [0.0; N];
    for start in (0..mean.len()).step_by(BLOCK) {
        let part = start..mean.len().min(start + BLOCK);
        let mut sums = [simd.splat_f32s(0.0); N];
        for_vectors(simd, x, mean, [], part, |y, []| {
            for (sum, y) in sums.iter_mut().zip(y) {
                *sum = simd.mul_add_f32s(y, y, *sum);
            }
        });
        totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum_of(sum));
    }
    totals
}

/// row·(x − mean) for each row and image.
#[inline(always)]
fn products<const R: usize, const N: usize, S: Simd>(
    simd: S,
    x: [&[f32]; N],
    mean: &[f32],
    rows: [&[f32]; R],
) -> [[f64; N]; R] {
    let sum_of = |sum| f64::from(simd.reduce_sum_f32s(sum));
    let mut totals = [[0.0; N]; R];
    for start in (0..mean.len()).step_by(BLOCK) {
        let part = start..mean.len().min(start + BLOCK);
        let mut sums = [[simd.splat_f32s(0.0); N]; R];
        for_vectors(simd, x, mean, rows, part, |y, rows| {
            for (sums, row) in sums.iter_mut().zip(rows) {
                for (sum, y) in sums.iter_mut().zip(y) {
                    *sum = simd.mul_add_f32s(row, y, *sum);
                }
            }
        });
        let (totals, sums) = (totals.as_flattened_mut(), sums.as_flattened());
        totals.iter_mut().zip(sums).for_each(|(total, &sum)| *total += sum_of(sum));
    }
    totals
}

/// Calls `f(x − mean, rows)` for each vector of the channels of `part`, the last filled up with
/// zeros.
#[inline(always)]
fn for_vectors<const R: usize, const N: usize, S: Simd>(
    simd: S,
    x: [&[f32]; N],
    mean: &[f32],
    rows: [&[f32]; R],
    part: Range<usize>,
    mut f: impl FnMut([S::f32s; N], [S::f32s; R]),
) {
    let (means, mean) = S::as_simd_f32s(&mean[part.clone()]);
    let x = x.map(|x| S::as_simd_f32s(&x[part.clone()]));
    let rows = rows.map(|row| S::as_simd_f32s(&row[part.clone()]));
    // Slices of one length, which is checked here and not for each vector.
    let (xs, vectors) = (x.map(|x| &x.0[..means.len()]), rows.map(|row| &row.0[..means.len()]));
    for (i, &mean) in means.iter().enumerate() {
        f(xs.map(|x| simd.sub_f32s(x[i], mean)), vectors.map(|row| row[i]));
    }
    if !mean.is_empty() {
        let mean = simd.partial_load_f32s(mean);
        let y = x.map(|x| simd.sub_f32s(simd.partial_load_f32s(x.1), mean));
        f(y, rows.map(|row| simd.partial_load_f32s(row.1)));
    }
}
