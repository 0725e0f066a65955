//! AdaLN-Zero on the host.

use multiversion::multiversion;
use rayon::prelude::*;

use super::math::{reduce, sum};

/// One vector per image: `data[(b % rows)·stride + start ..][..width]`.
#[derive(Clone, Copy)]
pub(crate) struct PerImage<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub stride: usize,
    pub start: usize,
}

impl<'a> PerImage<'a> {
    pub fn of(&self, image: usize, width: usize) -> &'a [f32] {
        let row = if self.rows == 1 { 0 } else { image };
        &self.data[row * self.stride + self.start..][..width]
    }
}

/// Columns of one task of the sums over tokens.
const COLUMNS: usize = 64;

/// x_out = x + gate·y; out = LN(x_out)·(1 + scale) + shift; stats = (mean, 1/σ) of each row.
#[allow(clippy::too_many_arguments)]
pub(crate) fn adaln_zero(
    x: &[f32],
    residual: Option<(&[f32], PerImage)>,
    shift: PerImage,
    scale: PerImage,
    eps: f32,
    x_out: Option<&mut [f32]>,
    out: &mut [f32],
    stats: Option<&mut [f32]>,
    (tokens, width): (usize, usize),
) {
    let row = |i: usize, x_out: Option<&mut [f32]>, out: &mut [f32], stats: Option<&mut [f32]>| {
        let image = i / tokens;
        let mut x = &x[i * width..][..width];
        if let (Some((y, gate)), Some(x_out)) = (residual, x_out) {
            add_gated(x, &y[i * width..][..width], gate.of(image, width), x_out);
            x = x_out;
        }
        let (mean, rstd) = moments(x, eps);
        modulate(x, mean, rstd, shift.of(image, width), scale.of(image, width), out);
        if let Some(stats) = stats {
            stats.copy_from_slice(&[mean, rstd]);
        }
    };
    let out = out.par_chunks_exact_mut(width).enumerate();
    match (x_out, stats) {
        (Some(x_out), Some(stats)) => out
            .zip(x_out.par_chunks_exact_mut(width))
            .zip(stats.par_chunks_exact_mut(2))
            .with_min_len(16)
            .for_each(|(((i, out), x_out), stats)| row(i, Some(x_out), out, Some(stats))),
        (Some(x_out), None) => out
            .zip(x_out.par_chunks_exact_mut(width))
            .with_min_len(16)
            .for_each(|((i, out), x_out)| row(i, Some(x_out), out, None)),
        (None, Some(stats)) => out
            .zip(stats.par_chunks_exact_mut(2))
            .with_min_len(16)
            .for_each(|((i, out), stats)| row(i, None, out, Some(stats))),
        (None, None) => {
            out.with_min_len(16).for_each(|(i, out)| row(i, None, out, None));
        }
    }
}

/// dx: on entry the gradient of x_out from elsewhere, on return all of it. Where there is a
/// residual, dy = gate·dx. Rows of `dtable` receive the sums over tokens at the columns given.
#[allow(clippy::too_many_arguments)]
pub(crate) fn adaln_zero_backward(
    x: &[f32],
    stats: &[f32],
    scale: PerImage,
    dout: &[f32],
    dx: &mut [f32],
    residual: Option<(&[f32], PerImage, &mut [f32])>,
    dtable: &mut [f32],
    (dtable_stride, dshift, dscale, dgate): (usize, usize, usize, usize),
    (tokens, width): (usize, usize),
) {
    let row = |i: usize, dx: &mut [f32]| {
        let at = i * width;
        let (x, dout) = (&x[at..][..width], &dout[at..][..width]);
        let (mean, rstd) = (stats[2 * i], stats[2 * i + 1]);
        layer_norm_backward(x, mean, rstd, scale.of(i / tokens, width), dout, dx);
    };
    let y = match residual {
        Some((y, gate, dy)) => {
            dx.par_chunks_exact_mut(width)
                .zip(dy.par_chunks_exact_mut(width))
                .enumerate()
                .with_min_len(16)
                .for_each(|(i, (dx, dy))| {
                    row(i, dx);
                    let gate = gate.of(i / tokens, width);
                    for ((dy, dx), gate) in dy.iter_mut().zip(&*dx).zip(gate) {
                        *dy = gate * dx;
                    }
                });
            Some(y)
        }
        None => {
            let rows = dx.par_chunks_exact_mut(width).enumerate();
            rows.with_min_len(16).for_each(|(i, dx)| row(i, dx));
            None
        }
    };
    let dx = &*dx;
    dtable.par_chunks_exact_mut(dtable_stride).enumerate().for_each(|(image, dtable)| {
        let mut column = 0;
        while column < width {
            let n = COLUMNS.min(width - column);
            let mut sums = [[0.0f32; COLUMNS]; 3];
            for token in image * tokens..(image + 1) * tokens {
                let at = token * width + column;
                let (mean, rstd) = (stats[2 * token], stats[2 * token + 1]);
                token_sums(&x[at..][..n], mean, rstd, &dout[at..][..n], &mut sums);
                if let Some(y) = y {
                    for ((s, y), dx) in sums[2].iter_mut().zip(&y[at..][..n]).zip(&dx[at..]) {
                        *s += y * dx;
                    }
                }
            }
            dtable[dshift + column..][..n].copy_from_slice(&sums[0][..n]);
            dtable[dscale + column..][..n].copy_from_slice(&sums[1][..n]);
            if y.is_some() {
                dtable[dgate + column..][..n].copy_from_slice(&sums[2][..n]);
            }
            column += n;
        }
    });
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn add_gated(x: &[f32], y: &[f32], gate: &[f32], out: &mut [f32]) {
    for (((o, x), y), g) in out.iter_mut().zip(x).zip(y).zip(gate) {
        *o = x + g * y;
    }
}

/// Mean and 1/√(variance + 1e-6), the variance from the differences to the mean.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x) / n;
    let mut lanes = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    let tail = chunks.remainder();
    for c in chunks {
        for i in 0..16 {
            lanes[i] += (c[i] - mean) * (c[i] - mean);
        }
    }
    for (l, v) in lanes.iter_mut().zip(tail) {
        *l += (v - mean) * (v - mean);
    }
    (mean, 1.0 / (reduce(lanes) / n + eps).sqrt())
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn modulate(x: &[f32], mean: f32, rstd: f32, shift: &[f32], scale: &[f32], out: &mut [f32]) {
    for (((o, x), shift), scale) in out.iter_mut().zip(x).zip(shift).zip(scale) {
        *o = (x - mean) * rstd * (1.0 + scale) + shift;
    }
}

/// dx += rstd·(g − mean(g) − x̂·mean(g·x̂)) with g = dout·(1 + scale), x̂ = (x − mean)·rstd.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn layer_norm_backward(
    x: &[f32],
    mean: f32,
    rstd: f32,
    scale: &[f32],
    dout: &[f32],
    dx: &mut [f32],
) {
    let n = x.len();
    let (mut g_lanes, mut gx_lanes) = ([0.0f32; 16], [0.0f32; 16]);
    for start in (0..n).step_by(16) {
        let end = (start + 16).min(n);
        let rows = dout[start..end].iter().zip(&scale[start..end]).zip(&x[start..end]);
        for (i, ((d, s), x)) in rows.enumerate() {
            let g = d * (1.0 + s);
            g_lanes[i] += g;
            gx_lanes[i] += g * ((x - mean) * rstd);
        }
    }
    let (g_mean, gx_mean) = (reduce(g_lanes) / n as f32, reduce(gx_lanes) / n as f32);
    for (((dx, d), s), x) in dx.iter_mut().zip(dout).zip(scale).zip(x) {
        let normalised = (x - mean) * rstd;
        *dx += rstd * (d * (1.0 + s) - g_mean - normalised * gx_mean);
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn token_sums(x: &[f32], mean: f32, rstd: f32, dout: &[f32], sums: &mut [[f32; COLUMNS]; 3]) {
    let [shift, scale, _] = sums;
    for (((shift, scale), d), x) in shift.iter_mut().zip(scale).zip(dout).zip(x) {
        *shift += d;
        *scale += d * ((x - mean) * rstd);
    }
}
