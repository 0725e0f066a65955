//! Weights from files.

use super::variants::{Block, Pads, Variant};
use crate::error::Result;
use crate::ops::{
    BatchNorm, Expansion, FoldedLayer, InvertedResidual, InvertedResidualLayers, SqueezeExcite,
    fold_batch_norm,
};
use crate::tensor::{Device, TensorView};
use crate::weights::Weights;

/// What files call the parts of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// As the PyTorch ports: `_blocks.3._bn1`.
    Ports,
    /// As timm: `blocks.1.1.bn2`.
    Timm,
}

impl Names {
    /// Those of a file.
    pub fn of(weights: &Weights) -> Self {
        let timm = weights.entries().any(|(name, _)| name == "conv_stem.weight");
        if timm { Self::Timm } else { Self::Ports }
    }
}

/// A convolution in a file: (output channels, input channels of each, kernel, kernel), and the batch normalisation after
/// it, or a bias.
struct Layer {
    conv: String,
    norm: Option<String>,
    shape: [usize; 4],
}

const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

impl Layer {
    /// The names and shapes of its tensors.
    fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let outputs = vec![self.shape[0]];
        let rest: Vec<String> = match &self.norm {
            Some(norm) => NORM.map(|part| format!("{norm}.{part}")).into(),
            None => vec![format!("{}.bias", self.conv)],
        };
        let weight = (format!("{}.weight", self.conv), self.shape.to_vec());
        [weight].into_iter().chain(rest.into_iter().map(move |name| (name, outputs.clone())))
    }

    /// With the normalisation folded in.
    fn read(&self, weights: &Weights, eps: f64) -> Result<Folded> {
        let [output, input, kernel, _] = self.shape;
        let by_output = weights.f32s(&format!("{}.weight", self.conv), &self.shape)?;
        let taps = kernel * kernel;
        let weight = (0..by_output.len()).map(|i| {
            let (tap, c, o) = (i / (input * output), i / output % input, i % output);
            by_output[(o * input + c) * taps + tap]
        });
        let mut weight: Vec<f32> = weight.collect();
        let bias = match &self.norm {
            Some(norm) => {
                let part = |part: &str| weights.f32s(&format!("{norm}.{part}"), &[output]);
                let [scale, shift, mean, variance] = NORM.map(part);
                let mut bias = vec![0.0; output];
                let norm = BatchNorm {
                    scale: &scale?,
                    shift: &shift?,
                    mean: &mean?,
                    variance: &variance?,
                    eps,
                };
                fold_batch_norm(norm, &mut weight, &mut bias)?;
                bias
            }
            None => weights.f32s(&format!("{}.bias", self.conv), &[output])?,
        };
        let shape = match (kernel, input) {
            (1, _) => vec![input, output],
            (_, 1) => vec![kernel, kernel, output],
            _ => vec![kernel, kernel, input, output],
        };
        Ok(Folded { weight, bias, shape })
    }
}

/// A convolution with the batch normalisation after it folded in; output channels are the last axis of its weight.
struct Folded {
    weight: Vec<f32>,
    bias: Vec<f32>,
    shape: Vec<usize>,
}

impl Folded {
    fn layer(&self) -> Result<FoldedLayer<'_>> {
        Ok(FoldedLayer {
            weight: TensorView::from_slice(&self.weight, &self.shape)?,
            bias: TensorView::from_slice(&self.bias, &[self.bias.len()])?,
        })
    }
}

/// The layers of the `i`-th block; the first block's expansion is the stem.
struct Layers {
    expansion: Option<Layer>,
    depthwise: Layer,
    squeeze_excite: Option<[Layer; 2]>,
    projection: Layer,
}

impl Layers {
    fn new(variant: &Variant, i: usize, block: Block, names: Names) -> Self {
        let Block { stage, place, kernel, expand, input, output, .. } = block;
        let expands = expand > 1;
        let mid = expand * input;
        let within = |port: &str, timm: &str| match names {
            Names::Ports => format!("_blocks.{i}.{port}"),
            Names::Timm => format!("blocks.{stage}.{place}.{timm}"),
        };
        // timm counts norms from 1, and calls a projection after no expansion what is the expansion elsewhere.
        let norm = |port: usize| {
            let timm = if expands { port + 1 } else { port };
            Some(within(&format!("_bn{port}"), &format!("bn{timm}")))
        };
        let expansion = match (i, expands) {
            (0, _) => {
                let [conv, norm] = match names {
                    Names::Ports => ["_conv_stem", "_bn0"],
                    Names::Timm => ["conv_stem", "bn1"],
                };
                let shape = [variant.stem, 3, 3, 3];
                Some(Layer { conv: conv.into(), norm: Some(norm.into()), shape })
            }
            (_, true) => {
                let shape = [mid, input, 1, 1];
                Some(Layer { conv: within("_expand_conv", "conv_pw"), norm: norm(0), shape })
            }
            (_, false) => None,
        };
        let reduced = (input / 4).max(1);
        let squeeze_excite = variant.squeeze_excite.then(|| {
            let layer = |conv, shape| Layer { conv, norm: None, shape };
            let reduce = within("_se_reduce", "se.conv_reduce");
            let expand = within("_se_expand", "se.conv_expand");
            [layer(reduce, [reduced, mid, 1, 1]), layer(expand, [mid, reduced, 1, 1])]
        });
        let project = within("_project_conv", if expands { "conv_pwl" } else { "conv_pw" });
        Self {
            expansion,
            depthwise: Layer {
                conv: within("_depthwise_conv", "conv_dw"),
                norm: norm(1),
                shape: [mid, 1, kernel, kernel],
            },
            squeeze_excite,
            projection: Layer { conv: project, norm: norm(2), shape: [output, mid, 1, 1] },
        }
    }

    fn all(&self) -> impl Iterator<Item = &Layer> {
        let Self { expansion, depthwise, squeeze_excite, projection } = self;
        let first = expansion.iter().chain([depthwise]);
        first.chain(squeeze_excite.iter().flatten()).chain([projection])
    }
}

/// The names and shapes of what the first `count` blocks are read from.
pub(super) fn tensors(variant: &Variant, count: usize, names: Names) -> Vec<(String, Vec<usize>)> {
    let blocks = variant.blocks().into_iter().take(count).enumerate();
    let layers = blocks.map(|(i, block)| Layers::new(variant, i, block, names));
    layers.flat_map(|layers| layers.all().flat_map(Layer::tensors).collect::<Vec<_>>()).collect()
}

/// The first `count` blocks, packed for a device and images of `input` = [height, width].
pub(super) fn blocks(
    variant: &Variant,
    count: usize,
    weights: &Weights,
    (input, mean, std): ([usize; 2], [f32; 3], [f32; 3]),
    device: Device,
) -> Result<Vec<InvertedResidual>> {
    let names = Names::of(weights);
    // The size of what a layer is applied to, and of what it is padded for.
    let mut size = input;
    let mut of = match variant.pads {
        Pads::Of(side) => [side; 2],
        Pads::Own | Pads::Symmetric => input,
    };
    let mut padding = |size, kernel, stride: usize| {
        let padding = variant.pads.around(size, of, kernel, stride);
        of = of.map(|n| n.div_ceil(stride));
        padding
    };
    let mut packed = Vec::new();
    for (i, block) in variant.blocks().into_iter().take(count).enumerate() {
        let layers = Layers::new(variant, i, block, names);
        let read = |layer: &Layer| layer.read(weights, variant.eps);
        let expansion = layers.expansion.as_ref().map(read).transpose()?;
        let depthwise = read(&layers.depthwise)?;
        let squeeze_excite = match &layers.squeeze_excite {
            Some([reduce, expand]) => Some([read(reduce)?, read(expand)?]),
            None => None,
        };
        let projection = read(&layers.projection)?;
        let input = size;
        let block = InvertedResidualLayers {
            input,
            expansion: match expansion.as_ref().map(Folded::layer).transpose()? {
                None => Expansion::None,
                Some(layer) if i == 0 => {
                    size = size.map(|n| n.div_ceil(2));
                    Expansion::Stem { layer, padding: padding(input, 3, 2), mean, std }
                }
                Some(layer) => Expansion::Pointwise(layer),
            },
            depthwise: depthwise.layer()?,
            stride: block.stride,
            padding: padding(size, block.kernel, block.stride),
            squeeze_excite: match &squeeze_excite {
                Some([reduce, expand]) => {
                    Some(SqueezeExcite { reduce: reduce.layer()?, expand: expand.layer()? })
                }
                None => None,
            },
            projection: projection.layer()?,
            activation: variant.activation,
            skip: i > 0 && block.stride == 1 && block.input == block.output,
        };
        let block = InvertedResidual::new(&block, device)?;
        let [_, height, width, _] = block.output(1);
        size = [height, width];
        packed.push(block);
    }
    Ok(packed)
}
