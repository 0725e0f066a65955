//! The forward and the backward pass.

use super::Mlp;
use crate::denoisers::adaln::{self, Chain, Lists, slot, slot_mut};
use crate::denoisers::parts::{Modulation, Packing, Source, backward, plain_backward};
use crate::device::{Allocate, Purpose};
use crate::error::Result;
use crate::ops::{self, PatchOrder, kernels};
use crate::tensor::{DType, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;

type Backward<'a> = adaln::Backward<'a, Mlp>;

/// A forward pass's activations beside those of its sites.
#[derive(Debug)]
pub(in crate::denoisers) struct Activations {
    /// The input as matrix products read it, (B, N, C).
    x: Tensor,
    /// Before the branches' SiLU, and after it.
    hidden_pre: Vec<Tensor>,
    hidden: Vec<Tensor>,
}

impl Chain for Mlp {
    const NAME: &'static str = "Mlp";

    type Activations = Activations;
    /// Before a branch's SiLU.
    type Gradients = Tensor;

    fn modulation(&self) -> &Modulation {
        &self.modulation
    }

    fn blocks(&self) -> (usize, usize) {
        (self.config.depth, 1)
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
        let (c, half) = (&self.config, precision.dtype());
        let wide = [batch, c.tokens(), c.width];
        Ok(Activations {
            x: lists.a.zeros(Purpose::Activations, &[batch, c.tokens(), c.channels], half)?,
            hidden_pre: lists.of_blocks(c.depth, &wide, half)?,
            hidden: lists.of_activations(c.depth, &wide, half)?,
        })
    }

    fn gradients(
        &self,
        a: &mut dyn Allocate,
        batch: usize,
        precision: Precision,
    ) -> Result<Tensor> {
        let wide = [batch, self.config.tokens(), self.config.width];
        a.zeros(Purpose::ActivationGradients, &wide, precision.dtype())
    }

    fn scratch_bytes(&self, batch: usize) -> usize {
        let linear = |n, dy| kernels::linear_backward_scratch(batch * self.config.tokens(), n, dy);
        linear(self.config.width, DType::F32).max(linear(self.config.channels, DType::F16))
    }

    fn pack_weights(&self, packing: &mut Packing) -> Result<()> {
        packing.outer_layer(&self.input)?;
        self.blocks.iter().flatten().try_for_each(|layer| packing.layer(layer))?;
        packing.outer_layer(&self.output)
    }

    fn begin(
        &self,
        source: &Source,
        x: TensorView,
        acts: &mut Activations,
        _scratch: &mut Tensor,
        stream: &mut Tensor,
    ) -> Result<()> {
        ops::patchify(x, &mut acts.x, 1, PatchOrder::ChannelsLast)?;
        source.linear(&self.input, acts.x.view(), stream.view_mut())
    }

    fn branch(
        &self,
        k: usize,
        source: &Source,
        h: TensorView,
        acts: &mut Activations,
        y: TensorViewMut,
    ) -> Result<()> {
        let [first, second] = &self.blocks[k];
        let pre = slot_mut(&mut acts.hidden_pre, k);
        let hidden = slot_mut(&mut acts.hidden, k);
        source.linear(first, h, pre.view_mut())?;
        ops::silu(&*pre, &mut *hidden)?;
        source.linear(second, hidden.view(), y)
    }

    fn end(
        &self,
        source: &Source,
        h: TensorView,
        _acts: &mut Activations,
        out: TensorViewMut,
    ) -> Result<()> {
        source.linear(&self.output, h, out)
    }

    fn branch_again(&self, k: usize, acts: &mut Activations) -> Result<()> {
        ops::silu(slot(&acts.hidden_pre, k), slot_mut(&mut acts.hidden, k))
    }

    fn end_backward(
        &self,
        h: &Tensor,
        dout: TensorView,
        dh: &mut Tensor,
        pass: &mut Backward,
    ) -> Result<()> {
        let dh = Some(dh.view_mut());
        backward(&self.output, pass.parameters, dout, h.view(), dh, pass.dp)
    }

    fn branch_backward(
        &self,
        k: usize,
        h: &Tensor,
        dy: &Tensor,
        dh: &mut Tensor,
        pass: &mut Backward,
    ) -> Result<()> {
        let Backward { parameters, acts, gradients: dpre, dp } = pass;
        let (parameters, [first, second]) = (*parameters, &self.blocks[k]);
        // Until dh is written, the gradient after SiLU has its place.
        plain_backward(second, parameters, dy, slot(&acts.hidden, k), Some(dh), dp)?;
        ops::silu_backward(slot(&acts.hidden_pre, k), &*dh, &mut **dpre)?;
        plain_backward(first, parameters, dpre, h, Some(dh), dp)
    }

    fn begin_backward(
        &self,
        dstream: &Tensor,
        dx: Option<TensorViewMut>,
        pass: &mut Backward,
    ) -> Result<()> {
        let (dy, x) = (dstream.view(), pass.acts.x.view());
        backward(&self.input, pass.parameters, dy, x, dx, pass.dp)
    }
}
