//! The forward pass.

use super::Unet;
use super::buffers::{Activations, Inner};
use super::config::GROUPS;
use super::layers::{Attention, Conv, Layer, Norm, Res};
use crate::denoisers::Denoiser;
use crate::denoisers::parts::Source;
use crate::error::Result;
use crate::ops::{self, Activation, GroupNorm, PatchOrder, Shift, expect_shape};
use crate::tensor::{Tensor, TensorView, TensorViewMut};

/// Of all normalisations.
const EPS: f32 = 1e-5;

/// Where layers take their parameters from: the weights, and the table of timesteps' vectors.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub source: &'a Source<'a>,
    pub table: TensorView<'a>,
}

impl Unet {
    /// out = F(x, t) with the vectors of t.
    pub(super) fn run(
        &self,
        acts: &mut Activations,
        given: Given,
        x: TensorView,
        out: TensorViewMut,
    ) -> Result<()> {
        let grid = self.features().of(acts.batch);
        expect_shape("Unet", "x", x.shape(), &grid)?;
        expect_shape("Unet", "out", out.shape(), &grid)?;
        let cells = [grid[0], grid[1] * grid[2], grid[3]];
        ops::patchify(x, acts.x.view_mut().part(0, &cells)?, 1, PatchOrder::ChannelsLast)?;
        for i in 0..self.layers.steps.len() {
            self.join(i, acts)?;
            self.step(i, given, acts)?;
        }
        let last = acts.outputs.view(self.layers.steps.len() - 1)?;
        let norm = &self.layers.norm;
        acts.inner.norm(norm, given, last, Activation::Silu)?;
        acts.inner.conv(&self.layers.out, norm.site, given, out)
    }

    /// Puts the skip of layer i, if it has one, beside the output of the layer before.
    pub(super) fn join(&self, i: usize, acts: &mut Activations) -> Result<()> {
        let Some(join) = self.layers.steps[i].join else { return Ok(()) };
        let (before, skip) = (acts.outputs.view(i - 1)?, acts.outputs.view(join.from)?);
        ops::concat(before, skip, acts.joined.view_mut(join.index)?)
    }

    fn step(&self, i: usize, given: Given, acts: &mut Activations) -> Result<()> {
        let step = &self.layers.steps[i];
        let Activations { x, outputs, joined, inner, .. } = acts;
        let (before, y) = outputs.step(i)?;
        let x = match (step.join, before) {
            (Some(join), _) => joined.view(join.index)?,
            (None, Some(before)) => before,
            (None, None) => x.view(),
        };
        match &step.layer {
            Layer::Conv(conv) => {
                let patches = gather(&mut inner.patches, conv, x)?;
                given.source.linear(&conv.linear, patches, y)
            }
            Layer::Res(res) => {
                inner.res(res, given, x)?;
                inner.res_output(res, given, x, y)
            }
            Layer::Attention(attention) => {
                inner.attention(attention, given, x)?;
                let (w, b) = given.source.weights(&attention.proj, y.dtype())?;
                ops::linear_residual(inner.attended.view(attention.index)?, w, Some(b), x, y)
            }
        }
    }
}

/// What a convolution reads of x, (B, cells, 9·C).
pub(super) fn gather<'a>(
    patches: &'a mut Tensor,
    conv: &Conv,
    x: TensorView,
) -> Result<TensorView<'a>> {
    let [b, h, w, c] = *x.shape() else { unreachable!("(B, S, S, C)") };
    let [h, w] = conv.resample.output([h, w]);
    let shape = [b, h * w, 9 * c];
    ops::gather_patches(x, conv.resample, patches.view_mut().part(0, &shape)?)?;
    patches.view().part(0, &shape)
}

impl Norm {
    /// Of all images' channels, `shift` being the first column of what is added before.
    pub(super) fn of<'a>(
        &self,
        given: Given<'a>,
        shift: Option<usize>,
        activation: Activation,
    ) -> Result<GroupNorm<'a>> {
        let Given { source, table } = given;
        let affine = source.tensor(self.offset, &[2, self.channels])?;
        Ok(GroupNorm {
            groups: GROUPS,
            eps: EPS,
            weight: affine.part(0, &[self.channels])?,
            bias: affine.part(self.channels, &[self.channels])?,
            shift: shift.map(|start| Shift { table, start }),
            activation,
        })
    }
}

impl Inner {
    pub(super) fn norm(
        &mut self,
        norm: &Norm,
        given: Given,
        x: TensorView,
        activation: Activation,
    ) -> Result<()> {
        let stats = norm.site % self.stats.len();
        let y = self.normed.view_mut(norm.site)?;
        ops::group_norm(x, norm.of(given, None, activation)?, y, &mut self.stats[stats])
    }

    /// The second normalisation of a residual block.
    pub(super) fn second_norm(&mut self, res: &Res, given: Given) -> Result<()> {
        let Self { normed, stats, hidden, .. } = self;
        let (norm, stats_of) = (&res.norms[1], res.norms[1].site % stats.len());
        let of = norm.of(given, Some(res.shift), Activation::Silu)?;
        let x = hidden.view(res.index)?;
        ops::group_norm(x, of, normed.view_mut(norm.site)?, &mut stats[stats_of])
    }

    /// A convolution of what a normalisation has returned.
    fn conv(&mut self, conv: &Conv, site: usize, given: Given, y: TensorViewMut) -> Result<()> {
        let patches = gather(&mut self.patches, conv, self.normed.view(site)?)?;
        given.source.linear(&conv.linear, patches, y)
    }

    /// A residual block up to the input of its second convolution.
    pub(super) fn res(&mut self, res: &Res, given: Given, x: TensorView) -> Result<()> {
        self.norm(&res.norms[0], given, x, Activation::Silu)?;
        let patches =
            gather(&mut self.patches, &res.convs[0], self.normed.view(res.norms[0].site)?)?;
        given.source.linear(&res.convs[0].linear, patches, self.hidden.view_mut(res.index)?)?;
        self.second_norm(res, given)
    }

    fn res_output(
        &mut self,
        res: &Res,
        given: Given,
        x: TensorView,
        y: TensorViewMut,
    ) -> Result<()> {
        let residual = match &res.projection {
            None => x,
            Some(projection) => {
                let to = self.projected.view_mut().part(0, y.shape())?;
                given.source.linear(projection, x, to)?;
                self.projected.view().part(0, y.shape())?
            }
        };
        let patches =
            gather(&mut self.patches, &res.convs[1], self.normed.view(res.norms[1].site)?)?;
        let (w, b) = given.source.weights(&res.convs[1].linear, y.dtype())?;
        ops::linear_residual(patches, w, Some(b), residual, y)
    }

    /// Attention up to the input of its last layer.
    pub(super) fn attention(
        &mut self,
        attention: &Attention,
        given: Given,
        x: TensorView,
    ) -> Result<()> {
        self.norm(&attention.norm, given, x, Activation::None)?;
        let normed = self.normed.view(attention.norm.site)?;
        let mut qkv = self.qkv.view_mut(attention.index)?;
        let [b, n, three, h, d] = *qkv.shape() else { unreachable!("(B, N, 3, H, d)") };
        given.source.linear(
            &attention.qkv,
            normed,
            qkv.reborrow().part(0, &[b, n, three * h * d])?,
        )?;
        let lse = self.lse.as_mut().map(|lse| lse.view_mut(attention.index)).transpose()?;
        ops::attention(qkv.view(), self.attended.view_mut(attention.index)?, lse)
    }
}
