//! Group norm with the shift before it and the activation after it.

use super::{Activation, expect_shape};
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// One number per image and channel: columns `start`.. of a table of shape (B, P), or of shape (1, P) where all
/// images share a row. On a GPU the table holds f32.
#[derive(Clone, Copy, Debug)]
pub struct Shift<'a> {
    /// The table.
    pub table: TensorView<'a>,
    /// The column of the first channel.
    pub start: usize,
}

/// How activations are normalised.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// Groups of neighbouring channels, each with a mean and a variance over its channels and all cells of an image.
    pub groups: usize,
    /// Is added to the variance.
    pub eps: f32,
    /// (C), by which each channel is multiplied; f32 on a GPU.
    pub weight: TensorView<'a>,
    /// (C), what is added then; f32 on a GPU.
    pub bias: TensorView<'a>,
    /// Is added to x before all else.
    pub shift: Option<Shift<'a>>,
    /// None or SiLU, applied at the end.
    pub activation: Activation,
}

/// Images, cells, channels and groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub images: usize,
    pub cells: usize,
    pub channels: usize,
    pub groups: usize,
}

impl Sizes {
    /// Channels of a group.
    pub fn group(&self) -> usize {
        self.channels / self.groups
    }
}

/// y = activation(x̂·weight + bias) with x̂ = (x + shift − μ)/σ, where μ and σ² = variance + eps are of an image's
/// group of channels.
///
/// `x` and `y`: (B, …, C), the axes between being cells; `stats`: (B, groups, 2), receives μ and 1/σ, which the
/// backward pass needs. On a GPU `x` and `y` hold f16, C is a multiple of 8, and a group has at most 2048 channels (256 where they are no multiple of 8).
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together; [`Error::Argument`] if C is no multiple of the groups, or for
/// another activation.
pub fn group_norm<'a>(
    x: impl Into<TensorView<'a>>,
    norm: GroupNorm<'a>,
    y: impl Into<TensorViewMut<'a>>,
    stats: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "group_norm";
    let (x, y, stats) = (x.into(), y.into(), stats.into());
    let sizes = norm.check(OP, x.shape())?;
    expect_shape(OP, "y", y.shape(), x.shape())?;
    expect_shape(OP, "stats", stats.shape(), &[sizes.images, sizes.groups, 2])?;
    on_gpu!(x, crate::cuda::ops::group_norm(x, norm, y, stats, sizes));
    let (y, stats) = (y.into_f32s(OP, "y")?, stats.into_f32s(OP, "stats")?);
    cpu::group_norm(x.f32s(OP, "x")?, norm.on_host(OP, sizes)?, y, stats, sizes);
    Ok(())
}

/// The gradients of [`group_norm`]'s inputs.
///
/// `x`, `norm`, `stats`: as in the forward pass; `dy`: shaped like `x`. `dx`: shaped like `x`, written, or added to
/// with `accumulate`; `dweight`, `dbias`: (C), accumulated; `dtable`: (B, P), given exactly where there is a shift,
/// whose columns receive each image's sums over cells of what x has for a gradient. On a GPU `x` and `dy` hold f16,
/// `dx` f16 or f32, the others f32, and C is as for [`group_norm`].
///
/// # Errors
/// As for [`group_norm`].
#[allow(clippy::too_many_arguments)]
pub fn group_norm_backward<'a>(
    x: impl Into<TensorView<'a>>,
    norm: GroupNorm<'a>,
    stats: impl Into<TensorView<'a>>,
    dy: impl Into<TensorView<'a>>,
    dx: impl Into<TensorViewMut<'a>>,
    accumulate: bool,
    dweight: impl Into<TensorViewMut<'a>>,
    dbias: impl Into<TensorViewMut<'a>>,
    dtable: Option<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "group_norm_backward";
    let (x, stats, dy, dx) = (x.into(), stats.into(), dy.into(), dx.into());
    let (dweight, dbias) = (dweight.into(), dbias.into());
    let sizes = norm.check(OP, x.shape())?;
    expect_shape(OP, "stats", stats.shape(), &[sizes.images, sizes.groups, 2])?;
    expect_shape(OP, "dy", dy.shape(), x.shape())?;
    expect_shape(OP, "dx", dx.shape(), x.shape())?;
    expect_shape(OP, "dweight", dweight.shape(), &[sizes.channels])?;
    expect_shape(OP, "dbias", dbias.shape(), &[sizes.channels])?;
    let columns = match (norm.shift, &dtable) {
        (Some(shift), Some(dtable)) => {
            let (least, got) = (shift.start.saturating_add(sizes.channels), dtable.shape());
            if got.len() != 2 || got[0] != sizes.images || got[1] < least {
                let expected = format!("({}, at least {least})", sizes.images);
                return Err(Error::shape(OP, "dtable", expected, got));
            }
            [got[1], shift.start]
        }
        (None, None) => [0; 2],
        (_, given) => {
            let got = if given.is_some() { "some" } else { "none" };
            let expected = "given exactly where there is a shift";
            return Err(Error::argument(OP, "dtable", expected, got));
        }
    };
    on_gpu!(
        x,
        crate::cuda::ops::group_norm_backward(
            [x, dy],
            norm,
            stats,
            dx,
            accumulate,
            [dweight, dbias],
            dtable,
            columns,
            sizes,
        )
    );
    cpu::group_norm_backward(
        [x.f32s(OP, "x")?, dy.f32s(OP, "dy")?],
        norm.on_host(OP, sizes)?,
        stats.f32s(OP, "stats")?,
        dx.into_f32s(OP, "dx")?,
        accumulate,
        [dweight.into_f32s(OP, "dweight")?, dbias.into_f32s(OP, "dbias")?],
        dtable.map(|t| t.into_f32s(OP, "dtable")).transpose()?,
        columns,
        sizes,
    );
    Ok(())
}

impl<'a> GroupNorm<'a> {
    fn check(&self, op: &'static str, x: &[usize]) -> Result<Sizes> {
        let (images, cells, channels) = match *x {
            [images, ref cells @ .., channels] if !x.contains(&0) => {
                (images, cells.iter().product(), channels)
            }
            _ => return Err(Error::shape(op, "x", "(B, …, C), none of them 0", x)),
        };
        if self.groups == 0 || !channels.is_multiple_of(self.groups) {
            let expected = format!("a divisor of the {channels} channels");
            return Err(Error::argument(op, "groups", expected, self.groups));
        }
        if !matches!(self.activation, Activation::None | Activation::Silu) {
            let got = format!("{:?}", self.activation);
            return Err(Error::argument(op, "activation", "no activation or SiLU", got));
        }
        expect_shape(op, "weight", self.weight.shape(), &[channels])?;
        expect_shape(op, "bias", self.bias.shape(), &[channels])?;
        if let Some(Shift { table, start }) = self.shift {
            let (least, got) = (start.saturating_add(channels), table.shape());
            if got.len() != 2 || (got[0] != images && got[0] != 1) || got[1] < least {
                let expected = format!("(1 or {images}, at least {least})");
                return Err(Error::shape(op, "shift", expected, got));
            }
        }
        Ok(Sizes { images, cells, channels, groups: self.groups })
    }

    fn on_host(&self, op: &'static str, sizes: Sizes) -> Result<cpu::GroupNorm<'a>> {
        let shift = match self.shift {
            Some(Shift { table, start }) => {
                let (data, [rows, stride]) =
                    (table.f32s(op, "shift")?, [0, 1].map(|i| table.shape()[i]));
                Some(cpu::PerImage { data, rows, stride, start })
            }
            None => None,
        };
        let weight = self.weight.f32s(op, "weight")?;
        let bias = self.bias.f32s(op, "bias")?;
        let (eps, activation) = (self.eps, self.activation);
        Ok(cpu::GroupNorm { eps, weight, bias, shift, activation, none: vec![0.0; sizes.channels] })
    }
}
