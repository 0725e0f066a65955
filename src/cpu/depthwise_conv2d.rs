//! Depthwise convolution on the host: tiles of one row, vector code over channels.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::conv2d::Window;
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
    /// Output rows `rows`; `x` holds the input's rows from `first` on, as many as are read. `strip` is
    /// kept between calls.
    pub fn rows(
        &self,
        x: &[f32],
        first: usize,
        rows: Range<usize>,
        strip: &mut Vec<f32>,
        y: &mut [f32],
    ) {
        let input = Input { window: &self.window, channels: self.channels, x, first };
        Arch::new().dispatch(Forward { conv: self, input, rows, strip, y: &mut *y });
        // ReLU6 was applied before storing.
        if self.activation != Activation::Relu6 {
            self.activation.apply_all(y);
        }
    }
}

/// Kernel sizes and strides that there is code for.
pub(crate) const SUPPORTED: [(usize, usize); 4] = [(3, 1), (3, 2), (5, 1), (5, 2)];

/// Output columns computed together: their sums stay in registers while a weight is used for all.
const TILE: usize = 8;

/// Input columns that a tile reads.
const fn columns(kernel: usize, stride: usize) -> usize {
    stride * (TILE - 1) + kernel
}

/// Rows of one image, from `first` on.
#[derive(Clone, Copy)]
struct Input<'a> {
    window: &'a Window,
    channels: usize,
    x: &'a [f32],
    first: usize,
}

struct Forward<'a> {
    conv: &'a DepthwiseConv<'a>,
    input: Input<'a>,
    rows: Range<usize>,
    strip: &'a mut Vec<f32>,
    y: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.conv.window.kernel[0], self.conv.window.stride) {
            (3, 1) => self.strips::<3, 1, { columns(3, 1) }, S>(simd),
            (3, 2) => self.strips::<3, 2, { columns(3, 2) }, S>(simd),
            (5, 1) => self.strips::<5, 1, { columns(5, 1) }, S>(simd),
            (5, 2) => self.strips::<5, 2, { columns(5, 2) }, S>(simd),
            other => unreachable!("{other:?} is not among {SUPPORTED:?}"),
        }
    }
}

impl Forward<'_> {
    /// One vector of channels after another: their pixels are copied next to each other, zeros
    /// around them, so that a tile's reads are at constant distances.
    #[inline(always)]
    fn strips<const K: usize, const STRIDE: usize, const COLUMNS: usize, S: Simd>(self, simd: S) {
        let Self { conv, input, rows, strip, y } = self;
        let (w, c) = (&conv.window, conv.channels);
        let lanes = S::F32_LANES;
        let row = (w.output[1].next_multiple_of(TILE) - 1) * STRIDE + K;
        let len = ((rows.len() - 1) * STRIDE + K) * row * lanes;
        if strip.len() < len {
            strip.resize(len, 0.0);
        }
        let strip = S::as_mut_simd_f32s(&mut strip[..len]).0;
        for channel in (0..c).step_by(lanes) {
            let n = lanes.min(c - channel);
            let bias = load(simd, &conv.bias[channel..channel + n]);
            let mut weight = [[bias; K]; K];
            for (i, weight) in weight.as_flattened_mut().iter_mut().enumerate() {
                *weight = load(simd, &conv.weight[i * c + channel..][..n]);
            }
            let mut filled = 0;
            for (i, y) in y.chunks_exact_mut(w.output[1] * c).enumerate() {
                let top = i * STRIDE;
                while filled < top + K {
                    let out = &mut strip[filled * row..][..row];
                    let above = rows.start * STRIDE + filled;
                    input.fill(simd, above, channel, n, out);
                    filled += 1;
                }
                for (t, y) in y.chunks_mut(TILE * c).enumerate() {
                    let mut sums = [bias; TILE];
                    for (ky, weight) in weight.iter().enumerate() {
                        let start = (top + ky) * row + t * TILE * STRIDE;
                        let x: &[S::f32s; COLUMNS] = strip[start..][..COLUMNS].try_into().unwrap();
                        for (kx, &weight) in weight.iter().enumerate() {
                            for (t, sum) in sums.iter_mut().enumerate() {
                                *sum = simd.mul_add_f32s(x[t * STRIDE + kx], weight, *sum);
                            }
                        }
                    }
                    if conv.activation == Activation::Relu6 {
                        // In this order of arguments NaN comes through.
                        let (zero, six) = (simd.splat_f32s(0.0), simd.splat_f32s(6.0));
                        for sum in &mut sums {
                            *sum = simd.min_f32s(six, simd.max_f32s(zero, *sum));
                        }
                    }
                    for (y, sum) in y.chunks_exact_mut(c).zip(sums) {
                        store(simd, sum, &mut y[channel..channel + n]);
                    }
                }
            }
        }
    }
}

impl Input<'_> {
    /// Copies `n` channels of the row `above` − top of the image; what is outside is zero.
    #[inline(always)]
    fn fill<S: Simd>(&self, simd: S, above: usize, channel: usize, n: usize, out: &mut [S::f32s]) {
        let (w, c) = (self.window, self.channels);
        let zero = simd.splat_f32s(0.0);
        let Some(y) = above.checked_sub(w.top).filter(|&y| y < w.input[0]) else {
            return out.fill(zero);
        };
        let row = &self.x[(y - self.first) * w.input[1] * c..][..w.input[1] * c];
        let left = w.left.min(out.len());
        out[..left].fill(zero);
        let mut out = out[left..].iter_mut();
        for (pixel, out) in row.chunks_exact(c).zip(out.by_ref()) {
            *out = load(simd, &pixel[channel..channel + n]);
        }
        for out in out {
            *out = zero;
        }
    }
}

/// A vector of up to as many numbers as fit, then zeros.
#[inline(always)]
fn load<S: Simd>(simd: S, x: &[f32]) -> S::f32s {
    // The whole vector is the common case, and a single instruction.
    match S::as_simd_f32s(x) {
        ([x], []) => *x,
        _ => simd.partial_load_f32s(x),
    }
}

#[inline(always)]
fn store<S: Simd>(simd: S, x: S::f32s, y: &mut [f32]) {
    match S::as_mut_simd_f32s(y) {
        ([y], []) => *y = x,
        _ => simd.partial_store_f32s(y, x),
    }
}

/// Numbers of the rows computed by one task.
const BLOCK: usize = 1 << 16;

/// Images one after another in `x` and `y`.
pub(crate) fn depthwise_conv2d(conv: &DepthwiseConv, x: &[f32], y: &mut [f32]) {
    let [h, w] = conv.window.input;
    let [oh, ow] = conv.window.output;
    let (image, row) = (h * w * conv.channels, ow * conv.channels);
    if row == 0 {
        return;
    }
    let block = (BLOCK / row).clamp(1, oh);
    y.par_chunks_mut(oh * row).zip(x.par_chunks(image)).for_each(|(y, x)| {
        y.par_chunks_mut(block * row).enumerate().for_each_init(Vec::new, |strip, (i, y)| {
            let start = i * block;
            conv.rows(x, 0, start..start + y.len() / row, strip, y);
        });
    });
}
