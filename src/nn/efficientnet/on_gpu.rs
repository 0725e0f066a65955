//! EfficientNet on a GPU: from images of bytes to features, everything between in f16.

use super::{LITE0, LITE0_WEIGHTS, ReadConv, read};
use crate::cpu::conv2d::Window;
use crate::cuda::{self, Upload};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};

/// A frozen EfficientNet without squeeze-excite.
pub(in crate::nn) struct EfficientNetOnGpu {
    ordinal: usize,
    /// Factors and offsets that take bytes of red, green and blue to what the network was trained
    /// with.
    normalise: Tensor,
    stem: Convolution,
    blocks: Vec<Block>,
}

struct Block {
    /// The first block's is the stem.
    expand: Option<Convolution>,
    depthwise: Convolution,
    project: Convolution,
    skip: bool,
    tap: Option<usize>,
}

/// A convolution's weight and bias, in the types its kernel takes.
struct Convolution {
    window: Window,
    weight: Tensor,
    bias: Tensor,
    activation: Activation,
}

/// The memory of a forward pass.
#[derive(Debug)]
pub(in crate::nn) struct Workspace {
    images: usize,
    /// A block's input and output.
    maps: [Tensor; 2],
    expanded: Tensor,
    filtered: Tensor,
}

impl Convolution {
    /// A pointwise convolution as a linear layer: weight (outputs, inputs) and bias in f16.
    fn pointwise(conv: &ReadConv, device: Device) -> Result<Self> {
        let [inputs, outputs] = conv.channels;
        let weight: Vec<f32> =
            (0..inputs * outputs).map(|i| conv.weight[i % inputs * outputs + i / inputs]).collect();
        let weight = TensorView::from_slice(&weight, &[outputs, inputs])?;
        let bias = TensorView::from_slice(&conv.bias, &[outputs])?;
        Ok(Self {
            window: conv.window,
            weight: weight.copied_to(device, DType::F16)?,
            bias: bias.copied_to(device, DType::F16)?,
            activation: conv.activation,
        })
    }

    /// Another convolution: weight and bias in f32.
    fn direct(
        window: Window,
        weight: &[f32],
        bias: &[f32],
        activation: Activation,
        device: Device,
    ) -> Result<Self> {
        let channels = bias.len();
        let [kh, kw] = window.kernel;
        let shape = [kh, kw, weight.len() / (kh * kw * channels) * channels];
        Ok(Self {
            window,
            weight: TensorView::from_slice(weight, &shape)?.copied_to(device, DType::F32)?,
            bias: TensorView::from_slice(bias, &[channels])?.copied_to(device, DType::F32)?,
            activation,
        })
    }

    fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// (B, H', W', outputs).
    fn output(&self, images: usize) -> [usize; 4] {
        let [height, width] = self.window.output;
        [images, height, width, self.outputs()]
    }

    /// A pointwise convolution without its activation, and `skip` added.
    fn apply(&self, x: TensorView, skip: Option<TensorView>, y: TensorViewMut) -> Result<()> {
        let [outputs, inputs] = *self.weight.shape() else { unreachable!("weights have two axes") };
        let sizes = (x.len() / inputs, inputs, outputs);
        let (weight, bias) = (self.weight.view(), Some(self.bias.view()));
        cuda::ops::linear(x, weight, bias, Activation::None, None, skip, y, sizes)
    }
}

impl EfficientNetOnGpu {
    /// EfficientNet-Lite0 as [`EfficientNet::lite0`](super::EfficientNet::lite0), for bytes that are
    /// normalised by `mean` and `std`.
    pub fn lite0(ordinal: usize, mean: [f32; 3], std: [f32; 3]) -> Result<Self> {
        let device = Device::Cuda(ordinal);
        let blocks = read(&LITE0, LITE0_WEIGHTS).expect("the embedded weights are whole");
        let factors = std.map(|std| 1.0 / (255.0 * std));
        let offsets = [0, 1, 2].map(|i| -mean[i] / std[i]);
        let normalise = [factors, offsets].concat();
        let stem = &blocks[0].expand;
        Ok(Self {
            ordinal,
            normalise: TensorView::from_slice(&normalise, &[6])?.copied_to(device, DType::F32)?,
            stem: Convolution::direct(
                stem.window,
                &stem.weight,
                &stem.bias,
                stem.activation,
                device,
            )?,
            blocks: blocks
                .iter()
                .enumerate()
                .map(|(i, block)| {
                    let expand = (i > 0).then(|| Convolution::pointwise(&block.expand, device));
                    let d = &block.depthwise;
                    Ok(Block {
                        expand: expand.transpose()?,
                        depthwise: Convolution::direct(
                            d.window,
                            &d.weight,
                            &d.bias,
                            d.activation,
                            device,
                        )?,
                        project: Convolution::pointwise(&block.project, device)?,
                        skip: block.skip,
                        tap: block.tap,
                    })
                })
                .collect::<Result<_>>()?,
        })
    }

    /// Memory for so many images.
    pub fn workspace(&self, images: usize) -> Result<Workspace> {
        let device = Device::Cuda(self.ordinal);
        let len = |conv: &Convolution| conv.output(images).iter().product::<usize>();
        let longest = |of: fn(&Block) -> Option<&Convolution>, least: usize| {
            let longest = self.blocks.iter().filter_map(of).map(len).max();
            Tensor::zeros(&[longest.unwrap_or(0).max(least)], DType::F16, device)
        };
        let map = || longest(|block| Some(&block.project), 0);
        Ok(Workspace {
            images,
            maps: [map()?, map()?],
            expanded: longest(|block| block.expand.as_ref(), len(&self.stem))?,
            filtered: longest(|block| Some(&block.depthwise), 0)?,
        })
    }

    /// The features of images that have been sent to the GPU.
    ///
    /// `rgb`: (B, S, S, 3), or more; `features`: (B, G, G, C), f16 or f32, B the workspace's.
    pub fn forward(
        &self,
        rgb: &mut Upload,
        mut features: TensorViewMut,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let Workspace { images, maps: [input, output], expanded, filtered } = workspace;
        let images = *images;
        if features.device() != Device::Cuda(self.ordinal) {
            let (expected, got) = (Device::Cuda(self.ordinal), features.device());
            return Err(Error::Device { op: "EfficientNet", arg: "features", expected, got });
        }
        let stem = &self.stem;
        let y = expanded.view_mut().part(0, &stem.output(images))?;
        let [normalise, weight, bias] =
            [&self.normalise, &stem.weight, &stem.bias].map(Tensor::view);
        rgb.read(|rgb| {
            cuda::ops::stem_conv(rgb, normalise, weight, bias, stem.window, stem.activation, y)
        })?;
        let (mut input, mut output) = (input, output);
        let mut expanded_shape = stem.output(images);
        let mut x_shape = [0; 4];
        for block in &self.blocks {
            // What is expanded passes its activation where it is read; the stem's has passed it.
            let mut before = Activation::None;
            if let Some(expand) = &block.expand {
                expanded_shape = expand.output(images);
                let x = input.view().part(0, &x_shape)?;
                expand.apply(x, None, expanded.view_mut().part(0, &expanded_shape)?)?;
                before = expand.activation;
            }
            let (conv, shape) = (&block.depthwise, block.depthwise.output(images));
            cuda::ops::depthwise_conv2d(
                expanded.view().part(0, &expanded_shape)?,
                conv.weight.view(),
                conv.bias.view(),
                conv.window,
                [before, conv.activation],
                filtered.view_mut().part(0, &shape)?,
            )?;
            let y_shape = block.project.output(images);
            let skip = match block.skip {
                true => Some(input.view().part(0, &x_shape)?),
                false => None,
            };
            let y = output.view_mut().part(0, &y_shape)?;
            block.project.apply(filtered.view().part(0, &shape)?, skip, y)?;
            if let Some(first_channel) = block.tap {
                let y = output.view().part(0, &y_shape)?;
                cuda::ops::gather_features(y, features.reborrow(), first_channel)?;
            }
            x_shape = y_shape;
            std::mem::swap(&mut input, &mut output);
        }
        Ok(())
    }
}
