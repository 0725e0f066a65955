//! Depthwise convolution on the host: tiles of one row, vector code over channels.

use std::ops::Range;

use multiversion::{multiversion, target::match_target};
use rayon::prelude::*;

use super::conv2d::{Window, add_columns};
use super::gemm::Activation;

/// A depthwise convolution of one image: y = activation(conv(x) + bias).
#[derive(Clone, Copy)]
pub(crate) struct DepthwiseConv<'a> {
    pub window: Window,
    pub channels: usize,
    /// (kernel height, kernel width, channels).
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub activation: Activation,
}

impl DepthwiseConv<'_> {
    /// Output rows `rows`; `x` holds the input's rows from `first` on, as many as are read.
    pub fn rows(&self, x: &[f32], first: usize, rows: Range<usize>, y: &mut [f32]) {
        forward(self, x, first, rows, y);
    }
}

/// Kernel sizes and strides that there is code for.
pub(crate) const SUPPORTED: [(usize, usize); 4] = [(3, 1), (3, 2), (5, 1), (5, 2)];

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma", "aarch64+neon"))]
fn forward(conv: &DepthwiseConv, x: &[f32], first: usize, rows: Range<usize>, y: &mut [f32]) {
    match_target! {
        "x86_64+avx512f" | "x86_64+fma" | "aarch64+neon" => by_size::<true>(conv, x, first, rows, y),
        _ => by_size::<false>(conv, x, first, rows, y),
    }
}

#[inline(always)]
fn by_size<const FMA: bool>(
    conv: &DepthwiseConv,
    x: &[f32],
    first: usize,
    rows: Range<usize>,
    y: &mut [f32],
) {
    match (conv.window.kernel[0], conv.window.stride) {
        (3, 1) => by_row::<3, 1, FMA>(conv, x, first, rows, y),
        (3, 2) => by_row::<3, 2, FMA>(conv, x, first, rows, y),
        (5, 1) => by_row::<5, 1, FMA>(conv, x, first, rows, y),
        (5, 2) => by_row::<5, 2, FMA>(conv, x, first, rows, y),
        other => unreachable!("{other:?} is not among {SUPPORTED:?}"),
    }
}

/// Output columns computed together: their sums stay in registers while a weight is used for all.
const TILE: usize = 8;
/// Channels computed together.
const LANES: usize = 16;

#[inline(always)]
fn by_row<const K: usize, const S: usize, const FMA: bool>(
    conv: &DepthwiseConv,
    x: &[f32],
    first: usize,
    rows: Range<usize>,
    y: &mut [f32],
) {
    let (w, c) = (&conv.window, conv.channels);
    let row_len = w.input[1] * c;
    for (oy, y) in rows.zip(y.chunks_exact_mut(w.output[1] * c)) {
        // A row outside the image is empty: all of it reads as zero.
        let rows: [&[f32]; K] = std::array::from_fn(|ky| {
            w.input_row(oy, ky).map_or(&[][..], |y| &x[(y - first) * row_len..][..row_len])
        });
        for (i, y) in y.chunks_mut(TILE * c).enumerate() {
            let left = (i * TILE * S) as isize - w.left as isize;
            let blocks = c / LANES * LANES;
            for channel in (0..blocks).step_by(LANES) {
                tile::<K, S, LANES, FMA>(conv, &rows, left, channel, y);
            }
            for channel in blocks..c {
                tile::<K, S, 1, FMA>(conv, &rows, left, channel, y);
            }
        }
    }
}

/// `L` channels from `channel` on of up to `TILE` outputs, the first of which reads from column `left`.
#[inline(always)]
fn tile<const K: usize, const S: usize, const L: usize, const FMA: bool>(
    conv: &DepthwiseConv,
    rows: &[&[f32]; K],
    left: isize,
    channel: usize,
    y: &mut [f32],
) {
    let c = conv.channels;
    let lanes = |v: &[f32]| -> [f32; L] { v[channel..channel + L].try_into().unwrap() };
    let mut sums = [lanes(conv.bias); TILE];
    for (ky, row) in rows.iter().enumerate() {
        for kx in 0..K {
            let weight = lanes(&conv.weight[(ky * K + kx) * c..]);
            for (t, sum) in sums.iter_mut().enumerate() {
                // A column outside the image is outside the row: it reads as zero.
                let at = (left + (t * S + kx) as isize) as usize;
                let at = at.wrapping_mul(c).wrapping_add(channel);
                let Some(x) = row.get(at..at.wrapping_add(L)) else { continue };
                for ((sum, &x), &w) in sum.iter_mut().zip(x).zip(&weight) {
                    *sum = mul_add::<FMA>(x, w, *sum);
                }
            }
        }
    }
    match conv.activation {
        Activation::None => {}
        Activation::Relu6 => {
            sums.as_flattened_mut().iter_mut().for_each(|v| *v = v.clamp(0.0, 6.0))
        }
        other => other.apply_all(sums.as_flattened_mut()),
    }
    for (y, sum) in y.chunks_exact_mut(c).zip(&sums) {
        y[channel..channel + L].copy_from_slice(sum);
    }
}

/// a·b + c, rounded once where the processor can.
#[inline(always)]
fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Images one after another in `x` and `y`.
pub(crate) fn depthwise_conv2d(conv: &DepthwiseConv, x: &[f32], y: &mut [f32]) {
    let [h, w] = conv.window.input;
    let [oh, ow] = conv.window.output;
    let (image, row) = (h * w * conv.channels, ow * conv.channels);
    if row == 0 {
        return;
    }
    y.par_chunks_mut(row).enumerate().for_each(|(i, y)| {
        let (b, oy) = (i / oh, i % oh);
        conv.rows(&x[b * image..][..image], 0, oy..oy + 1, y);
    });
}

/// Gradients of y = conv(x) + bias: `dx` is written, `dweight` and `dbias` are added to.
pub(crate) fn depthwise_conv2d_backward(
    conv: &DepthwiseConv,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let (w, c) = (&conv.window, conv.channels);
    let (image, out_image) = (w.input[0] * w.input[1] * c, w.output[0] * w.output[1] * c);
    if image == 0 || out_image == 0 {
        return dx.fill(0.0);
    }
    dx.par_chunks_mut(w.input[1] * c).enumerate().for_each(|(i, dx)| {
        let (b, iy) = (i / w.input[0], i % w.input[0]);
        input_row_gradient(conv, &dy[b * out_image..][..out_image], iy, dx);
    });
    dweight.par_chunks_mut(c).enumerate().for_each_init(
        || vec![0.0; c],
        |row_sum, (tap, dweight)| {
            for (x, dy) in x.chunks_exact(image).zip(dy.chunks_exact(out_image)) {
                weight_gradient(conv, x, dy, tap, row_sum, dweight);
            }
        },
    );
    add_columns(dy, w.output[1] * c, dbias);
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn input_row_gradient(conv: &DepthwiseConv, dy: &[f32], iy: usize, dx: &mut [f32]) {
    let (w, c) = (&conv.window, conv.channels);
    dx.fill(0.0);
    for ky in 0..w.kernel[0] {
        let Some(above) = (iy + w.top).checked_sub(ky) else { continue };
        let oy = above / w.stride;
        if above % w.stride != 0 || oy >= w.output[0] {
            continue;
        }
        for kx in 0..w.kernel[1] {
            let weight = &conv.weight[(ky * w.kernel[1] + kx) * c..][..c];
            let dy = dy[oy * w.output[1] * c..][..w.output[1] * c].chunks_exact(c);
            for (ox, dy) in dy.enumerate() {
                let Some(ix) = column(w, ox, kx) else { continue };
                let dx = &mut dx[ix * c..][..c];
                for ((dx, &dy), &weight) in dx.iter_mut().zip(dy).zip(weight) {
                    *dx += dy * weight;
                }
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn weight_gradient(
    conv: &DepthwiseConv,
    x: &[f32],
    dy: &[f32],
    tap: usize,
    row_sum: &mut [f32],
    dweight: &mut [f32],
) {
    let (w, c) = (&conv.window, conv.channels);
    let (ky, kx) = (tap / w.kernel[1], tap % w.kernel[1]);
    for (oy, dy) in dy.chunks_exact(w.output[1] * c).enumerate() {
        let Some(iy) = w.input_row(oy, ky) else { continue };
        let x = &x[iy * w.input[1] * c..][..w.input[1] * c];
        row_sum.fill(0.0);
        for (ox, dy) in dy.chunks_exact(c).enumerate() {
            let Some(ix) = column(w, ox, kx) else { continue };
            let x = &x[ix * c..][..c];
            for ((sum, &dy), &x) in row_sum.iter_mut().zip(dy).zip(x) {
                *sum += dy * x;
            }
        }
        for (d, sum) in dweight.iter_mut().zip(&*row_sum) {
            *d += sum;
        }
    }
}

/// The input column under kernel column `kx` at output column `ox`, if there is one.
#[inline(always)]
fn column(w: &Window, ox: usize, kx: usize) -> Option<usize> {
    (ox * w.stride + kx).checked_sub(w.left).filter(|&x| x < w.input[1])
}
