//! A network ready for inference.

use std::collections::HashMap;
use std::fmt;

use super::buffers::TimestepActivations;
use super::forward::Source;
use super::{Activations, Dit, stored};
use crate::error::{Error, Result};
use crate::ops::{self, PackedWeight};
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};

/// A network ready for inference at fixed timesteps: weights in the layout of the device's matrix
/// product, and one row of modulation vectors per timestep in place of the layers that make them.
pub struct PackedDit {
    dit: Dit,
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
    ///
    /// # Errors
    /// [`Error::Shape`] if `parameters` is not of this network; [`Error::OutOfMemory`] if the device has
    /// not enough memory; those of [`DitConfig::require`](super::DitConfig::require).
    pub fn new(
        dit: &Dit,
        parameters: &Tensor,
        timesteps: &[usize],
        device: Device,
    ) -> Result<Self> {
        ops::expect_shape("PackedDit::new", "parameters", parameters.shape(), &[dit.len])?;
        let c = &dit.config;
        c.require(device)?;
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
            let bias = layer.bias(parameters)?.copied_to(device, stored(device))?;
            layers.insert(layer.offset, (weight, bias));
        }
        let mut acts = TimestepActivations::new(&mut parameters.device(), c.width, 1)?;
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
        Ok(Self { dit: dit.clone(), layers, position, tables })
    }

    /// The network's structure.
    pub fn dit(&self) -> &Dit {
        &self.dit
    }

    /// out = F(x, t), t the timestep of index `timestep` among those the network was packed for.
    ///
    /// `x`, `out`: (B, G, G, C).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit the network or `acts`; [`Error::Argument`] if
    /// there is no such timestep.
    pub fn forward<'a>(
        &self,
        x: impl Into<TensorView<'a>>,
        timestep: usize,
        acts: &mut Activations,
        out: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        let table = self.tables.get(timestep).ok_or_else(|| {
            let expected = format!("below {}", self.tables.len());
            Error::argument("PackedDit::forward", "timestep", expected, timestep)
        })?;
        self.dit.run(&Source::Packed(self), x.into(), table.view(), acts, out.into())
    }
}
