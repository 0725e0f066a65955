//! The loss of a denoiser and its gradient on the host.

use multiversion::multiversion;
use rayon::prelude::*;

use super::math::dot;

/// Elements summed in f32 before the sum goes on in f64.
const BLOCK: usize = 1024;

pub(crate) struct Target<'a> {
    pub x0: &'a [f32],
    pub noise: &'a [f32],
    pub signal_scale: &'a [f32],
    pub noise_scale: &'a [f32],
}

pub(crate) fn denoising_loss(
    prediction: &[f32],
    target: Target,
    weight: &[f32],
    slope: &[f32],
    loss: &mut [f32],
    mut dprediction: Option<&mut [f32]>,
) {
    let n = prediction.len() / loss.len().max(1);
    let mut gradients: Vec<_> = loss
        .iter()
        .map(|_| dprediction.as_mut().and_then(|d| d.split_off_mut(..n)).unwrap_or_default())
        .collect();
    loss.par_iter_mut().zip(&mut gradients).enumerate().for_each(|(b, (loss, gradient))| {
        let (signal, noise) = (target.signal_scale[b], target.noise_scale[b]);
        let mut total = 0.0;
        for start in (0..n).step_by(BLOCK) {
            let part = b * n + start..b * n + n.min(start + BLOCK);
            let mut d = [0.0; BLOCK];
            let d = &mut d[..part.len()];
            let (x0, e) = (&target.x0[part.clone()], &target.noise[part.clone()]);
            difference(&prediction[part], x0, signal, e, noise, d);
            total += f64::from(dot(d, d));
            if let Some(gradient) = gradient.get_mut(start..start + d.len()) {
                gradient.iter_mut().zip(d).for_each(|(g, d)| *g = slope[b] * *d);
            }
        }
        *loss = (f64::from(weight[b]) * total / n as f64) as f32;
    });
}

/// d = p − (signal·x0 + noise·e).
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn difference(p: &[f32], x0: &[f32], signal: f32, e: &[f32], noise: f32, d: &mut [f32]) {
    for (((d, p), x), e) in d.iter_mut().zip(p).zip(x0).zip(e) {
        *d = p - (signal * x + noise * e);
    }
}
