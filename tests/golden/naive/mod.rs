//! Plain programs that store every result, weights included, in f16: what the kernels, which store in f16 too,
//! are held against. Each operation by itself is computed in f32.

mod denoiser;
mod dit;
mod efficientnet;
mod mlp;
mod unet;
mod vit;

pub use denoiser::{blocks, denoised, eps, inversion};
pub use efficientnet::{Plain, b4, efficientnet};
use half::f16;
pub use vit::vit_tokens;

/// What results are stored in. In f32 the programs are held against the reference themselves.
#[derive(Clone, Copy, Debug)]
pub enum Stored {
    F16,
    F32,
}

impl Stored {
    fn one(self, value: f32) -> f32 {
        match self {
            Stored::F16 => f16::from_f32(value).to_f32(),
            Stored::F32 => value,
        }
    }

    fn all(self, mut values: Vec<f32>) -> Vec<f32> {
        values.iter_mut().for_each(|v| *v = self.one(*v));
        values
    }

    /// `f` of each element.
    fn map(self, x: &[f32], f: impl Fn(f32) -> f32) -> Vec<f32> {
        x.iter().map(|&x| self.one(f(x))).collect()
    }

    /// `f` of each element of `x` and the one of `y`, which begins anew where it ends.
    fn zip(self, x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
        x.iter().zip(y.iter().cycle()).map(|(&x, &y)| self.one(f(x, y))).collect()
    }

    /// Rows of `width` numbers, each with the mean 0 and the variance 1, but for `eps`.
    fn norm(self, x: &[f32], width: usize, eps: f64) -> Vec<f32> {
        let rows = x.chunks(width).flat_map(|x| {
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
            let squares = x.iter().map(|&v| (f64::from(v) - mean).powi(2));
            let rstd = (squares.sum::<f64>() / width as f64 + eps).sqrt().recip();
            x.iter().map(move |&v| self.one(((f64::from(v) - mean) * rstd) as f32))
        });
        rows.collect()
    }

    /// Of one image, (N, 3, H, d) to (N, H·d).
    fn attention(self, qkv: &[f32], heads: usize, width: usize) -> Vec<f32> {
        let (n, d) = (qkv.len() / (3 * width), width / heads);
        let row = |token: usize, part: usize, head: usize| {
            &qkv[(token * 3 + part) * width + head * d..][..d]
        };
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let mut out = Vec::with_capacity(n * width);
        for token in 0..n {
            for head in 0..heads {
                let scores = (0..n).map(|key| dot(row(token, 0, head), row(key, 1, head)));
                let scores = self.map(&self.all(scores.collect()), |s| s / (d as f32).sqrt());
                let top = scores.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
                let sum: f32 = scores.iter().map(|s| (s - top).exp()).sum();
                let p = self.map(&scores, |s| (s - top).exp() / sum);
                let mut o = vec![0.0; d];
                for (key, p) in p.iter().enumerate() {
                    o.iter_mut().zip(row(key, 2, head)).for_each(|(o, v)| *o += p * v);
                }
                out.extend(self.all(o));
            }
        }
        out
    }
}
