//! A network ready for inference.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::buffers::TimestepActivations;
use super::forward::Source;
use super::{Activations, Dit};
use crate::denoisers::{Evaluator, Packed};
use crate::device::Allocate;
use crate::error::{Error, Result};
use crate::ops::{self, PackedWeight};
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;

/// A network ready for inference at fixed timesteps: weights in the layout of the device's matrix
/// product, and one row of modulation vectors per timestep in place of the layers that make them.
pub(super) struct PackedDit {
    dit: Dit,
    precision: Precision,
    pub(super) layers: HashMap<usize, (PackedWeight, Tensor)>,
    pub(super) position: Tensor,
    tables: Vec<Tensor>,
}

impl fmt::Debug for PackedDit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedDit")
            .field("config", self.dit.config())
            .field("timesteps", &self.tables.len())
            .finish_non_exhaustive()
    }
}

impl PackedDit {
    /// Packs `parameters`, which are on the CPU, for evaluations at `timesteps` on a device.
    pub fn new(
        dit: &Dit,
        parameters: &Tensor,
        timesteps: &[usize],
        device: Device,
        precision: Precision,
    ) -> Result<Self> {
        ops::expect_shape("Dit::pack", "parameters", parameters.shape(), &[dit.len])?;
        let c = &dit.config;
        // An image's rows may be paired only with one another: scores do not depend on the batch.
        let paired = c.tokens().is_multiple_of(2);
        let mut layers = HashMap::new();
        let blocks = dit.blocks.iter().flat_map(|b| [b.qkv, b.proj, b.fc1, b.fc2]);
        for layer in [dit.embed, dit.output].into_iter().chain(blocks) {
            let weight = layer.weight(parameters)?;
            let weight = match paired {
                true => PackedWeight::in_pairs(device, weight)?,
                false => PackedWeight::on(device, weight)?,
            };
            let bias = layer.bias(parameters)?.copied_to(device, precision.dtype())?;
            layers.insert(layer.offset, (weight, bias));
        }
        // The vectors are computed on the host, in its precision.
        let mut host = parameters.device();
        let of_host = Precision::of(host);
        let mut acts = TimestepActivations::new(&mut host, c.width, 1, of_host)?;
        let mut tables = Vec::new();
        for &t in timesteps {
            let shape = [1, c.chunks() * c.width];
            let mut table = Tensor::zeros(&shape, DType::F32, parameters.device())?;
            let t = Tensor::from_f32(vec![t as f32], &[1], parameters.device())?;
            dit.modulation_table(parameters, &t, &mut acts, &mut table)?;
            tables.push(match device {
                Device::Cpu => table,
                gpu => table.view().copied_to(gpu, DType::F32)?,
            });
        }
        let position = parameters.view().part(dit.position, &[c.tokens(), c.width])?;
        let position = position.copied_to(device, DType::F32)?;
        Ok(Self { dit: dit.clone(), precision, layers, position, tables })
    }
}

impl Packed for PackedDit {
    fn evaluator(
        self: Arc<Self>,
        batch: usize,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Evaluator>> {
        let acts = Activations::of_inference(a, &self.dit.config, batch, self.precision)?;
        Ok(Box::new(InUse { network: self, acts }))
    }
}

/// A packed network and the memory of its evaluations.
struct InUse {
    network: Arc<PackedDit>,
    acts: Activations,
}

impl Evaluator for InUse {
    fn evaluate(
        &mut self,
        timestep: usize,
        x: TensorView<'_>,
        out: TensorViewMut<'_>,
    ) -> Result<()> {
        let Self { network, acts } = self;
        let table = network.tables.get(timestep).ok_or_else(|| {
            let expected = format!("below {}", network.tables.len());
            Error::argument("Dit", "timestep", expected, timestep)
        })?;
        network.dit.run(&Source::Packed(network), x, table.view(), acts, out)
    }
}
