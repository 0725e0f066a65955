//! Plain programs that store every result, weights included, in f16: what the kernels, which store in f16 too,
//! are held against. Each operation by itself is computed in f32.

mod denoiser;
mod dit;
mod lite0;
mod mlp;

pub use denoiser::{denoised, eps, inversion};
use half::f16;
pub use lite0::lite0_features;

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
}
