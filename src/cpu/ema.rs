//! Exponential moving average on the host.

use multiversion::multiversion;

use super::for_parts;

pub(crate) fn ema(decay: f64, p: &[f32], average: &mut [f32]) {
    let take = (1.0 - decay) as f32;
    for_parts(average, |start, a| blend(take, &p[start..][..a.len()], a));
}

/// By the difference: with two factors rounded to f32, whose sum is not 1, the average of a constant would
/// settle beside it, by 1e-5 of it at a decay of 0.999.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub(super) fn blend(take: f32, p: &[f32], average: &mut [f32]) {
    for (a, p) in average.iter_mut().zip(p) {
        *a += take * (p - *a);
    }
}
