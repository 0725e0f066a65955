//! Evaluations of a network at fixed timesteps.

use std::fmt;
use std::sync::Arc;

use super::modulation::{Modulation, Tables};
use super::weights::{PackedWeights, Packing, Source};
use crate::denoisers::{Denoiser, Evaluator, Packed, Use};
use crate::device::Allocate;
use crate::error::Result;
use crate::ops::expect_shape;
use crate::tensor::{Device, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;

/// What a kind says of its networks' evaluations.
pub(in crate::denoisers) trait Evaluated: Denoiser + Clone + 'static {
    /// What errors call it.
    const NAME: &'static str;

    /// What an evaluation computes on the way.
    type Memory: Send;

    /// What a timestep gives to the network.
    fn conditioning(&self) -> &Modulation;

    /// Packs what evaluations read of the parameters, those of [`Evaluated::conditioning`] apart.
    fn pack_weights(&self, packing: &mut Packing) -> Result<()>;

    fn memory(
        &self,
        a: &mut dyn Allocate,
        batch: usize,
        precision: Precision,
    ) -> Result<Self::Memory>;

    /// out = F(x, t) with the vectors of t.
    fn evaluate(
        &self,
        memory: &mut Self::Memory,
        source: &Source,
        x: TensorView,
        table: TensorView,
        out: TensorViewMut,
    ) -> Result<()>;
}

/// What [`Denoiser::pack`] of such a network returns: weights in the layout of the device's matrix product, and one
/// row of vectors per timestep in place of the layers that make them.
pub(in crate::denoisers) fn pack<N: Evaluated>(
    network: &N,
    parameters: &Tensor,
    timesteps: &[usize],
    device: Device,
    precision: Precision,
) -> Result<Arc<dyn Packed>> {
    network.require(device, Use::Inference, precision)?;
    expect_shape(N::NAME, "parameters", parameters.shape(), &[network.len()])?;
    let mut weights = Packing::new(parameters, device, precision);
    network.pack_weights(&mut weights)?;
    let tables = network.conditioning().tables(parameters, timesteps, device)?;
    let network = network.clone();
    Ok(Arc::new(AtTimesteps { network, precision, weights: weights.done(), tables }))
}

struct AtTimesteps<N> {
    network: N,
    precision: Precision,
    weights: PackedWeights,
    tables: Tables,
}

impl<N: Evaluated> fmt::Debug for AtTimesteps<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtTimesteps")
            .field("denoiser", &self.network.id())
            .field("timesteps", &self.tables.len())
            .finish_non_exhaustive()
    }
}

impl<N: Evaluated> Packed for AtTimesteps<N> {
    fn evaluator(
        self: Arc<Self>,
        batch: usize,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Evaluator>> {
        let memory = self.network.memory(a, batch, self.precision)?;
        Ok(Box::new(InUse { packed: self, memory }))
    }
}

/// A packed network and the memory of its evaluations.
struct InUse<N: Evaluated> {
    packed: Arc<AtTimesteps<N>>,
    memory: N::Memory,
}

impl<N: Evaluated> Evaluator for InUse<N> {
    fn evaluate(
        &mut self,
        timestep: usize,
        x: TensorView<'_>,
        out: TensorViewMut<'_>,
    ) -> Result<()> {
        let AtTimesteps { network, weights, tables, .. } = &*self.packed;
        let table = tables.at(N::NAME, timestep)?;
        network.evaluate(&mut self.memory, &Source::Packed(weights), x, table, out)
    }
}
