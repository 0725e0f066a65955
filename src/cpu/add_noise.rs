//! Noising on the host.

use multiversion::multiversion;
use rayon::prelude::*;

pub(crate) fn add_noise(x: &[f32], noise: &[f32], a: &[f32], s: &[f32], out: &mut [f32]) {
    let n = out.len() / a.len().max(1);
    if n == 0 {
        return;
    }
    out.par_chunks_exact_mut(n).enumerate().for_each(|(b, out)| {
        combine(&x[b * n..][..n], &noise[b * n..][..n], a[b], s[b], out);
    });
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn combine(x: &[f32], noise: &[f32], a: f32, s: f32, out: &mut [f32]) {
    for ((o, x), e) in out.iter_mut().zip(x).zip(noise) {
        *o = a * x + s * e;
    }
}
