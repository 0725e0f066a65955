//! Inverted residual blocks in f16: `kernels/stem_conv.cu` or a linear layer, `kernels/depthwise_conv2d.cu`, a linear layer.

use super::{depthwise_conv2d, factors, linear, stem_conv};
use crate::cpu::conv2d::Window;
use crate::error::{Error, Result};
use crate::ops::{Activation, Expansion, FoldedLayer, InvertedResidualLayers};
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};

const OP: &str = "inverted_residual";

/// A block's weights and biases, in the types that its kernels take.
pub(crate) struct Residual {
    /// Of a stem: the factors and offsets of its bytes.
    normalise: Option<Tensor>,
    expansion: [Tensor; 2],
    depthwise: [Tensor; 2],
    projection: [Tensor; 2],
}

/// What lies between the convolutions of a batch.
#[derive(Debug)]
pub(crate) struct ResidualScratch([Tensor; 2]);

impl Residual {
    pub fn new(
        block: &InvertedResidualLayers,
        expansion: FoldedLayer,
        device: Device,
    ) -> Result<Self> {
        let (expansion, normalise) = match block.expansion {
            Expansion::Pointwise(_) => (pointwise("expansion", expansion, device)?, None),
            Expansion::Stem { mean, std, .. } => {
                let normalise = factors(mean, std).concat();
                let normalise = TensorView::from_slice(&normalise, &[6])?;
                let normalise = normalise.copied_to(device, DType::F32)?;
                (direct("expansion", expansion, device)?, Some(normalise))
            }
        };
        Ok(Self {
            normalise,
            expansion,
            depthwise: direct("depthwise", block.depthwise, device)?,
            projection: pointwise("projection", block.projection, device)?,
        })
    }

    pub fn device(&self) -> Device {
        self.depthwise[0].device()
    }
}

/// A pointwise convolution as a linear layer: weight (outputs, inputs) and bias in f16.
fn pointwise(arg: &'static str, layer: FoldedLayer, device: Device) -> Result<[Tensor; 2]> {
    let (weight, bias) = (layer.weight.f32s(OP, arg)?, layer.bias.f32s(OP, arg)?);
    let outputs = bias.len();
    let inputs = weight.len() / outputs;
    let weight: Vec<f32> =
        (0..inputs * outputs).map(|i| weight[i % inputs * outputs + i / inputs]).collect();
    let weight = TensorView::from_slice(&weight, &[outputs, inputs])?;
    Ok([weight.copied_to(device, DType::F16)?, layer.bias.copied_to(device, DType::F16)?])
}

/// Another convolution: weight and bias in f32.
fn direct(arg: &'static str, layer: FoldedLayer, device: Device) -> Result<[Tensor; 2]> {
    layer.weight.f32s(OP, arg)?;
    layer.bias.f32s(OP, arg)?;
    Ok([layer.weight.copied_to(device, DType::F32)?, layer.bias.copied_to(device, DType::F32)?])
}

impl ResidualScratch {
    /// Memory in f16 for what comes out of the expansion and out of the depthwise convolution.
    pub fn new(memory: [Tensor; 2]) -> Self {
        Self(memory)
    }
}

/// A block, its projection followed by no activation.
pub(crate) fn inverted_residual(
    x: TensorView,
    weights: &Residual,
    windows: [Window; 3],
    activation: Activation,
    skip: bool,
    scratch: &mut ResidualScratch,
    y: TensorViewMut,
) -> Result<()> {
    let images = x.shape()[0];
    let [expanded, filtered] = &mut scratch.0;
    let shape = |window: &Window, bias: &Tensor| {
        let [height, width] = window.output;
        [images, height, width, bias.len()]
    };
    let (expansion, depthwise) = (&weights.expansion, &weights.depthwise);
    let expanded_shape = shape(&windows[0], &expansion[1]);
    let filtered_shape = shape(&windows[1], &depthwise[1]);
    check(x.shape(), expanded_shape[3], weights)?;
    for (memory, shape) in [(&*expanded, expanded_shape), (&*filtered, filtered_shape)] {
        let needed = shape.iter().product::<usize>();
        if memory.len() < needed {
            let expected = format!("for blocks of {needed} numbers between convolutions");
            return Err(Error::argument(OP, "scratch", expected, memory.len()));
        }
    }
    // What is expanded passes its activation where it is read; a stem's has passed it.
    let before = match &weights.normalise {
        Some(normalise) => {
            let y = expanded.view_mut().part(0, &expanded_shape)?;
            let [weight, bias] = expansion.each_ref().map(Tensor::view);
            stem_conv(x, normalise.view(), weight, bias, windows[0], activation, y)?;
            Activation::None
        }
        None => {
            apply(x, expansion, None, expanded.view_mut().part(0, &expanded_shape)?)?;
            activation
        }
    };
    depthwise_conv2d(
        expanded.view().part(0, &expanded_shape)?,
        depthwise[0].view(),
        depthwise[1].view(),
        windows[1],
        [before, activation],
        filtered.view_mut().part(0, &filtered_shape)?,
    )?;
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
    linear(x, weight.view(), Some(bias.view()), Activation::None, None, skip, y, sizes)
}

/// Refuses channels that the kernels cannot compute.
fn check(x: &[usize], mid: usize, weights: &Residual) -> Result<()> {
    let stem = weights.normalise.is_some();
    let out = weights.projection[1].len();
    let eights = (stem || x[3].is_multiple_of(8)) && mid.is_multiple_of(8) && out.is_multiple_of(8);
    if eights && (!stem || mid <= 256) {
        return Ok(());
    }
    let expected =
        "channels, within the block too, in multiples of 8 on a GPU, of a stem up to 256";
    Err(Error::argument(OP, "block", expected, format!("{} to {mid} to {out}", x[3])))
}
