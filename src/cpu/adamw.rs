//! AdamW on the host.

use multiversion::multiversion;
use rayon::prelude::*;

use super::ema::blend;
use super::math::dot;

/// Elements of one task, and of one partial sum of the norm.
const BLOCK: usize = 1 << 14;

pub(crate) fn global_norm(x: &[f32], max_norm: f64, unscale: f32, norm: &mut [f32]) {
    let sums: Vec<f64> = x
        .par_chunks(BLOCK)
        .map(|block| block.chunks(256).map(|part| f64::from(dot(part, part))).sum())
        .collect();
    let unscale = f64::from(unscale);
    let length = sums.iter().sum::<f64>().sqrt() * unscale;
    let clip = (max_norm / (length + 1e-6)).min(1.0);
    norm[0] = length as f32;
    norm[1] = if length.is_finite() { (clip * unscale) as f32 } else { f32::NAN };
}

/// `numbers`: as [`crate::ops::AdamW::numbers`] has them.
pub(crate) fn adamw(
    g: &[f32],
    numbers: &[f32],
    factor: f32,
    p: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    average: Option<&mut [f32]>,
) {
    let &[_, beta1, beta1_rest, beta2, beta2_rest, keep, rate, v_scale, eps, take, _] = numbers
    else {
        unreachable!("the shape has been checked")
    };
    if factor.is_nan() {
        return;
    }
    let f = Factors { factor, beta1, beta1_rest, beta2, beta2_rest, keep, rate, v_scale, eps };
    let blocks = p
        .par_chunks_mut(BLOCK)
        .zip(g.par_chunks(BLOCK))
        .zip(m.par_chunks_mut(BLOCK).zip(v.par_chunks_mut(BLOCK)));
    match average {
        None => blocks.for_each(|((p, g), (m, v))| update(f, p, g, m, v)),
        Some(average) => {
            blocks.zip(average.par_chunks_mut(BLOCK)).for_each(|(((p, g), (m, v)), average)| {
                update(f, p, g, m, v);
                blend(take, p, average);
            });
        }
    }
}

#[derive(Clone, Copy)]
struct Factors {
    factor: f32,
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
        let g = f.factor * g;
        *m = f.beta1 * *m + f.beta1_rest * g;
        *v = f.beta2 * *v + f.beta2_rest * (g * g);
        *p = *p * f.keep - f.rate * *m / (v.sqrt() * f.v_scale + f.eps);
    }
}
