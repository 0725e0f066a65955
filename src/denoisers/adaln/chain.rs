//! A network along a residual stream: what its kind says of it, its training and its evaluations.

use std::fmt;
use std::sync::Arc;

use super::modulation::{Modulation, ModulationActivations, ModulationGradients, Tables};
use super::sites::{Lists, SiteGradients, Sites};
use super::weights::{PackedWeights, Packing, Source};
use crate::denoisers::{Denoiser, Evaluator, Packed, Parameters, Trainable, Training, Use};
use crate::device::Allocate;
use crate::error::Result;
use crate::ops::expect_shape;
use crate::tensor::{Device, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;

/// What a kind says of its networks.
pub(in crate::denoisers) trait Chain: Denoiser + Clone + 'static {
    /// What errors call it.
    const NAME: &'static str;

    /// What a forward pass computes beside its sites.
    type Activations: Send;
    /// Where a backward pass puts its results.
    type Gradients: Send;

    fn modulation(&self) -> &Modulation;

    /// Blocks, and branches of each.
    fn blocks(&self) -> (usize, usize);

    /// The stream's tokens of an image.
    fn tokens(&self) -> usize;

    fn activations(
        &self,
        lists: &mut Lists,
        batch: usize,
        precision: Precision,
    ) -> Result<Self::Activations>;

    fn gradients(
        &self,
        a: &mut dyn Allocate,
        batch: usize,
        precision: Precision,
    ) -> Result<Self::Gradients>;

    /// Bytes that the kernels of the backward pass leave to each other on a GPU, sites and modulation apart.
    fn scratch_bytes(&self, batch: usize) -> usize;

    /// Packs what evaluations read of the parameters, modulation apart.
    fn pack_weights(&self, packing: &mut Packing) -> Result<()>;

    /// Writes the stream's beginning, f32 (B, N, D); `scratch` has the same shape and the precision's type.
    fn begin(
        &self,
        source: &Source,
        x: TensorView,
        acts: &mut Self::Activations,
        scratch: &mut Tensor,
        stream: &mut Tensor,
    ) -> Result<()>;

    /// y = branch k of h, the output of site k.
    fn branch(
        &self,
        k: usize,
        source: &Source,
        h: TensorView,
        acts: &mut Self::Activations,
        y: TensorViewMut,
    ) -> Result<()>;

    /// The network's output, of that of the last site.
    fn end(
        &self,
        source: &Source,
        h: TensorView,
        acts: &mut Self::Activations,
        out: TensorViewMut,
    ) -> Result<()>;

    /// Computes the outputs of branch k's activation functions again.
    fn branch_again(&self, k: usize, acts: &mut Self::Activations) -> Result<()>;

    /// dh from dout.
    fn end_backward(
        &self,
        h: &Tensor,
        dout: TensorView,
        dh: &mut Tensor,
        pass: &mut Backward<Self>,
    ) -> Result<()>;

    /// dh from dy.
    fn branch_backward(
        &self,
        k: usize,
        h: &Tensor,
        dy: &Tensor,
        dh: &mut Tensor,
        pass: &mut Backward<Self>,
    ) -> Result<()>;

    /// dx, where it is asked for, from the gradient of the stream's beginning.
    fn begin_backward(
        &self,
        dstream: &Tensor,
        dx: Option<TensorViewMut>,
        pass: &mut Backward<Self>,
    ) -> Result<()>;
}

/// What all parts of a backward pass need. Each adds the gradients of its parameters to `dp`.
pub(in crate::denoisers) struct Backward<'a, N: Chain> {
    pub parameters: Parameters<'a>,
    pub acts: &'a mut N::Activations,
    pub gradients: &'a mut N::Gradients,
    pub dp: &'a mut Tensor,
}

/// (B, N, D).
fn stream_shape<N: Chain>(network: &N, batch: usize) -> [usize; 3] {
    [batch, network.tokens(), network.modulation().width]
}

/// The memory of a forward pass.
struct Memory<N: Chain> {
    batch: usize,
    sites: Sites,
    acts: N::Activations,
}

impl<N: Chain> Memory<N> {
    fn new(network: &N, mut lists: Lists, batch: usize, precision: Precision) -> Result<Self> {
        let stream = stream_shape(network, batch);
        Ok(Self {
            batch,
            sites: Sites::new(&mut lists, network.blocks(), &stream, precision.dtype())?,
            acts: network.activations(&mut lists, batch, precision)?,
        })
    }

    /// out = F(x, t) with the modulation vectors of t.
    fn run(
        &mut self,
        network: &N,
        source: &Source,
        x: TensorView,
        table: TensorView,
        out: TensorViewMut,
    ) -> Result<()> {
        let Self { batch, sites, acts } = self;
        let grid = network.features().of(*batch);
        expect_shape(N::NAME, "x", x.shape(), &grid)?;
        expect_shape(N::NAME, "out", out.shape(), &grid)?;
        let (scratch, stream) = sites.beginning();
        network.begin(source, x, acts, scratch, stream)?;
        sites.forward(network, source, table, acts)?;
        network.end(source, sites.output().view(), acts, out)
    }
}

/// What [`Denoiser::trainable`] of such a network returns.
pub(in crate::denoisers) fn trainable<N: Chain>(
    network: &N,
    batch: usize,
    how: Training,
    a: &mut dyn Allocate,
) -> Result<Box<dyn Trainable>> {
    let Training { precision, recompute } = how;
    precision.require(N::NAME, a.device())?;
    let (stream, modulation) = (stream_shape(network, batch), network.modulation());
    let lists = Lists { a, recompute: Some(recompute) };
    let memory = Memory::new(network, lists, batch, precision)?;
    let of_table = modulation.activations(a, batch, precision)?;
    let gradients = network.gradients(a, batch, precision)?;
    let of_sites = SiteGradients::new(a, &stream, precision.dtype())?;
    let dtable = modulation.gradients(a, batch)?;
    let scratch = network.scratch_bytes(batch).max(Sites::scratch_bytes(stream));
    a.scratch(scratch.max(modulation.scratch_bytes(batch)))?;
    let network = network.clone();
    Ok(Box::new(InTraining { network, memory, of_table, gradients, of_sites, dtable }))
}

/// A network and the memory of its training.
struct InTraining<N: Chain> {
    network: N,
    memory: Memory<N>,
    of_table: ModulationActivations,
    gradients: N::Gradients,
    of_sites: SiteGradients,
    dtable: ModulationGradients,
}

impl<N: Chain> Trainable for InTraining<N> {
    fn forward(
        &mut self,
        parameters: Parameters<'_>,
        x: TensorView<'_>,
        t: TensorView<'_>,
        out: TensorViewMut<'_>,
    ) -> Result<()> {
        let Self { network, memory, of_table, .. } = self;
        parameters.check(N::NAME, network.len())?;
        network.modulation().forward(parameters, t, of_table)?;
        memory.run(network, &Source::Arena(parameters), x, of_table.table.view(), out)
    }

    fn backward(
        &mut self,
        parameters: Parameters<'_>,
        dout: TensorView<'_>,
        dp: &mut Tensor,
        dx: Option<TensorViewMut<'_>>,
    ) -> Result<()> {
        let Self { network, memory, of_table, gradients, of_sites, dtable } = self;
        let Memory { batch, sites, acts } = memory;
        parameters.check(N::NAME, network.len())?;
        expect_shape(N::NAME, "gradients", dp.shape(), &[network.len()])?;
        expect_shape(N::NAME, "dout", dout.shape(), &network.features().of(*batch))?;
        let mut pass = Backward { parameters, acts, gradients, dp };
        network.end_backward(sites.output(), dout, &mut of_sites.dh, &mut pass)?;
        sites.backward(network, of_table.table.view(), of_sites, &mut dtable.dtable, &mut pass)?;
        network.begin_backward(&of_sites.dstream, dx, &mut pass)?;
        network.modulation().backward(parameters, of_table, dtable, dp)
    }
}

/// What [`Denoiser::pack`] of such a network returns: weights in the layout of the device's matrix product, and one
/// row of modulation vectors per timestep in place of the layers that make them.
pub(in crate::denoisers) fn pack<N: Chain>(
    network: &N,
    parameters: &Tensor,
    timesteps: &[usize],
    device: Device,
    precision: Precision,
) -> Result<Arc<dyn Packed>> {
    network.require(device, Use::Inference, precision)?;
    expect_shape(N::NAME, "parameters", parameters.shape(), &[network.len()])?;
    let mut weights = Packing::new(parameters, network.tokens(), device, precision);
    network.pack_weights(&mut weights)?;
    let tables = network.modulation().tables(parameters, timesteps, device)?;
    let network = network.clone();
    Ok(Arc::new(PackedChain { network, precision, weights: weights.done(), tables }))
}

struct PackedChain<N> {
    network: N,
    precision: Precision,
    weights: PackedWeights,
    tables: Tables,
}

impl<N: Chain> fmt::Debug for PackedChain<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedChain")
            .field("denoiser", &self.network.id())
            .field("timesteps", &self.tables.len())
            .finish_non_exhaustive()
    }
}

impl<N: Chain> Packed for PackedChain<N> {
    fn evaluator(
        self: Arc<Self>,
        batch: usize,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Evaluator>> {
        let lists = Lists { a, recompute: None };
        let memory = Memory::new(&self.network, lists, batch, self.precision)?;
        Ok(Box::new(InUse { packed: self, memory }))
    }
}

/// A packed network and the memory of its evaluations.
struct InUse<N: Chain> {
    packed: Arc<PackedChain<N>>,
    memory: Memory<N>,
}

impl<N: Chain> Evaluator for InUse<N> {
    fn evaluate(
        &mut self,
        timestep: usize,
        x: TensorView<'_>,
        out: TensorViewMut<'_>,
    ) -> Result<()> {
        let PackedChain { network, weights, tables, .. } = &*self.packed;
        let table = tables.at(N::NAME, timestep)?;
        self.memory.run(network, &Source::Packed(weights), x, table, out)
    }
}
