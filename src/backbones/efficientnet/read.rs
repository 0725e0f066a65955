//! Weights from files.

use super::{Block, Config, Tap};
use crate::backbones::BackboneSpec;
use crate::error::Result;
use crate::ops::{
    BatchNorm, Expansion, FoldedLayer, InvertedResidual, InvertedResidualLayers, fold_batch_norm,
};
use crate::tensor::{Device, TensorView};
use crate::weights::Weights;

/// The blocks of a network, packed for a device.
pub(super) fn blocks(
    config: &Config,
    weights: &Weights,
    spec: &BackboneSpec,
    device: Device,
) -> Result<Vec<Block>> {
    let reader = Reader { weights, eps: config.eps };
    let mut input = [config.image_size; 2];
    let (mut index, mut first_channel) = (0, 0);
    let mut blocks = Vec::new();
    for (i, block) in config.blocks.iter().enumerate() {
        let names =
            |conv: &str, norm: &str| [format!("_blocks.{i}.{conv}"), format!("_blocks.{i}.{norm}")];
        let expanded = block.expand * block.input;
        let expansion = match i {
            0 => reader.conv(["_conv_stem".into(), "_bn0".into()], [3, config.stem], 3),
            _ => reader.conv(names("_expand_conv", "_bn0"), [block.input, expanded], 1),
        };
        let depthwise = reader.depthwise(names("_depthwise_conv", "_bn1"), expanded, block.kernel);
        let projection = reader.conv(names("_project_conv", "_bn2"), [expanded, block.output], 1);
        let (expansion, depthwise, projection) = (expansion?, depthwise?, projection?);
        let layer = expansion.layer()?;
        let (mean, std) = (spec.mean, spec.std);
        let layers = InvertedResidualLayers {
            input,
            expansion: match i {
                0 => Expansion::Stem { layer, mean, std },
                _ => Expansion::Pointwise(layer),
            },
            depthwise: depthwise.layer()?,
            stride: block.stride,
            projection: projection.layer()?,
            activation: config.activation,
            skip: i > 0 && block.stride == 1 && block.input == block.output,
        };
        let residual = InvertedResidual::new(&layers, device)?;
        let [_, height, width, channels] = residual.output(1);
        input = [height, width];
        let tap = config.taps.contains(&i).then_some(Tap { index, first_channel });
        if tap.is_some() {
            index += 1;
            first_channel += channels;
        }
        blocks.push(Block { residual, tap });
    }
    Ok(blocks)
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

/// Takes layers from a file with the names of the PyTorch ports of EfficientNet, (`_conv_stem`,
/// `_blocks.3._bn1`, …), whose weights are (output channels, input channels, height, width).
struct Reader<'a> {
    weights: &'a Weights,
    eps: f64,
}

impl Reader<'_> {
    fn conv(
        &self,
        [conv, norm]: [String; 2],
        [input, output]: [usize; 2],
        kernel: usize,
    ) -> Result<Folded> {
        let by_output =
            self.weights.f32s(&format!("{conv}.weight"), &[output, input, kernel, kernel])?;
        let taps = kernel * kernel;
        let weight = (0..taps * input * output).map(|i| {
            let (tap, c, o) = (i / (input * output), i / output % input, i % output);
            by_output[(o * input + c) * taps + tap]
        });
        let mut weight: Vec<f32> = weight.collect();
        let bias = self.fold(norm, &mut weight, output)?;
        let shape = match kernel {
            1 => vec![input, output],
            _ => vec![kernel, kernel, input, output],
        };
        Ok(Folded { weight, bias, shape })
    }

    fn depthwise(
        &self,
        [conv, norm]: [String; 2],
        channels: usize,
        kernel: usize,
    ) -> Result<Folded> {
        let by_channel =
            self.weights.f32s(&format!("{conv}.weight"), &[channels, 1, kernel, kernel])?;
        let taps = kernel * kernel;
        let weight = (0..taps * channels).map(|i| by_channel[i % channels * taps + i / channels]);
        let mut weight: Vec<f32> = weight.collect();
        let bias = self.fold(norm, &mut weight, channels)?;
        Ok(Folded { weight, bias, shape: vec![kernel, kernel, channels] })
    }

    /// Folds the normalisation into the weight; returns the bias.
    fn fold(&self, norm: String, weight: &mut [f32], channels: usize) -> Result<Vec<f32>> {
        let part = |name: &str| self.weights.f32s(&format!("{norm}.{name}"), &[channels]);
        let norm = BatchNorm {
            scale: &part("weight")?,
            shift: &part("bias")?,
            mean: &part("running_mean")?,
            variance: &part("running_var")?,
            eps: self.eps,
        };
        let mut bias = vec![0.0; channels];
        fold_batch_norm(norm, weight, &mut bias)?;
        Ok(bias)
    }
}
