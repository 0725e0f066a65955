//! Exponential moving average on the host.

use multiversion::multiversion;

use super::for_parts;

pub(crate) fn ema(decay: f64, p: &[f32], average: &mut [f32]) {
    let (keep, take) = (decay as f32, (1.0 - decay) as f32);
    for_parts(average, |start, a| blend(keep, take, &p[start..][..a.len()], a));
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn blend(keep: f32, take: f32, p: &[f32], average: &mut [f32]) {
    for (a, p) in average.iter_mut().zip(p) {
        *a = keep * *a + take * p;
    }
}
