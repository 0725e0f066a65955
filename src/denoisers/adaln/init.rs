//! Fresh parameters.

use crate::denoisers::Parameter;
use crate::denoisers::parts::uniform;
use crate::error::Result;
use crate::ops::{self, Random, Stream};
use crate::tensor::TensorViewMut;

/// Hands over fresh numbers of each parameter: what `own` writes where it says that it does; else zero for biases,
/// modulation and the output layer, so that a fresh network returns 0; N(0, 0.02²) for the timestep's layers, whose
/// names begin with `time`; and Xavier-uniform numbers for the rest.
pub(in crate::denoisers) fn fresh(
    parameters: &[Parameter],
    time: &str,
    seed: u64,
    own: impl Fn(&Parameter, &mut [f32]) -> bool,
    each: &mut dyn FnMut(&Parameter, &[f32]) -> Result<()>,
) -> Result<()> {
    let mut values = Vec::new();
    for (i, p) in parameters.iter().enumerate() {
        values.clear();
        values.resize(p.len(), 0.0f32);
        let out = &mut values[..];
        let random = Random { seed, stream: Stream::Init, step: i as u64 };
        let zero = p.name.ends_with("bias")
            || p.name.contains("adaLN_modulation")
            || p.name.starts_with("final_layer.linear");
        if own(p, out) || zero {
            // As it is.
        } else if p.name.starts_with(time) {
            ops::normal(random, TensorViewMut::from_slice(out, &[p.len()])?)?;
            out.iter_mut().for_each(|x| *x *= 0.02);
        } else {
            let bound = (6.0 / (p.shape[0] + p.len() / p.shape[0]) as f64).sqrt();
            uniform(random, bound, out);
        }
        each(p, out)?;
    }
    Ok(())
}
