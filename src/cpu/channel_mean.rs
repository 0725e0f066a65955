//! The mean over an image's pixels on the host.

use rayon::prelude::*;

/// Channels whose sums are taken at once.
const CHANNELS: usize = 64;

/// Sums are f64: there can be tens of thousands of pixels.
pub(crate) fn channel_mean(x: &[f32], mean: &mut [f32], [pixels, channels]: [usize; 2]) {
    if mean.is_empty() {
        return;
    }
    let images = mean.par_chunks_exact_mut(channels).zip(x.par_chunks_exact(pixels * channels));
    images.for_each(|(mean, x)| {
        mean.par_chunks_mut(CHANNELS).enumerate().for_each(|(i, mean)| {
            let mut sums = [0.0f64; CHANNELS];
            for pixel in x.chunks_exact(channels) {
                let part = &pixel[i * CHANNELS..][..mean.len()];
                sums.iter_mut().zip(part).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            mean.iter_mut().zip(sums).for_each(|(m, sum)| *m = (sum / pixels as f64) as f32);
        });
    });
}
