//! The backward pass.

use super::buffers::TimestepGradients;
use super::forward::{Source, gate_chunk, site_chunks, slot, slot_mut};
use super::{Activations, Dit, Gradients, InTraining, Linear, Recompute};
use crate::denoisers::{Parameters, Trainable};
use crate::error::Result;
use crate::ops::{self, Chunk, PatchOrder, Residual, ResidualBackward};
use crate::tensor::{DType, Tensor, TensorView, TensorViewMut};

impl Trainable for InTraining {
    fn forward(
        &mut self,
        parameters: Parameters<'_>,
        x: TensorView<'_>,
        t: TensorView<'_>,
        out: TensorViewMut<'_>,
    ) -> Result<()> {
        self.dit.forward(parameters, x, t, &mut self.acts, out)
    }

    fn backward(
        &mut self,
        parameters: Parameters<'_>,
        dout: TensorView<'_>,
        gradients: &mut Tensor,
        dx: Option<TensorViewMut<'_>>,
    ) -> Result<()> {
        const OP: &str = "Dit::backward";
        let Self { dit, acts, gradients: buffers } = self;
        let c = &dit.config;
        parameters.check(OP, dit.len)?;
        ops::expect_shape(OP, "gradients", gradients.shape(), &[dit.len])?;
        ops::expect_shape(OP, "dout", dout.shape(), &[acts.batch, c.grid, c.grid, c.channels])?;
        let table = acts.table.take().expect("a training has a table");
        let done = dit.backward(parameters, table.view(), acts, dout, buffers, gradients, dx);
        acts.table = Some(table);
        done
    }
}

impl Dit {
    /// `dp` holds the parameters' gradients.
    #[allow(clippy::too_many_arguments)]
    fn backward(
        &self,
        parameters: Parameters,
        table: TensorView,
        acts: &mut Activations,
        dout: TensorView,
        buffers: &mut Gradients,
        dp: &mut Tensor,
        dx: Option<TensorViewMut>,
    ) -> Result<()> {
        let c = &self.config;
        let chunk = |index| Chunk { table, index };
        let Gradients { patches, dh, dstream, dy, dqkv, dattended, dhidden, dtable, time } =
            buffers;
        ops::patchify(dout, &mut *patches, c.patch, PatchOrder::ChannelsLast)?;
        let last = 2 * c.depth;
        let h = slot(&acts.sites, last);
        plain_backward(&self.output, parameters, patches, h, Some(dh), dp)?;
        dstream.view_mut().fill(0.0)?;
        for k in (0..=last).rev() {
            // dh holds the gradient of site k's output.
            if acts.recompute == Recompute::Blocks && k > 0 && k < last && k.is_multiple_of(2) {
                self.block_again(k / 2 - 1, parameters, table, acts)?;
            }
            let (shift, scale) = site_chunks(k);
            let residual = match k {
                0 => None,
                _ => Some(ResidualBackward {
                    forward: Residual {
                        y: slot(&acts.branches, k - 1).view(),
                        gate: chunk(gate_chunk(k)),
                    },
                    dy: dy.view_mut(),
                }),
            };
            ops::adaln_zero_backward(
                &acts.stream[acts.stream_at(k)],
                &acts.stats[k],
                shift,
                chunk(scale),
                &*dh,
                &mut *dstream,
                residual,
                &mut *dtable,
            )?;
            if k == 0 {
                break;
            }
            let k = k - 1;
            let (i, block) = (k / 2, &self.blocks[k / 2]);
            if acts.recompute == Recompute::Normalisation {
                self.site(k, table, acts, false)?;
                if !k.is_multiple_of(2) {
                    ops::gelu(slot(&acts.hidden_pre, i), slot_mut(&mut acts.hidden, i))?;
                }
            }
            let h = slot(&acts.sites, k);
            if k.is_multiple_of(2) {
                let (qkv, attended) = (slot(&acts.qkv, i), slot(&acts.attended, i));
                plain_backward(&block.proj, parameters, dy, attended, Some(dattended), dp)?;
                let lse = slot(&acts.lse, i);
                ops::attention_backward(qkv, attended, lse, &*dattended, &mut *dqkv)?;
                let dqkv = dqkv.view().part(0, &[acts.batch, c.tokens(), 3 * c.width])?;
                backward(&block.qkv, parameters, dqkv, h.view(), Some(dh.view_mut()), dp)?;
            } else {
                let (dw, db) = block.fc2.parts(dp)?;
                ops::linear_backward_weight(&*dy, slot(&acts.hidden, i), dw, Some(db))?;
                let (w, pre) = (parameters.weight(&block.fc2)?, slot(&acts.hidden_pre, i).view());
                ops::linear_backward_input(&*dy, w, Some(pre), &mut *dhidden)?;
                plain_backward(&block.fc1, parameters, dhidden, h, Some(dh), dp)?;
            }
        }
        let dposition = dp.view_mut().part(self.position, &[c.tokens(), c.width])?;
        ops::add_position_backward(&*dstream, dposition)?;
        let want = dx.is_some();
        plain_backward(
            &self.embed,
            parameters,
            dstream,
            &acts.patches,
            want.then_some(&mut *patches),
            dp,
        )?;
        if let Some(dx) = dx {
            ops::unpatchify(&*patches, dx, c.patch, PatchOrder::ChannelsFirst)?;
        }
        let acts = &acts.timestep;
        let [first, second] = &self.time;
        let TimestepGradients { d_silu, d } = time;
        plain_backward(&self.modulation, parameters, dtable, &acts.c_silu, Some(d_silu), dp)?;
        ops::silu_backward(&acts.c, &*d_silu, &mut *d)?;
        plain_backward(second, parameters, d, &acts.hidden_silu, Some(d_silu), dp)?;
        ops::silu_backward(&acts.hidden, &*d_silu, &mut *d)?;
        plain_backward(first, parameters, d, &acts.features, None, dp)
    }

    /// What the forward pass of block i has computed, from the stream before it.
    fn block_again(
        &self,
        i: usize,
        parameters: Parameters,
        table: TensorView,
        acts: &mut Activations,
    ) -> Result<()> {
        let source = Source::Arena(parameters);
        self.site(2 * i, table, acts, false)?;
        self.branch(2 * i, &source, acts)?;
        self.site(2 * i + 1, table, acts, true)?;
        self.branch(2 * i + 1, &source, acts)
    }

    /// Bytes that the kernels of a training over `batch` images at once leave to each other on a GPU.
    pub(super) fn scratch_bytes(&self, batch: usize) -> usize {
        use crate::ops::kernels as gpu;
        let c = &self.config;
        let (n, d) = (c.tokens(), c.width);
        let rows = batch * n;
        let half = |layer: &Linear| gpu::linear_backward_scratch(rows, layer.n, DType::F16);
        let full = |layer: &Linear, rows| gpu::linear_backward_scratch(rows, layer.n, DType::F32);
        let blocks = self.blocks.iter().flat_map(|b| [&b.qkv, &b.proj, &b.fc1, &b.fc2]);
        let layers = blocks.chain([&self.output]).map(half).max().unwrap_or(0);
        let [first, second] = &self.time;
        [
            layers,
            full(&self.embed, rows),
            full(&self.modulation, batch),
            full(first, batch),
            full(second, batch),
            gpu::attention_backward_scratch(batch, n, c.heads, d / c.heads),
            gpu::adaln_zero_backward_scratch(batch, n, d),
        ]
        .into_iter()
        .max()
        .unwrap_or(0)
    }
}

fn plain_backward(
    layer: &Linear,
    parameters: Parameters,
    dy: &Tensor,
    x: &Tensor,
    dx: Option<&mut Tensor>,
    gradients: &mut Tensor,
) -> Result<()> {
    backward(layer, parameters, dy.view(), x.view(), dx.map(Tensor::view_mut), gradients)
}

fn backward(
    layer: &Linear,
    parameters: Parameters,
    dy: TensorView,
    x: TensorView,
    dx: Option<TensorViewMut>,
    gradients: &mut Tensor,
) -> Result<()> {
    let (dw, db) = layer.parts(gradients)?;
    ops::linear_backward_weight(dy, x, dw, Some(db))?;
    match dx {
        Some(dx) => ops::linear_backward_input(dy, parameters.weight(layer)?, None, dx),
        None => Ok(()),
    }
}
