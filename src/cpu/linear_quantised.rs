//! Linear layers of numbers of eight bits, on the host.

use multiversion::multiversion;
use rayon::prelude::*;

use super::gemm::{Activation, Mat, Rhs};
use super::linear::linear;
use crate::types::EightBits;

/// Rows of y that a task computes, so that a row of the weight is read once for all of them.
const ROWS: usize = 16;

/// Codes, and a scale of each row or of all.
type Codes<'a> = (&'a [u8], &'a [f32]);

/// y (M, N) = x (M, K) · w (N, K)ᵀ + bias.
pub(crate) fn linear_quantised(
    (x, x_scales): Codes,
    (w, w_scales): Codes,
    format: EightBits,
    bias: Option<&[f32]>,
    y: &mut [f32],
    (m, k, n): (usize, usize, usize),
) {
    if y.is_empty() {
        return;
    }
    match format {
        EightBits::Int8 => {
            let (x, w): (&[i8], &[i8]) = (bytemuck::cast_slice(x), bytemuck::cast_slice(w));
            y.par_chunks_mut(ROWS * n).enumerate().for_each(|(i, y)| {
                sums(&x[i * ROWS * k..], w, y, k, n);
            });
        }
        EightBits::E4m3 => {
            let [x, w] = [x, w].map(|codes| -> Vec<f32> {
                codes.iter().map(|&code| format.decode(code)).collect()
            });
            let w = Rhs::from(Mat::new(&w, n, k).t());
            linear(&x, w, None, Activation::None, None, None, y, (m, k, n));
        }
    }
    let of = |scales: &[f32], i: usize| scales[if scales.len() == 1 { 0 } else { i }];
    y.par_chunks_mut(n).enumerate().for_each(|(i, y)| {
        let row = of(x_scales, i);
        for (j, y) in y.iter_mut().enumerate() {
            *y = *y * (row * of(w_scales, j)) + bias.map_or(0.0, |bias| bias[j]);
        }
    });
}

/// Some rows of x · wᵀ, whose sums fit 32 bits.
#[multiversion(targets("x86_64+avx512f+avx512bw", "x86_64+avx2", "aarch64+neon"))]
fn sums(x: &[i8], w: &[i8], y: &mut [f32], k: usize, n: usize) {
    for j in 0..n {
        let w = &w[j * k..][..k];
        for (i, y) in y.chunks_mut(n).enumerate() {
            let products =
                x[i * k..][..k].iter().zip(w).map(|(&a, &b)| i32::from(a) * i32::from(b));
            y[j] = products.sum::<i32>() as f32;
        }
    }
}
