//! The forward and the backward pass.

use super::buffers::{Activations, Gradients};
use super::{BRANCHES, Dit};
use crate::denoisers::Linear;
use crate::denoisers::adaln::{self, Chain, Lists, slot, slot_mut};
use crate::denoisers::parts::{Modulation, Packing, Source, backward, plain_backward};
use crate::device::Allocate;
use crate::error::Result;
use crate::ops::{self, Activation, PatchOrder, kernels};
use crate::tensor::{DType, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;

type Backward<'a> = adaln::Backward<'a, Dit>;

impl Chain for Dit {
    const NAME: &'static str = "Dit";

    type Activations = Activations;
    type Gradients = Gradients;

    fn modulation(&self) -> &Modulation {
        &self.modulation
    }

    fn blocks(&self) -> (usize, usize) {
        (self.config.depth, BRANCHES)
    }

    fn stream(&self) -> (usize, usize) {
        (self.config.tokens(), self.config.width)
    }

    fn activations(
        &self,
        lists: &mut Lists,
        batch: usize,
        precision: Precision,
    ) -> Result<Activations> {
        Activations::new(lists, &self.config, batch, precision)
    }

    fn gradients(
        &self,
        a: &mut dyn Allocate,
        batch: usize,
        precision: Precision,
    ) -> Result<Gradients> {
        Gradients::new(a, &self.config, batch, precision)
    }

    fn scratch_bytes(&self, batch: usize) -> usize {
        let c = &self.config;
        let (n, rows) = (c.tokens(), batch * c.tokens());
        let blocks = self.blocks.iter().flat_map(|b| [&b.qkv, &b.proj, &b.fc1, &b.fc2]);
        let half = |layer: &Linear| kernels::linear_backward_scratch(rows, layer.n, DType::F16);
        let layers = blocks.chain([&self.output]).map(half).max().unwrap_or(0);
        layers
            .max(kernels::linear_backward_scratch(rows, self.embed.n, DType::F32))
            .max(kernels::attention_backward_scratch(batch, n, c.heads, c.width / c.heads))
    }

    fn pack_weights(&self, packing: &mut Packing) -> Result<()> {
        let mut blocks = self.blocks.iter().flat_map(|b| [&b.qkv, &b.proj, &b.fc1, &b.fc2]);
        blocks.try_for_each(|layer| packing.layer(layer))?;
        for layer in [&self.embed, &self.output] {
            packing.outer_layer(layer)?;
        }
        packing.tensor(self.position, &self.position_shape())
    }

    fn begin(
        &self,
        source: &Source,
        x: TensorView,
        acts: &mut Activations,
        scratch: &mut Tensor,
        stream: &mut Tensor,
    ) -> Result<()> {
        ops::patchify(x, &mut acts.patches, self.config.patch, PatchOrder::ChannelsFirst)?;
        source.linear(&self.embed, acts.patches.view(), scratch.view_mut())?;
        let position = source.tensor(self.position, &self.position_shape())?;
        ops::add_position(&*scratch, position, stream)
    }

    /// Attention of block k/2 where k is even, its MLP where k is odd.
    fn branch(
        &self,
        k: usize,
        source: &Source,
        h: TensorView,
        acts: &mut Activations,
        y: TensorViewMut,
    ) -> Result<()> {
        let (i, block) = (k / BRANCHES, &self.blocks[k / BRANCHES]);
        if k.is_multiple_of(2) {
            let qkv = slot_mut(&mut acts.qkv, i);
            let joined = qkv.view_mut().part(0, &self.joined(h))?;
            source.linear(&block.qkv, h, joined)?;
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

    fn end(
        &self,
        source: &Source,
        h: TensorView,
        acts: &mut Activations,
        out: TensorViewMut,
    ) -> Result<()> {
        source.linear(&self.output, h, acts.patches_out.view_mut())?;
        ops::unpatchify(&acts.patches_out, out, self.config.patch, PatchOrder::ChannelsLast)
    }

    fn branch_again(&self, k: usize, acts: &mut Activations) -> Result<()> {
        if k.is_multiple_of(2) {
            return Ok(());
        }
        let i = k / BRANCHES;
        ops::gelu(slot(&acts.hidden_pre, i), slot_mut(&mut acts.hidden, i))
    }

    fn end_backward(
        &self,
        h: &Tensor,
        dout: TensorView,
        dh: &mut Tensor,
        pass: &mut Backward,
    ) -> Result<()> {
        let patches = &mut pass.gradients.patches;
        ops::patchify(dout, &mut *patches, self.config.patch, PatchOrder::ChannelsLast)?;
        plain_backward(&self.output, pass.parameters, patches, h, Some(dh), pass.dp)
    }

    fn branch_backward(
        &self,
        k: usize,
        h: &Tensor,
        dy: &Tensor,
        dh: &mut Tensor,
        pass: &mut Backward,
    ) -> Result<()> {
        let Backward { parameters, acts, gradients, dp } = pass;
        let (parameters, i, block) = (*parameters, k / BRANCHES, &self.blocks[k / BRANCHES]);
        let Gradients { dqkv, dattended, dhidden, .. } = &mut **gradients;
        if k.is_multiple_of(2) {
            let (qkv, attended) = (slot(&acts.qkv, i), slot(&acts.attended, i));
            plain_backward(&block.proj, parameters, dy, attended, Some(dattended), dp)?;
            let lse = slot(&acts.lse, i);
            ops::attention_backward(qkv, attended, lse, &*dattended, &mut *dqkv)?;
            let dqkv = dqkv.view().part(0, &self.joined(h.view()))?;
            backward(&block.qkv, parameters, dqkv, h.view(), Some(dh.view_mut()), dp)
        } else {
            let (dw, db) = block.fc2.parts(dp)?;
            ops::linear_backward_weight(dy, slot(&acts.hidden, i), dw, Some(db))?;
            let (w, pre) = (parameters.weight(&block.fc2)?, slot(&acts.hidden_pre, i).view());
            ops::linear_backward_input(dy, w, Some(pre), &mut *dhidden)?;
            plain_backward(&block.fc1, parameters, dhidden, h, Some(dh), dp)
        }
    }

    fn begin_backward(
        &self,
        dstream: &Tensor,
        dx: Option<TensorViewMut>,
        pass: &mut Backward,
    ) -> Result<()> {
        let Backward { parameters, acts, gradients, dp } = pass;
        let dposition = dp.view_mut().part(self.position, &self.position_shape())?;
        ops::add_position_backward(dstream, dposition)?;
        let patches = &mut gradients.patches;
        let to = dx.is_some().then_some(&mut *patches);
        plain_backward(&self.embed, *parameters, dstream, &acts.patches, to, dp)?;
        match dx {
            Some(dx) => {
                ops::unpatchify(&*patches, dx, self.config.patch, PatchOrder::ChannelsFirst)
            }
            None => Ok(()),
        }
    }
}

impl Dit {
    fn position_shape(&self) -> [usize; 2] {
        [self.config.tokens(), self.config.width]
    }

    /// q, k and v of the tokens of h as one matrix.
    fn joined(&self, h: TensorView) -> [usize; 3] {
        [h.shape()[0], h.shape()[1], 3 * self.config.width]
    }
}
