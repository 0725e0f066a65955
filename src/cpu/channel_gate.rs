//! A gate for each channel on the host.

use rayon::prelude::*;

use super::math::sigmoid;

/// Channels whose gates are computed at once.
const CHANNELS: usize = 64;
/// Pixels that share the gates computed.
const PIXELS: usize = 256;

pub(crate) fn channel_gate(x: &mut [f32], gate: &[f32], [pixels, channels]: [usize; 2]) {
    if x.is_empty() {
        return;
    }
    let images = x.par_chunks_exact_mut(pixels * channels).zip(gate.par_chunks_exact(channels));
    images.for_each(|(x, gate)| {
        x.par_chunks_mut(PIXELS * channels).for_each(|x| {
            for (i, gate) in gate.chunks(CHANNELS).enumerate() {
                let mut factors = [0.0; CHANNELS];
                factors.iter_mut().zip(gate).for_each(|(f, &g)| *f = sigmoid::<false>(g));
                for pixel in x.chunks_exact_mut(channels) {
                    let part = &mut pixel[i * CHANNELS..][..gate.len()];
                    part.iter_mut().zip(&factors).for_each(|(x, f)| *x *= f);
                }
            }
        });
    });
}
