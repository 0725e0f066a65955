//! A network along a residual stream: what its kind says of it, its training and its evaluations.

use super::sites::{Lists, SiteGradients, Sites};
use crate::denoisers::parts::{
    Evaluated, Modulation, ModulationActivations, ModulationGradients, Packing, Source,
};
use crate::denoisers::{Denoiser, Parameters, Trainable, Training};
use crate::device::Allocate;
use crate::error::Result;
use crate::ops::expect_shape;
use crate::tensor::{Tensor, TensorView, TensorViewMut};
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

    /// The stream's tokens of an image, and its width.
    fn stream(&self) -> (usize, usize);

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

    /// Packs what evaluations read of the parameters, modulation apart; `packing` has the stream's tokens.
    fn pack_weights(&self, packing: &mut Packing) -> Result<()>;

    /// Writes the stream's beginning, (B, N, D), f32 or of the precision's type; `scratch` has the same shape and the
    /// precision's type.
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
    let (tokens, width) = network.stream();
    [batch, tokens, width]
}

/// The memory of a forward pass.
pub(in crate::denoisers) struct Memory<N: Chain> {
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

impl<N: Chain> Evaluated for N {
    const NAME: &'static str = <N as Chain>::NAME;

    type Memory = Memory<N>;

    fn conditioning(&self) -> &Modulation {
        self.modulation()
    }

    fn pack_weights(&self, packing: &mut Packing) -> Result<()> {
        packing.tokens = self.stream().0;
        Chain::pack_weights(self, packing)
    }

    fn memory(
        &self,
        a: &mut dyn Allocate,
        batch: usize,
        precision: Precision,
    ) -> Result<Memory<N>> {
        Memory::new(self, Lists { a, recompute: None }, batch, precision)
    }

    fn evaluate(
        &self,
        memory: &mut Memory<N>,
        source: &Source,
        x: TensorView,
        table: TensorView,
        out: TensorViewMut,
    ) -> Result<()> {
        memory.run(self, source, x, table, out)
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
