//! Group norm on the host.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::adaln_zero::PerImage;
use super::math::{dot, reduce, sigmoid};
use crate::ops::{Activation, GroupNormSizes as Sizes};

/// Cells whose sums are taken apart from the others'.
const CELLS: usize = 32;

/// How activations are normalised.
pub(crate) struct GroupNorm<'a> {
    pub eps: f32,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub shift: Option<PerImage<'a>>,
    pub activation: Activation,
    /// As many zeros as there are channels.
    pub none: Vec<f32>,
}

/// What some neighbouring channels of an image have in common: of each a number.
#[derive(Clone, Copy)]
struct Channels<'a> {
    shift: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
}

impl GroupNorm<'_> {
    fn channels(&self, image: usize) -> Channels<'_> {
        let (weight, bias) = (self.weight, self.bias);
        let shift = self.shift.as_ref().map_or(&self.none[..], |s| s.of(image, weight.len()));
        Channels { shift, weight, bias }
    }
}

impl<'a> Channels<'a> {
    /// Those of a group.
    #[inline(always)]
    fn group(self, group: usize, size: usize) -> Self {
        let of = |x: &'a [f32]| &x[group * size..][..size];
        Self { shift: of(self.shift), weight: of(self.weight), bias: of(self.bias) }
    }
}

/// y = activation(GN(x + shift)·weight + bias); stats = (mean, 1/σ) of each group.
pub(crate) fn group_norm(
    x: &[f32],
    norm: GroupNorm,
    y: &mut [f32],
    stats: &mut [f32],
    sizes: Sizes,
) {
    let Sizes { cells, channels, groups, .. } = sizes;
    stats.par_chunks_exact_mut(2).enumerate().for_each(|(i, stats)| {
        let (image, start) = (i / groups, i % groups * sizes.group());
        let x = &x[image * cells * channels..][..cells * channels];
        let shift = &norm.channels(image).shift[start..][..sizes.group()];
        let (mean, rstd) = moments(&x[start..], channels, shift, norm.eps);
        stats.copy_from_slice(&[mean, rstd]);
    });
    let stats = &*stats;
    let rows = y.par_chunks_exact_mut(channels).zip(x.par_chunks_exact(channels)).enumerate();
    rows.with_min_len(4).for_each(|(i, (y, x))| {
        let image = i / cells;
        let stats = &stats[2 * image * groups..][..2 * groups];
        normalise(x, norm.channels(image), stats, norm.activation, y);
    });
}

/// dx of a group norm, and dweight and dbias; columns of dtable receive the sums of dx over cells.
#[allow(clippy::too_many_arguments)]
pub(crate) fn group_norm_backward(
    [x, dy]: [&[f32]; 2],
    norm: GroupNorm,
    stats: &[f32],
    dx: &mut [f32],
    accumulate: bool,
    [dweight, dbias]: [&mut [f32]; 2],
    dtable: Option<&mut [f32]>,
    [stride, start]: [usize; 2],
    sizes: Sizes,
) {
    let Sizes { images, cells, channels, groups } = sizes;
    let (group, silu) = (sizes.group(), norm.activation == Activation::Silu);
    // Of each image and group the sums of dz, of dz·x̂ and of x̂ for each channel.
    let mut sums = vec![0.0; 3 * images * channels];
    // The means of g = dz·weight and of g·x̂ over a group.
    let mut means = vec![[0.0; 2]; images * groups];
    let per_group =
        sums.par_chunks_exact_mut(3 * group).zip(&mut means).zip(stats.par_chunks_exact(2));
    per_group.enumerate().for_each(|(i, ((sums, means), stats))| {
        let (image, start) = (i / groups, i % groups * group);
        let at = image * cells * channels + start;
        let end = (image + 1) * cells * channels;
        let c = norm.channels(image).group(i % groups, group);
        channel_sums([&x[at..end], &dy[at..end]], channels, c, [stats[0], stats[1]], silu, sums);
        let n = (cells * group) as f32;
        *means = [0, 1].map(|k| dot(&sums[k * group..][..group], c.weight) / n);
    });
    let rows = dx.par_chunks_exact_mut(channels).enumerate().with_min_len(4);
    rows.for_each(|(i, dx)| {
        let (image, at) = (i / cells, i * channels);
        let of = image * groups;
        let (stats, means) = (&stats[2 * of..][..2 * groups], &means[of..][..groups]);
        let rows = [&x[at..][..channels], &dy[at..][..channels]];
        input_gradient(rows, norm.channels(image), stats, means, silu, accumulate, dx);
    });
    if let Some(dtable) = dtable {
        let rows = dtable.par_chunks_exact_mut(stride).enumerate();
        rows.for_each(|(image, row)| {
            for (g, dshift) in row[start..][..channels].chunks_exact_mut(group).enumerate() {
                let i = image * groups + g;
                let [of_dz, _, of_normalised] = split(&sums[3 * i * group..], group);
                let (rstd, [g_mean, gx_mean]) = (stats[2 * i + 1], means[i]);
                let weight = &norm.weight[g * group..];
                for (c, dshift) in dshift.iter_mut().enumerate() {
                    let g = of_dz[c] * weight[c];
                    *dshift = rstd * (g - cells as f32 * g_mean - of_normalised[c] * gx_mean);
                }
            }
        });
    }
    let of_groups = dweight.par_chunks_exact_mut(group).zip(dbias.par_chunks_exact_mut(group));
    of_groups.enumerate().for_each(|(g, (dweight, dbias))| {
        for image in 0..images {
            let [of_dz, of_product, _] = split(&sums[3 * (image * groups + g) * group..], group);
            super::add::add_to(dweight, of_product);
            super::add::add_to(dbias, of_dz);
        }
    });
}

fn split(sums: &[f32], group: usize) -> [&[f32]; 3] {
    [0, 1, 2].map(|k| &sums[k * group..][..group])
}

/// Mean and 1/√(variance + eps) of x + shift, rows that begin `stride` apart, the variance from the differences to
/// the mean.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn moments(x: &[f32], stride: usize, shift: &[f32], eps: f32) -> (f32, f32) {
    let n = (x.len().div_ceil(stride) * shift.len()) as f32;
    let mean = total(x, stride, shift, |v| v) / n;
    let variance = total(x, stride, shift, |v| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// Σ f(x + shift).
#[inline(always)]
fn total(x: &[f32], stride: usize, shift: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut total = 0.0;
    for cells in x.chunks(CELLS * stride) {
        let mut lanes = [0.0f32; 16];
        for row in cells.chunks(stride) {
            let (x, x_tail) = row[..shift.len()].as_chunks::<16>();
            let (shift, shift_tail) = shift.as_chunks::<16>();
            for (x, shift) in x.iter().zip(shift) {
                for i in 0..16 {
                    lanes[i] += f(x[i] + shift[i]);
                }
            }
            for ((l, x), shift) in lanes.iter_mut().zip(x_tail).zip(shift_tail) {
                *l += f(x + shift);
            }
        }
        total += reduce(lanes);
    }
    total
}

/// One cell.
#[multiversion(targets("x86_64+avx512f+avx512dq+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn normalise(x: &[f32], c: Channels, stats: &[f32], activation: Activation, y: &mut [f32]) {
    let (groups, size) = (stats.len() / 2, 2 * x.len() / stats.len());
    for g in 0..groups {
        let (mean, rstd) = (stats[2 * g], stats[2 * g + 1]);
        let (c, x) = (c.group(g, size), &x[g * size..][..size]);
        let y = &mut y[g * size..][..size];
        for i in 0..size {
            y[i] = (x[i] + c.shift[i] - mean) * rstd * c.weight[i] + c.bias[i];
        }
    }
    activation.apply_inline::<{ target_cfg_f!(target_feature = "fma") }>(y);
}

/// x̂ and dz, the gradient of what the activation is applied to.
#[inline(always)]
fn before_activation<const FMA: bool>(
    [x, dy]: [f32; 2],
    [shift, weight, bias]: [f32; 3],
    [mean, rstd]: [f32; 2],
    silu: bool,
) -> [f32; 2] {
    let normalised = (x + shift - mean) * rstd;
    let z = normalised * weight + bias;
    let s = sigmoid::<FMA>(z);
    [normalised, if silu { dy * s * (1.0 + z * (1.0 - s)) } else { dy }]
}

/// sums += of each channel of a group those of dz, dz·x̂ and x̂ over cells, rows that begin `stride` apart.
#[multiversion(targets("x86_64+avx512f+avx512dq+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn channel_sums(
    [x, dy]: [&[f32]; 2],
    stride: usize,
    c: Channels,
    stats: [f32; 2],
    silu: bool,
    sums: &mut [f32],
) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    let size = c.weight.len();
    let (of_dz, rest) = sums.split_at_mut(size);
    let (of_product, of_normalised) = rest.split_at_mut(size);
    let of_normalised = &mut of_normalised[..size];
    let (shift, bias) = (&c.shift[..size], &c.bias[..size]);
    for (x, dy) in x.chunks(stride).zip(dy.chunks(stride)) {
        let (x, dy) = (&x[..size], &dy[..size]);
        for i in 0..size {
            let channel = [shift[i], c.weight[i], bias[i]];
            let [normalised, dz] = before_activation::<FMA>([x[i], dy[i]], channel, stats, silu);
            of_dz[i] += dz;
            of_product[i] += dz * normalised;
            of_normalised[i] += normalised;
        }
    }
}

/// dx = (g − mean(g) − x̂·mean(g·x̂))/σ of one cell, with g = dz·weight.
#[multiversion(targets("x86_64+avx512f+avx512dq+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn input_gradient(
    [x, dy]: [&[f32]; 2],
    c: Channels,
    stats: &[f32],
    means: &[[f32; 2]],
    silu: bool,
    accumulate: bool,
    dx: &mut [f32],
) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    let size = x.len() / means.len();
    for (g, &[g_mean, gx_mean]) in means.iter().enumerate() {
        let (stats, at) = ([stats[2 * g], stats[2 * g + 1]], g * size);
        let (c, dx) = (c.group(g, size), &mut dx[at..][..size]);
        let (x, dy) = (&x[at..][..size], &dy[at..][..size]);
        for i in 0..size {
            let channel = [c.shift[i], c.weight[i], c.bias[i]];
            let [normalised, dz] = before_activation::<FMA>([x[i], dy[i]], channel, stats, silu);
            let d = stats[1] * (dz * c.weight[i] - g_mean - normalised * gx_mean);
            dx[i] = if accumulate { dx[i] + d } else { d };
        }
    }
}
