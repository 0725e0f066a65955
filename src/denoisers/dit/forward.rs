//! The forward pass.

use super::buffers::TimestepActivations;
use super::packed::PackedDit;
use super::{Activations, Dit, Linear, PER_BLOCK};
use crate::denoisers::Parameters;
use crate::error::Result;
use crate::ops::{self, Activation, Chunk, PatchOrder, Residual, Weight};
use crate::tensor::{DType, Tensor, TensorView, TensorViewMut};

/// Of all normalisations.
const EPS: f32 = 1e-6;

impl Dit {
    /// The modulation vectors of timesteps `t` (B), as a table (B, (6·depth + 2)·D).
    pub(super) fn modulation_table<'a>(
        &self,
        parameters: impl Into<Parameters<'a>>,
        t: impl Into<TensorView<'a>>,
        acts: &mut TimestepActivations,
        table: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        let (parameters, t, table) = (parameters.into(), t.into(), table.into());
        let [first, second] = &self.time;
        let TimestepActivations { features, hidden, hidden_silu, c, c_silu } = acts;
        ops::timestep_embedding(t, &mut *features)?;
        plain(first, parameters, features.view(), hidden.view_mut())?;
        ops::silu(&*hidden, &mut *hidden_silu)?;
        plain(second, parameters, hidden_silu.view(), c.view_mut())?;
        ops::silu(&*c, &mut *c_silu)?;
        plain(&self.modulation, parameters, c_silu.view(), table)
    }

    pub(super) fn forward(
        &self,
        parameters: Parameters,
        x: TensorView,
        t: TensorView,
        acts: &mut Activations,
        out: TensorViewMut,
    ) -> Result<()> {
        parameters.check("Dit", self.len)?;
        // Taken out for the time of the pass, which writes to the rest.
        let mut table = acts.table.take().expect("a training has a table");
        let done = self
            .modulation_table(parameters, t, &mut acts.timestep, &mut table)
            .and_then(|()| self.run(&Source::Arena(parameters), x, table.view(), acts, out));
        acts.table = Some(table);
        done
    }

    /// out = F(x, t) with the modulation vectors of t.
    pub(super) fn run(
        &self,
        source: &Source,
        x: TensorView,
        table: TensorView,
        acts: &mut Activations,
        mut out: TensorViewMut,
    ) -> Result<()> {
        let c = &self.config;
        let grid = [acts.batch, c.grid, c.grid, c.channels];
        ops::expect_shape("Dit", "x", x.shape(), &grid)?;
        ops::expect_shape("Dit", "out", out.shape(), &grid)?;
        ops::patchify(x, &mut acts.patches, c.patch, PatchOrder::ChannelsFirst)?;
        // The first site's output is not needed before the site is reached.
        let tokens = slot_mut(&mut acts.sites, 0);
        source.linear(&self.embed, acts.patches.view(), tokens.view_mut())?;
        ops::add_position(&*tokens, source.position(self)?, &mut acts.stream[0])?;
        self.site(0, table, acts, false)?;
        for k in 0..2 * c.depth {
            self.branch(k, source, acts)?;
            self.site(k + 1, table, acts, true)?;
        }
        let h = slot(&acts.sites, 2 * c.depth);
        source.linear(&self.output, h.view(), acts.patches_out.view_mut())?;
        ops::unpatchify(&acts.patches_out, out.reborrow(), c.patch, PatchOrder::ChannelsLast)
    }

    /// Site k: joins branch k − 1 to the stream before it, or takes the stream as it is after it.
    pub(super) fn site(
        &self,
        k: usize,
        table: TensorView,
        acts: &mut Activations,
        join: bool,
    ) -> Result<()> {
        let chunk = |index| Chunk { table, index };
        let (shift, scale) = site_chunks(k);
        let (shift, scale) = (chunk(shift), chunk(scale));
        let now = acts.stream_at(k);
        let before = if join { acts.stream_at(k - 1) } else { now };
        let h = slot_mut(&mut acts.sites, k);
        let stats = acts.stats.get_mut(k).map(Tensor::view_mut);
        if !join {
            return ops::adaln_zero(&acts.stream[now], None, shift, scale, EPS, None, h, stats);
        }
        let [x, x_out] = acts
            .stream
            .get_disjoint_mut([before, now])
            .expect("the stream alternates between two tensors at least");
        let y = slot(&acts.branches, k - 1).view();
        let residual = Some(Residual { y, gate: chunk(gate_chunk(k)) });
        ops::adaln_zero(x.view(), residual, shift, scale, EPS, Some(x_out.view_mut()), h, stats)
    }

    /// Branch k: attention, or the MLP, of what site k gives.
    pub(super) fn branch(&self, k: usize, source: &Source, acts: &mut Activations) -> Result<()> {
        let c = &self.config;
        let (i, block) = (k / 2, &self.blocks[k / 2]);
        let h = slot(&acts.sites, k).view();
        let y = slot_mut(&mut acts.branches, k).view_mut();
        if k.is_multiple_of(2) {
            let qkv = slot_mut(&mut acts.qkv, i);
            let joined = [acts.batch, c.tokens(), 3 * c.width];
            source.linear(&block.qkv, h, qkv.view_mut().part(0, &joined)?)?;
            let lse = (!acts.lse.is_empty()).then(|| slot_mut(&mut acts.lse, i).view_mut());
            let attended = slot_mut(&mut acts.attended, i);
            ops::attention(&*qkv, &mut *attended, lse)?;
            source.linear(&block.proj, attended.view(), y)
        } else {
            let hidden = slot_mut(&mut acts.hidden, i);
            let pre = &mut acts.hidden_pre;
            let pre = (!pre.is_empty()).then(|| slot_mut(pre, i).view_mut());
            let (w, b) = source.weights(&block.fc1, hidden.dtype())?;
            ops::linear(h, w, Some(b), Activation::Gelu, pre, &mut *hidden)?;
            source.linear(&block.fc2, hidden.view(), y)
        }
    }
}

/// Chunks of site k's shift and scale.
pub(super) fn site_chunks(k: usize) -> (usize, usize) {
    let shift = k / 2 * PER_BLOCK + k % 2 * 3;
    (shift, shift + 1)
}

/// Chunk of the gate by which site k joins branch k − 1.
pub(super) fn gate_chunk(k: usize) -> usize {
    site_chunks(k - 1).0 + 2
}

/// The tensor of index i, where a list may have fewer that take turns.
pub(super) fn slot(tensors: &[Tensor], i: usize) -> &Tensor {
    &tensors[i % tensors.len()]
}

pub(super) fn slot_mut(tensors: &mut [Tensor], i: usize) -> &mut Tensor {
    let n = tensors.len();
    &mut tensors[i % n]
}

fn plain(layer: &Linear, from: Parameters, x: TensorView, y: TensorViewMut) -> Result<()> {
    let (w, b) = (from.weight(layer)?, from.bias(layer, y.dtype())?);
    ops::linear(x, w, Some(b), Activation::None, None, y)
}

/// Where a forward pass takes its weights from.
pub(super) enum Source<'a> {
    Arena(Parameters<'a>),
    Packed(&'a PackedDit),
}

impl Source<'_> {
    /// The weight, and the bias for an output of this type.
    fn weights(&self, layer: &Linear, output: DType) -> Result<(Weight<'_>, TensorView<'_>)> {
        match self {
            Source::Arena(from) => Ok((from.weight(layer)?.into(), from.bias(layer, output)?)),
            Source::Packed(packed) => {
                let (weight, bias) = &packed.layers[&layer.offset];
                Ok((weight.into(), bias.view()))
            }
        }
    }

    fn linear(&self, layer: &Linear, x: TensorView, y: TensorViewMut) -> Result<()> {
        let (w, b) = self.weights(layer, y.dtype())?;
        ops::linear(x, w, Some(b), Activation::None, None, y)
    }

    fn position(&self, dit: &Dit) -> Result<TensorView<'_>> {
        let shape = [dit.config.tokens(), dit.config.width];
        match self {
            Source::Arena(from) => from.full.view().part(dit.position, &shape),
            Source::Packed(packed) => packed.position.view().part(0, &shape),
        }
    }
}
