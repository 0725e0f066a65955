//! The backward pass.

use super::Unet;
use super::buffers::{Activations, Gradients, Inner, Slots};
use super::forward::{Given, gather};
use super::layers::{Attention, Conv, Layer, Norm, Res, Step};
use crate::denoisers::parts::backward;
use crate::denoisers::{Parameters, Recompute};
use crate::error::Result;
use crate::ops::{self, Activation};
use crate::tensor::{Tensor, TensorView, TensorViewMut};

/// What all parts of a backward pass need. Each adds the gradients of its parameters to `dp`.
pub(super) struct Pass<'a> {
    pub parameters: Parameters<'a>,
    pub given: Given<'a>,
    pub acts: &'a mut Activations,
    /// The first gradient of the stream is that of the layer's output at hand, and afterwards that of its input.
    pub gradients: &'a mut Gradients,
    /// Of the table of timesteps' vectors, written.
    pub dtable: &'a mut Tensor,
    pub dp: &'a mut Tensor,
}

impl Unet {
    /// The gradients of the parameters, of the table and, where it is asked for, of x.
    pub(super) fn back(
        &self,
        pass: &mut Pass,
        dout: TensorView,
        mut dx: Option<TensorViewMut>,
    ) -> Result<()> {
        let (steps, batch) = (&self.layers.steps, pass.acts.batch);
        self.end_backward(pass, dout)?;
        for (i, step) in steps.iter().enumerate().rev() {
            if let Some(join) = steps.iter().filter_map(|s| s.join).find(|join| join.from == i) {
                let Gradients { stream: [d, _], skips, .. } = &mut *pass.gradients;
                let d = d.view_mut().part(0, &step.output.of(batch))?;
                ops::add(d, skips.view(join.index)?)?;
            }
            if pass.acts.recompute != Recompute::Nothing {
                self.join(i, pass.acts)?;
            }
            match &step.layer {
                Layer::Conv(conv) => pass.conv(i, step, conv, &mut dx)?,
                Layer::Res(res) => pass.res(i, step, res)?,
                Layer::Attention(attention) => pass.attention(i, step, attention)?,
            }
            if let Some(join) = step.join {
                let Gradients { stream: [d, before], skips, .. } = &mut *pass.gradients;
                let d_joined = d.view().part(0, &step.input.of(batch))?;
                let before = before.view_mut().part(0, &steps[i - 1].output.of(batch))?;
                ops::concat_backward(d_joined, before, skips.view_mut(join.index)?)?;
                pass.gradients.stream.swap(0, 1);
            }
        }
        Ok(())
    }

    fn end_backward(&self, pass: &mut Pass, dout: TensorView) -> Result<()> {
        let Pass { parameters, given, acts, gradients, dp, .. } = pass;
        let Activations { outputs, inner, .. } = &mut **acts;
        let Inner { normed, stats, patches, .. } = inner;
        let Gradients { stream: [d, _], normed: dn, .. } = &mut **gradients;
        let norm = &self.layers.norm;
        let x = outputs.view(self.layers.steps.len() - 1)?;
        let to = Some(dn.view_mut().part(0, x.shape())?);
        let normed = normed.view(norm.site)?;
        conv_backward(&self.layers.out, *parameters, dout, normed, to, patches, dp)?;
        let dy = dn.view().part(0, x.shape())?;
        let norm = NormBackward { norm, given: *given, stats: &stats[norm.site], shift: None };
        norm.run(x, Activation::Silu, dy, d.view_mut().part(0, x.shape())?, false, None, dp)
    }
}

impl Pass<'_> {
    /// `dx`: of the network's input, for the layer that reads it.
    fn conv(
        &mut self,
        i: usize,
        step: &Step,
        conv: &Conv,
        dx: &mut Option<TensorViewMut>,
    ) -> Result<()> {
        let Activations { x, outputs, joined, inner, batch, .. } = &mut *self.acts;
        let [d, before] = &mut self.gradients.stream;
        let dy = d.view().part(0, &step.output.of(*batch))?;
        let to = match i {
            0 => dx.as_mut().map(TensorViewMut::reborrow),
            _ => Some(before.view_mut().part(0, &step.input.of(*batch))?),
        };
        let x = input(i, step, x, outputs, joined)?;
        conv_backward(conv, self.parameters, dy, x, to, &mut inner.patches, self.dp)?;
        self.gradients.stream.swap(0, 1);
        Ok(())
    }

    fn res(&mut self, i: usize, step: &Step, res: &Res) -> Result<()> {
        let Self { parameters, given, acts, gradients, dtable, dp } = self;
        let (parameters, given) = (*parameters, *given);
        let Activations { x, outputs, joined, inner, batch, recompute } = &mut **acts;
        let x = input(i, step, x, outputs, joined)?;
        match recompute {
            Recompute::Nothing => {}
            Recompute::Normalisation => inner.second_norm(res, given)?,
            Recompute::Blocks => inner.res(res, given, x)?,
        }
        let (of_x, of_y) = (step.input.of(*batch), step.output.of(*batch));
        let Gradients { stream, normed: dn, hidden: dh, .. } = &mut **gradients;
        let [d, before] = stream;
        let [first, second] = &res.norms;
        let dy = d.view().part(0, &of_y)?;
        let normed = inner.normed.view(second.site)?;
        let to = Some(dn.view_mut().part(0, &of_y)?);
        conv_backward(&res.convs[1], parameters, dy, normed, to, &mut inner.patches, dp)?;
        let shift = Some(res.shift);
        let norm = NormBackward { norm: second, given, stats: &inner.stats[second.site], shift };
        let (hidden, dnormed) = (inner.hidden.view(res.index)?, dn.view().part(0, &of_y)?);
        let (to, dtable) = (dh.view_mut().part(0, &of_y)?, Some(dtable.view_mut()));
        norm.run(hidden, Activation::Silu, dnormed, to, false, dtable, dp)?;
        if *recompute != Recompute::Nothing {
            inner.norm(first, given, x, Activation::Silu)?;
        }
        let (dhidden, to) = (dh.view().part(0, &of_y)?, Some(dn.view_mut().part(0, &of_x)?));
        let normed = inner.normed.view(first.site)?;
        conv_backward(&res.convs[0], parameters, dhidden, normed, to, &mut inner.patches, dp)?;
        if let Some(projection) = &res.projection {
            let to = Some(before.view_mut().part(0, &of_x)?);
            backward(projection, parameters, dy, x, to, dp)?;
            stream.swap(0, 1);
        }
        let norm =
            NormBackward { norm: first, given, stats: &inner.stats[first.site], shift: None };
        let (dnormed, to) = (dn.view().part(0, &of_x)?, stream[0].view_mut().part(0, &of_x)?);
        norm.run(x, Activation::Silu, dnormed, to, true, None, dp)
    }

    fn attention(&mut self, i: usize, step: &Step, attention: &Attention) -> Result<()> {
        let Self { parameters, given, acts, gradients, dp, .. } = self;
        let (parameters, given) = (*parameters, *given);
        let Activations { x, outputs, joined, inner, batch, recompute } = &mut **acts;
        let x = input(i, step, x, outputs, joined)?;
        match recompute {
            Recompute::Nothing => {}
            Recompute::Normalisation => inner.norm(&attention.norm, given, x, Activation::None)?,
            Recompute::Blocks => inner.attention(attention, given, x)?,
        }
        let Inner { normed, stats, qkv, lse, attended, .. } = inner;
        let Gradients { stream: [d, _], normed: dn, qkv: dqkv, .. } = &mut **gradients;
        let (shape, qkv) = (step.input.of(*batch), qkv.view(attention.index)?);
        let attended = attended.view(attention.index)?;
        let dy = d.view().part(0, &shape)?;
        // Until the normalisation's is written, the gradient of what is attended to has its place.
        let to = Some(dn.view_mut().part(0, attended.shape())?);
        backward(&attention.proj, parameters, dy, attended, to, dp)?;
        let lse = lse.as_ref().expect("a training keeps it").view(attention.index)?;
        let dattended = dn.view().part(0, attended.shape())?;
        let to = dqkv.view_mut().part(0, qkv.shape())?;
        ops::attention_backward(qkv, attended, lse, dattended, to)?;
        let rows = [shape[0], shape[1] * shape[2], attention.qkv.n];
        let (dqkv, to) = (dqkv.view().part(0, &rows)?, Some(dn.view_mut().part(0, &shape)?));
        let norm = &attention.norm;
        backward(&attention.qkv, parameters, dqkv, normed.view(norm.site)?, to, dp)?;
        let norm = NormBackward { norm, given, stats: &stats[norm.site], shift: None };
        let (dnormed, to) = (dn.view().part(0, &shape)?, d.view_mut().part(0, &shape)?);
        norm.run(x, Activation::None, dnormed, to, true, None, dp)
    }
}

/// What layer i has read.
fn input<'a>(
    i: usize,
    step: &Step,
    x: &'a Tensor,
    outputs: &'a Slots,
    joined: &'a Slots,
) -> Result<TensorView<'a>> {
    match step.join {
        Some(join) => joined.view(join.index),
        None if i == 0 => Ok(x.view()),
        None => outputs.view(i - 1),
    }
}

/// The gradients of a convolution's parameters, and that of x where it is asked for.
fn conv_backward(
    conv: &Conv,
    parameters: Parameters,
    dy: TensorView,
    x: TensorView,
    dx: Option<TensorViewMut>,
    patches: &mut Tensor,
    dp: &mut Tensor,
) -> Result<()> {
    let gathered = gather(patches, conv, x)?;
    let [b, cells, k] = *gathered.shape() else { unreachable!("(B, cells, 9·C)") };
    let (dw, db) = conv.linear.parts(dp)?;
    ops::linear_backward_weight(dy, gathered, dw, Some(db))?;
    let Some(dx) = dx else { return Ok(()) };
    let dpatches = patches.view_mut().part(0, &[b, cells, k])?;
    ops::linear_backward_input(dy, parameters.weight(&conv.linear)?, None, dpatches)?;
    let dpatches = patches.view().part(0, &[b, cells, k])?;
    ops::gather_patches_backward(dpatches, conv.resample, dx, false)
}

/// A normalisation on the way back.
struct NormBackward<'a> {
    norm: &'a Norm,
    given: Given<'a>,
    stats: &'a Tensor,
    /// The first column of its shift in the table.
    shift: Option<usize>,
}

impl NormBackward<'_> {
    #[allow(clippy::too_many_arguments)]
    fn run(
        &self,
        x: TensorView,
        activation: Activation,
        dy: TensorView,
        dx: TensorViewMut,
        accumulate: bool,
        dtable: Option<TensorViewMut>,
        dp: &mut Tensor,
    ) -> Result<()> {
        let Self { norm, given, stats, shift } = self;
        let of = norm.of(*given, *shift, activation)?;
        let affine = dp.view_mut().part(norm.offset, &[2 * norm.channels])?;
        let (dw, db) = affine.split(&[norm.channels])?;
        ops::group_norm_backward(x, of, *stats, dy, dx, accumulate, dw, db, dtable)
    }
}
