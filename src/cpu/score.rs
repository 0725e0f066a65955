//! Distance of a latent from the Gaussian prior on the host.

use rayon::prelude::*;

use super::math::dot;

/// Largest cells of a map whose mean is a score.
const TOP: usize = 5;

pub(crate) fn score(
    latent: &[f32],
    map: &mut [f32],
    stats: &mut [f32],
    (tokens, channels): (usize, usize),
) {
    latent
        .par_chunks_exact(tokens * channels)
        .zip(map.par_chunks_exact_mut(tokens))
        .zip(stats.par_chunks_exact_mut(5))
        .for_each(|((latent, map), stats)| {
            let mut total = 0.0f64;
            let mut top = [f32::NEG_INFINITY; TOP];
            let mut min = f32::INFINITY;
            for (z, norm) in latent.chunks_exact(channels).zip(map.iter_mut()) {
                let squares = dot(z, z);
                total += f64::from(squares);
                *norm = squares.sqrt();
                min = min.min(*norm);
                if *norm > top[TOP - 1] {
                    let at = top.iter().position(|t| *norm > *t).unwrap_or(TOP - 1);
                    top[at..].rotate_right(1);
                    top[at] = *norm;
                }
            }
            let count = TOP.min(tokens);
            let mean = top[..count].iter().map(|&t| f64::from(t)).sum::<f64>() / count as f64;
            let row = [top[0], min, top[0] - min, mean as f32, (0.5 * total) as f32];
            let row = if total.is_nan() { [f32::NAN; 5] } else { row };
            stats.copy_from_slice(&row);
        });
}
