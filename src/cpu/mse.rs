//! Mean squared error on the host.

use multiversion::multiversion;
use rayon::prelude::*;

use super::math::reduce;

/// Elements summed in f32 before the sum goes on in f64.
const BLOCK: usize = 1024;

pub(crate) fn mse(prediction: &[f32], target: &[f32], weight: &[f32], loss: &mut [f32]) {
    let n = prediction.len() / loss.len().max(1);
    loss.par_iter_mut().enumerate().for_each(|(b, loss)| {
        let (p, t) = (&prediction[b * n..][..n], &target[b * n..][..n]);
        let blocks = p.chunks(BLOCK).zip(t.chunks(BLOCK));
        let total: f64 = blocks.map(|(p, t)| f64::from(squares(p, t))).sum();
        *loss = (f64::from(weight[b]) * total / n as f64) as f32;
    });
}

pub(crate) fn mse_backward(p: &[f32], target: &[f32], weight: &[f32], dp: &mut [f32]) {
    let n = dp.len() / weight.len().max(1);
    if n == 0 {
        return;
    }
    let scale = 2.0 / dp.len() as f64;
    dp.par_chunks_exact_mut(n).enumerate().for_each(|(b, dp)| {
        let factor = (scale * f64::from(weight[b])) as f32;
        difference(&p[b * n..][..n], &target[b * n..][..n], factor, dp);
    });
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn squares(p: &[f32], t: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (p, t) in p.chunks(16).zip(t.chunks(16)) {
        for ((l, p), t) in lanes.iter_mut().zip(p).zip(t) {
            *l += (p - t) * (p - t);
        }
    }
    reduce(lanes)
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn difference(p: &[f32], t: &[f32], factor: f32, dp: &mut [f32]) {
    for ((dp, p), t) in dp.iter_mut().zip(p).zip(t) {
        *dp = factor * (p - t);
    }
}
