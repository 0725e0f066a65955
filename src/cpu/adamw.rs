//! AdamW on the host.

use multiversion::multiversion;
use rayon::prelude::*;

use super::math::dot;
use crate::ops::AdamW;

/// Elements of one task, and of one partial sum of the norm.
const BLOCK: usize = 1 << 14;

pub(crate) fn global_norm(x: &[f32]) -> f64 {
    let sums: Vec<f64> = x
        .par_chunks(BLOCK)
        .map(|block| block.chunks(256).map(|part| f64::from(dot(part, part))).sum())
        .collect();
    sums.iter().sum::<f64>().sqrt()
}

pub(crate) fn adamw(
    config: AdamW,
    step: u64,
    clip: f64,
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let k = step as i32;
    let factors = Factors {
        clip: clip as f32,
        beta1: config.beta1 as f32,
        beta1_rest: (1.0 - config.beta1) as f32,
        beta2: config.beta2 as f32,
        beta2_rest: (1.0 - config.beta2) as f32,
        keep: (1.0 - config.learning_rate * config.weight_decay) as f32,
        rate: (config.learning_rate / (1.0 - config.beta1.powi(k))) as f32,
        v_scale: (1.0 / (1.0 - config.beta2.powi(k)).sqrt()) as f32,
        eps: config.eps as f32,
    };
    p.par_chunks_mut(BLOCK)
        .zip(g.par_chunks(BLOCK))
        .zip(m.par_chunks_mut(BLOCK).zip(v.par_chunks_mut(BLOCK)))
        .for_each(|((p, g), (m, v))| update(factors, p, g, m, v));
}

#[derive(Clone, Copy)]
struct Factors {
    clip: f32,
    beta1: f32,
    beta1_rest: f32,
    beta2: f32,
    beta2_rest: f32,
    keep: f32,
    rate: f32,
    v_scale: f32,
    eps: f32,
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn update(f: Factors, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        let g = f.clip * g;
        *m = f.beta1 * *m + f.beta1_rest * g;
        *v = f.beta2 * *v + f.beta2_rest * (g * g);
        *p = *p * f.keep - f.rate * *m / (v.sqrt() * f.v_scale + f.eps);
    }
}
