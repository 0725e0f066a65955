//! Linear layers on the host.

use multiversion::multiversion;
use rayon::prelude::*;

use super::for_parts;
use super::gemm::{Activation, Epilogue, Mat, Rhs, Threads, gemm};

/// Columns whose bias gradient one task sums, and rows of one partial sum.
const COLUMNS: usize = 128;
const ROWS: usize = 64;

/// y (M, N) = activation(x (M, K) · b (K, N) + bias), or residual (M, N) + x · b + bias.
#[allow(clippy::too_many_arguments)]
pub(crate) fn linear(
    x: &[f32],
    b: Rhs,
    bias: Option<&[f32]>,
    activation: Activation,
    before_activation: Option<&mut [f32]>,
    residual: Option<&[f32]>,
    y: &mut [f32],
    (m, k, n): (usize, usize, usize),
) {
    let accumulate = residual.is_some();
    if let Some(residual) = residual {
        for_parts(y, |start, y| y.copy_from_slice(&residual[start..][..y.len()]));
    }
    let epilogue =
        Epilogue { bias, activation, before_activation, accumulate, ..Default::default() };
    gemm(Mat::new(x, m, k), b, y, n, epilogue, Threads::All);
}

/// dx (M, K) = (dy (M, N) · w (N, K)) ∘ GELU′(gelu_input).
pub(crate) fn linear_backward_input(
    dy: &[f32],
    w: &[f32],
    gelu_input: Option<&[f32]>,
    dx: &mut [f32],
    (m, k, n): (usize, usize, usize),
) {
    let epilogue = Epilogue { gelu_input, ..Default::default() };
    gemm(Mat::new(dy, m, n), Mat::new(w, n, k), dx, k, epilogue, Threads::All);
}

/// dw (N, K) += dyᵀ · x; db (N) += Σ over rows of dy.
pub(crate) fn linear_backward_weight(
    dy: &[f32],
    x: &[f32],
    dw: &mut [f32],
    db: Option<&mut [f32]>,
    (m, k, n): (usize, usize, usize),
) {
    let epilogue = Epilogue { accumulate: true, ..Default::default() };
    gemm(Mat::new(dy, m, n).t(), Mat::new(x, m, k), dw, k, epilogue, Threads::All);
    if let Some(db) = db {
        db.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, db)| {
            add_columns(dy, n, i * COLUMNS, db);
        });
    }
}

/// db += the sums over rows of the columns of dy (…, n) from `start` on.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn add_columns(dy: &[f32], n: usize, start: usize, db: &mut [f32]) {
    for block in dy.chunks(ROWS * n) {
        let mut sums = [0.0f32; COLUMNS];
        for row in block.chunks_exact(n) {
            for (s, v) in sums.iter_mut().zip(&row[start..][..db.len()]) {
                *s += v;
            }
        }
        for (d, s) in db.iter_mut().zip(sums) {
            *d += s;
        }
    }
}
