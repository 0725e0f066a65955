//! Fresh parameters.

use rayon::prelude::*;

use super::{Dit, Parameter};
use crate::error::Result;
use crate::ops::{self, Random, Stream};
use crate::tensor::TensorViewMut;

impl Dit {
    pub(super) fn fresh(
        &self,
        seed: u64,
        each: &mut dyn FnMut(&Parameter, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let mut values = Vec::new();
        for (i, p) in self.parameters.iter().enumerate() {
            values.clear();
            values.resize(p.len(), 0.0f32);
            let out = &mut values[..];
            let random = Random { seed, stream: Stream::Init, step: i as u64 };
            let zero = p.name.ends_with("bias")
                || p.name.contains("adaLN_modulation")
                || p.name.starts_with("final_layer");
            if p.name == "pos_embed" {
                sin_cos_positions(self.config.grid / self.config.patch, self.config.width, out);
            } else if p.name.starts_with("t_embedder") && !zero {
                ops::normal(random, TensorViewMut::from_slice(out, &[p.len()])?)?;
                out.iter_mut().for_each(|x| *x *= 0.02);
            } else if !zero {
                let bound = (6.0 / (p.shape[0] + p.len() / p.shape[0]) as f64).sqrt();
                out.par_chunks_mut(4).enumerate().with_min_len(1 << 12).for_each(|(j, out)| {
                    for (x, word) in out.iter_mut().zip(random.words(j as u64)) {
                        let unit = (f64::from(word) + 0.5) / (1u64 << 31) as f64 - 1.0;
                        *x = (bound * unit) as f32;
                    }
                });
            }
            each(p, out)?;
        }
        Ok(())
    }
}

/// Two-dimensional sin-cos positions (N, D), as in MAE (He et al., 2022): the first half of the
/// width encodes the column, the second the row; each half is sines, then cosines, of the
/// coordinate times 10000^(−i/(D/4)).
fn sin_cos_positions(across: usize, width: usize, out: &mut [f32]) {
    let quarter = width / 4;
    for (token, out) in out.chunks_exact_mut(width).enumerate() {
        for (half, coordinate) in [token % across, token / across].into_iter().enumerate() {
            for i in 0..quarter {
                let angle = coordinate as f64 / 10000f64.powf(i as f64 / quarter as f64);
                out[half * 2 * quarter + i] = angle.sin() as f32;
                out[half * 2 * quarter + quarter + i] = angle.cos() as f32;
            }
        }
    }
}
