//! From timesteps to the modulation vectors of all sites.

use super::weights::{Source, plain_backward};
use crate::denoisers::{Layout, Linear, Parameters};
use crate::device::{Allocate, Purpose};
use crate::error::{Error, Result};
use crate::ops::{self, TIMESTEP_FEATURES};
use crate::tensor::{DType, Device, Tensor, TensorView};
use crate::types::Precision;

/// The layers between a timestep and the table of modulation vectors.
#[derive(Clone, Debug)]
pub(in crate::denoisers) struct Modulation {
    pub time: [Linear; 2],
    pub table: Linear,
    /// Where weights and biases of the sites' LayerNorms are, (S, 2, D), if they have any; the table has them folded
    /// into it.
    pub affine: Option<usize>,
    pub sites: usize,
    pub width: usize,
}

/// Adds the layers from a timestep's features to the condition.
pub(in crate::denoisers) fn time_layers(l: &mut Layout, name: &str, width: usize) -> [Linear; 2] {
    [
        l.linear(&format!("{name}.mlp.0"), width, TIMESTEP_FEATURES),
        l.linear(&format!("{name}.mlp.2"), width, width),
    ]
}

/// Adds the layers from the condition to each owner's number of vectors, which are one layer in memory: all weights,
/// then all biases.
pub(in crate::denoisers) fn table_layer(
    l: &mut Layout,
    width: usize,
    owners: impl IntoIterator<Item = (String, usize)>,
) -> Linear {
    let owners: Vec<_> = owners.into_iter().collect();
    let n = owners.iter().map(|(_, vectors)| vectors * width).sum();
    let layer = Linear { offset: l.len, n, k: width };
    for (owner, vectors) in &owners {
        l.add(format!("{owner}.adaLN_modulation.1.weight"), &[vectors * width, width]);
    }
    for (owner, vectors) in &owners {
        l.add(format!("{owner}.adaLN_modulation.1.bias"), &[vectors * width]);
    }
    layer
}

/// What is kept on the way from timesteps to modulation vectors.
#[derive(Debug)]
pub(in crate::denoisers) struct ModulationActivations {
    features: Tensor,
    hidden: Tensor,
    hidden_silu: Tensor,
    c: Tensor,
    c_silu: Tensor,
    /// The table before LayerNorms are folded into it, where they are.
    unfolded: Option<Tensor>,
    /// (B, (3S − 1)·D).
    pub table: Tensor,
}

/// The gradients on the way back.
#[derive(Debug)]
pub(in crate::denoisers) struct ModulationGradients {
    d_silu: Tensor,
    d: Tensor,
    pub dtable: Tensor,
}

impl Modulation {
    fn columns(&self) -> usize {
        self.table.n
    }

    pub fn activations(
        &self,
        a: &mut dyn Allocate,
        batch: usize,
        precision: Precision,
    ) -> Result<ModulationActivations> {
        let half = precision.dtype();
        let mut take = |len, dtype| a.zeros(Purpose::Modulation, &[batch, len], dtype);
        Ok(ModulationActivations {
            features: take(TIMESTEP_FEATURES, half)?,
            hidden: take(self.width, DType::F32)?,
            hidden_silu: take(self.width, half)?,
            c: take(self.width, DType::F32)?,
            c_silu: take(self.width, half)?,
            unfolded: self.affine.map(|_| take(self.columns(), DType::F32)).transpose()?,
            table: take(self.columns(), DType::F32)?,
        })
    }

    pub fn gradients(&self, a: &mut dyn Allocate, batch: usize) -> Result<ModulationGradients> {
        let mut take = |len| a.zeros(Purpose::Modulation, &[batch, len], DType::F32);
        Ok(ModulationGradients {
            d_silu: take(self.width)?,
            d: take(self.width)?,
            dtable: take(self.columns())?,
        })
    }

    /// Weights and biases of LayerNorms at an offset of a flat tensor of all parameters.
    fn affine<'a>(&self, arena: &'a Tensor, offset: usize) -> Result<TensorView<'a>> {
        arena.view().part(offset, &[self.sites, 2, self.width])
    }

    /// Writes the vectors of timesteps `t` (B) to the table.
    pub fn forward(
        &self,
        parameters: Parameters,
        t: TensorView,
        acts: &mut ModulationActivations,
    ) -> Result<()> {
        let (source, [first, second]) = (Source::Arena(parameters), &self.time);
        let ModulationActivations { features, hidden, hidden_silu, c, c_silu, unfolded, table } =
            acts;
        ops::timestep_embedding(t, &mut *features)?;
        source.linear(first, features.view(), hidden.view_mut())?;
        ops::silu(&*hidden, &mut *hidden_silu)?;
        source.linear(second, hidden_silu.view(), c.view_mut())?;
        ops::silu(&*c, &mut *c_silu)?;
        let to = unfolded.as_mut().unwrap_or(table);
        source.linear(&self.table, c_silu.view(), to.view_mut())?;
        match (self.affine, unfolded) {
            (Some(at), Some(from)) => {
                ops::fold_affine(&*from, self.affine(parameters.full, at)?, &mut *table)
            }
            _ => Ok(()),
        }
    }

    /// Adds the gradients of the parameters, given that of the table, to `dp`.
    pub fn backward(
        &self,
        parameters: Parameters,
        acts: &ModulationActivations,
        gradients: &mut ModulationGradients,
        dp: &mut Tensor,
    ) -> Result<()> {
        let ModulationGradients { d_silu, d, dtable } = gradients;
        if let (Some(at), Some(from)) = (self.affine, &acts.unfolded) {
            let affine = self.affine(parameters.full, at)?;
            let daffine = dp.view_mut().part(at, affine.shape())?;
            ops::fold_affine_backward(from, affine, &mut *dtable, daffine)?;
        }
        let [first, second] = &self.time;
        plain_backward(&self.table, parameters, dtable, &acts.c_silu, Some(d_silu), dp)?;
        ops::silu_backward(&acts.c, &*d_silu, &mut *d)?;
        plain_backward(second, parameters, d, &acts.hidden_silu, Some(d_silu), dp)?;
        ops::silu_backward(&acts.hidden, &*d_silu, &mut *d)?;
        plain_backward(first, parameters, d, &acts.features, None, dp)
    }

    /// The table of each of `timesteps`, for all images of a batch, on a device; `parameters` are on the CPU, where it
    /// is computed.
    pub fn tables(
        &self,
        parameters: &Tensor,
        timesteps: &[usize],
        device: Device,
    ) -> Result<Tables> {
        let mut host = parameters.device();
        let precision = Precision::of(host);
        let mut acts = self.activations(&mut host, 1, precision)?;
        let tables = timesteps.iter().map(|&t| {
            let t = Tensor::from_f32(vec![t as f32], &[1], host)?;
            self.forward(parameters.into(), t.view(), &mut acts)?;
            acts.table.view().copied_to(device, DType::F32)
        });
        Ok(Tables(tables.collect::<Result<_>>()?))
    }

    /// Bytes that the kernels of the backward pass leave to each other on a GPU.
    pub fn scratch_bytes(&self, batch: usize) -> usize {
        let layers = self.time.iter().chain([&self.table]);
        let scratch =
            layers.map(|layer| ops::kernels::linear_backward_scratch(batch, layer.n, DType::F32));
        scratch.max().unwrap_or(0)
    }
}

/// A table of modulation vectors for each timestep of a packed network.
pub(in crate::denoisers) struct Tables(Vec<Tensor>);

impl Tables {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn at(&self, op: &'static str, timestep: usize) -> Result<TensorView<'_>> {
        match self.0.get(timestep) {
            Some(table) => Ok(table.view()),
            None => {
                let expected = format!("below {}", self.0.len());
                Err(Error::argument(op, "timestep", expected, timestep))
            }
        }
    }
}
