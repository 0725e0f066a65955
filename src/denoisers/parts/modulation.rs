//! From timesteps to the vectors that they give to the rest of a network.

use super::weights::{Source, plain_backward};
use crate::denoisers::{Linear, Parameters};
use crate::device::{Allocate, Purpose};
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::{DType, Device, Tensor, TensorView};
use crate::types::Precision;

/// The layers between a timestep and the table of modulation vectors: sinusoids, two layers with SiLU after each, and
/// one layer, that of all vectors.
#[derive(Clone, Debug)]
pub(in crate::denoisers) struct Modulation {
    pub time: [Linear; 2],
    pub table: Linear,
    /// Where weights and biases of the sites' LayerNorms are, and their shape, (S, 2, D), if they have any; the table
    /// has them folded into it.
    pub affine: Option<(usize, [usize; 3])>,
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
    /// (B, N), N the outputs of the layer of all vectors.
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
        let (half, [first, second]) = (precision.dtype(), &self.time);
        let mut take = |len, dtype| a.zeros(Purpose::Modulation, &[batch, len], dtype);
        Ok(ModulationActivations {
            features: take(first.k, half)?,
            hidden: take(first.n, DType::F32)?,
            hidden_silu: take(first.n, half)?,
            c: take(second.n, DType::F32)?,
            c_silu: take(second.n, half)?,
            unfolded: self.affine.map(|_| take(self.columns(), DType::F32)).transpose()?,
            table: take(self.columns(), DType::F32)?,
        })
    }

    pub fn gradients(&self, a: &mut dyn Allocate, batch: usize) -> Result<ModulationGradients> {
        let width = self.time[1].n;
        let mut take = |len| a.zeros(Purpose::Modulation, &[batch, len], DType::F32);
        Ok(ModulationGradients {
            d_silu: take(width)?,
            d: take(width)?,
            dtable: take(self.columns())?,
        })
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
            (Some((at, shape)), Some(from)) => {
                ops::fold_affine(&*from, parameters.full.view().part(at, &shape)?, &mut *table)
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
        if let (Some((at, shape)), Some(from)) = (self.affine, &acts.unfolded) {
            let affine = parameters.full.view().part(at, &shape)?;
            let daffine = dp.view_mut().part(at, &shape)?;
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
