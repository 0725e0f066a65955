//! Fresh parameters that are uniform.

use rayon::prelude::*;

use crate::ops::Random;

/// Numbers between ±`bound`.
pub(in crate::denoisers) fn uniform(random: Random, bound: f64, out: &mut [f32]) {
    out.par_chunks_mut(4).enumerate().with_min_len(1 << 12).for_each(|(j, out)| {
        for (x, word) in out.iter_mut().zip(random.words(j as u64)) {
            let unit = (f64::from(word) + 0.5) / (1u64 << 31) as f64 - 1.0;
            *x = (bound * unit) as f32;
        }
    });
}
