//! Inverted residual blocks in f16: `kernels/stem_conv.cu`, a linear layer or neither, `kernels/depthwise_conv2d.cu`,
//! `kernels/squeeze_excite.cu` with `kernels/channel_gate.cu` or neither, a linear layer.

use super::depthwise_conv2d::sums_of_row;
use super::{channel_gate, depthwise_conv2d, factors, linear, squeeze_excite, stem_conv};
use crate::cpu::conv2d::Window;
use crate::error::{Error, Result};
use crate::ops::{
    Activation, Expansion, FoldedLayer, InvertedResidualLayers, ResidualSize, SqueezeExcite,
};
use crate::tensor::{DType, Device, Shape, Tensor, TensorView, TensorViewMut};

const OP: &str = "inverted_residual";

/// A block's weights and biases, in the types that its kernels take.
pub(crate) struct Residual {
    expansion: Before,
    depthwise: [Tensor; 2],
    squeeze_excite: Option<[[Tensor; 2]; 2]>,
    projection: [Tensor; 2],
}

/// What comes before the depthwise convolution.
enum Before {
    None,
    Pointwise([Tensor; 2]),
    Stem {
        /// The factors and offsets of its bytes.
        normalise: Tensor,
        layer: [Tensor; 2],
    },
}

/// What lies between the convolutions of a batch.
#[derive(Debug)]
pub(crate) struct ResidualScratch {
    expanded: Tensor,
    filtered: Tensor,
    /// Of blocks with squeeze-excite.
    sums: Tensor,
    gate: Tensor,
}

impl Residual {
    pub fn new(block: &InvertedResidualLayers, device: Device) -> Result<Self> {
        let squeeze_excite = |SqueezeExcite { reduce, expand }| -> Result<_> {
            let FoldedLayer { weight, bias } = reduce;
            let by_output = transposed("squeeze_excite.reduce", reduce)?;
            let shape = [bias.len(), weight.shape()[0]];
            let reduce = FoldedLayer { weight: TensorView::from_slice(&by_output, &shape)?, bias };
            let reduce = direct("squeeze_excite.reduce", reduce, device)?;
            Ok([reduce, direct("squeeze_excite.expand", expand, device)?])
        };
        Ok(Self {
            expansion: match block.expansion {
                Expansion::None => Before::None,
                Expansion::Pointwise(layer) => {
                    Before::Pointwise(pointwise("expansion", layer, device)?)
                }
                Expansion::Stem { layer, mean, std, .. } => {
                    let normalise = factors(mean, std).concat();
                    let normalise = TensorView::from_slice(&normalise, &[6])?;
                    let normalise = normalise.copied_to(device, DType::F32)?;
                    Before::Stem { normalise, layer: direct("expansion", layer, device)? }
                }
            },
            depthwise: direct("depthwise", block.depthwise, device)?,
            squeeze_excite: block.squeeze_excite.map(squeeze_excite).transpose()?,
            projection: pointwise("projection", block.projection, device)?,
        })
    }

    pub fn device(&self) -> Device {
        self.depthwise[0].device()
    }

    /// Whether there is squeeze-excite.
    pub fn squeezes(&self) -> bool {
        self.squeeze_excite.is_some()
    }
}

/// A weight with its output channels first.
fn transposed(arg: &'static str, layer: FoldedLayer) -> Result<Vec<f32>> {
    let (weight, outputs) = (layer.weight.f32s(OP, arg)?, layer.bias.len());
    let inputs = weight.len() / outputs.max(1);
    Ok((0..inputs * outputs).map(|i| weight[i % inputs * outputs + i / inputs]).collect())
}

/// A pointwise convolution as a linear layer: weight (outputs, inputs) and bias in f16.
fn pointwise(arg: &'static str, layer: FoldedLayer, device: Device) -> Result<[Tensor; 2]> {
    layer.bias.f32s(OP, arg)?;
    let (weight, outputs) = (transposed(arg, layer)?, layer.bias.len());
    let weight = TensorView::from_slice(&weight, &[outputs, weight.len() / outputs])?;
    Ok([weight.copied_to(device, DType::F16)?, layer.bias.copied_to(device, DType::F16)?])
}

/// Another layer: weight and bias in f32.
fn direct(arg: &'static str, layer: FoldedLayer, device: Device) -> Result<[Tensor; 2]> {
    layer.weight.f32s(OP, arg)?;
    layer.bias.f32s(OP, arg)?;
    Ok([layer.weight.copied_to(device, DType::F32)?, layer.bias.copied_to(device, DType::F32)?])
}

impl ResidualSize {
    /// (B, H, W, M) after the expansion and after the depthwise convolution.
    fn shapes(&self, images: usize) -> [[usize; 4]; 2] {
        let [expanded, filtered, _] =
            self.windows.map(|Window { output: [h, w], .. }| [images, h, w, self.channels]);
        [expanded, filtered]
    }

    /// (B, S, M), the sums that the depthwise convolution leaves.
    fn sums(&self, images: usize) -> [usize; 3] {
        let [height, width] = self.windows[1].output;
        [images, height * sums_of_row(width, self.channels), self.channels]
    }
}

impl ResidualScratch {
    /// For batches through any of these blocks, of memory from `take`, which is told how many numbers of which type.
    pub fn new(
        blocks: impl Iterator<Item = ResidualSize>,
        images: usize,
        mut take: impl FnMut(usize, DType) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut longest = [0; 4];
        for block in blocks {
            let [expanded, filtered] = block.shapes(images);
            let mut lengths = [
                Shape::new(OP, &expanded)?.elements(),
                Shape::new(OP, &filtered)?.elements(),
                Shape::new(OP, &block.sums(images))?.elements(),
                images * block.channels,
            ];
            if !block.squeezes {
                lengths[2..].fill(0);
            }
            longest.iter_mut().zip(lengths).for_each(|(longest, len)| *longest = len.max(*longest));
        }
        let [expanded, filtered, sums, gate] = longest;
        Ok(Self {
            expanded: take(expanded, DType::F16)?,
            filtered: take(filtered, DType::F16)?,
            sums: take(sums, DType::F32)?,
            gate: take(gate, DType::F16)?,
        })
    }
}

/// A block, its projection followed by no activation.
pub(crate) fn inverted_residual(
    x: TensorView,
    weights: &Residual,
    size: ResidualSize,
    activation: Activation,
    skip: bool,
    scratch: &mut ResidualScratch,
    y: TensorViewMut,
) -> Result<()> {
    let images = x.shape()[0];
    let ResidualScratch { expanded, filtered, sums, gate } = scratch;
    let [expanded_shape, filtered_shape] = size.shapes(images);
    let (sums_shape, gate_shape) = (size.sums(images), [images, size.channels]);
    check(x.shape(), size.channels, weights)?;
    let squeezed = if size.squeezes { 1 } else { 0 };
    for (memory, shape) in [
        (&*expanded, &expanded_shape[..]),
        (&*filtered, &filtered_shape[..]),
        (&*sums, &sums_shape.map(|n| n * squeezed)[..]),
        (&*gate, &gate_shape.map(|n| n * squeezed)[..]),
    ] {
        let needed = shape.iter().product::<usize>();
        if memory.len() < needed {
            let expected = format!("for blocks of {needed} numbers between convolutions");
            return Err(Error::argument(OP, "scratch", expected, memory.len()));
        }
    }
    // What is expanded passes its activation where it is read; a stem's has passed it.
    let before = match &weights.expansion {
        Before::None => Activation::None,
        Before::Pointwise(layer) => {
            apply(x, layer, None, expanded.view_mut().part(0, &expanded_shape)?)?;
            activation
        }
        Before::Stem { normalise, layer } => {
            let y = expanded.view_mut().part(0, &expanded_shape)?;
            let [weight, bias] = layer.each_ref().map(Tensor::view);
            stem_conv(x, normalise.view(), weight, bias, size.windows[0], activation, y)?;
            Activation::None
        }
    };
    let expanded = match &weights.expansion {
        Before::None => x,
        _ => expanded.view().part(0, &expanded_shape)?,
    };
    let left = size.squeezes.then(|| sums.view_mut().part(0, &sums_shape)).transpose()?;
    depthwise_conv2d(
        expanded,
        weights.depthwise[0].view(),
        weights.depthwise[1].view(),
        size.windows[1],
        [before, activation],
        filtered.view_mut().part(0, &filtered_shape)?,
        left,
    )?;
    if let Some(layers) = &weights.squeeze_excite {
        let (pixels, sums) = (filtered_shape[1] * filtered_shape[2], sums.view());
        let own = gate.view_mut().part(0, &gate_shape)?;
        squeeze_excite(sums.part(0, &sums_shape)?, pixels, layers, own)?;
        let gate = gate.view().part(0, &gate_shape)?;
        channel_gate(filtered.view_mut().part(0, &filtered_shape)?, gate)?;
    }
    let filtered = filtered.view().part(0, &filtered_shape)?;
    apply(filtered, &weights.projection, skip.then_some(x), y)
}

/// A pointwise convolution without its activation, and `skip` added.
fn apply(
    x: TensorView,
    [weight, bias]: &[Tensor; 2],
    skip: Option<TensorView>,
    y: TensorViewMut,
) -> Result<()> {
    let [outputs, inputs] = *weight.shape() else { unreachable!("weights have two axes") };
    let sizes = (x.len() / inputs, inputs, outputs);
    linear(OP, x, weight.view(), Some(bias.view()), Activation::None, None, skip, y, sizes)
}

/// Refuses channels that the kernels cannot compute.
fn check(x: &[usize], mid: usize, weights: &Residual) -> Result<()> {
    let stem = matches!(weights.expansion, Before::Stem { .. });
    let out = weights.projection[1].len();
    let eights = (stem || x[3].is_multiple_of(8)) && mid.is_multiple_of(8) && out.is_multiple_of(8);
    if eights && (!stem || mid <= 256) {
        return Ok(());
    }
    let expected =
        "channels, within the block too, in multiples of 8 on a GPU, of a stem up to 256";
    Err(Error::argument(OP, "block", expected, format!("{} to {mid} to {out}", x[3])))
}
