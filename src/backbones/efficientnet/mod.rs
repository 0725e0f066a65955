//! EfficientNet as a frozen feature extractor: the outputs of several blocks on one grid.
//!
//! Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019. The Lite
//! variants have no squeeze-excite and ReLU6 in place of swish.

mod read;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::{Backbone, BackboneSpec, Extractor, Packed};
use crate::device::{Allocate, Purpose, Share, Shared};
use crate::error::Result;
use crate::ops::{
    self, Activation, Gather, InvertedResidual, InvertedResidualScratch, expect_shape,
};
use crate::tensor::{Device, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;
use crate::weights::Weights;

/// One block: expansion to `expand` · `input` channels, depthwise convolution, projection.
#[derive(Clone, Copy, Debug)]
struct BlockConfig {
    kernel: usize,
    stride: usize,
    expand: usize,
    input: usize,
    output: usize,
}

/// What distinguishes one EfficientNet from another.
#[derive(Debug)]
struct Config {
    name: &'static str,
    /// What the crate has of it: a file with the names of the PyTorch ports.
    weights: &'static [u8],
    /// Height and width of an image.
    image_size: usize,
    stem: usize,
    blocks: &'static [BlockConfig],
    /// The blocks whose outputs are the features.
    taps: &'static [usize],
    activation: Activation,
    eps: f64,
}

const fn block(
    kernel: usize,
    stride: usize,
    expand: usize,
    input: usize,
    output: usize,
) -> BlockConfig {
    BlockConfig { kernel, stride, expand, input, output }
}

/// Pixels of an image between neighbouring cells of the grid: that of the deepest block.
const STRIDE: usize = 16;

static LITE0: Config = Config {
    name: "efficientnet-lite0",
    // Of ImageNet, cut after block 10; see `scripts/lite0_weights.py`.
    weights: include_bytes!("../../../assets/efficientnet-lite0.safetensors"),
    image_size: 256,
    stem: 32,
    blocks: &[
        block(3, 1, 1, 32, 16),
        block(3, 2, 6, 16, 24),
        block(3, 1, 6, 24, 24),
        block(5, 2, 6, 24, 40),
        block(5, 1, 6, 40, 40),
        block(3, 2, 6, 40, 80),
        block(3, 1, 6, 80, 80),
        block(3, 1, 6, 80, 80),
        block(5, 1, 6, 80, 112),
        block(5, 1, 6, 112, 112),
        block(5, 1, 6, 112, 112),
    ],
    taps: &[0, 2, 4, 10],
    activation: Activation::Relu6,
    eps: 1e-3,
};

/// EfficientNet-Lite0 with ImageNet weights, up to block 10: 192 channels.
pub(super) fn lite0() -> Result<Arc<dyn Backbone>> {
    let weights = Weights::of_bytes(LITE0.name, LITE0.weights)?;
    Ok(Arc::new(EfficientNet::new(&LITE0, LITE0.name.into(), weights)?))
}

/// EfficientNet-Lite0 with the weights of a file and a name of its own, to be given to [`register`](super::register).
///
/// The file is one of safetensors in f32 with the names of the PyTorch ports (`_conv_stem.weight`,
/// `_blocks.3._bn1.running_mean`, …); what lies beyond block 10 is not read.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::File`] if it is damaged or lacks a tensor.
pub fn efficientnet_lite0(
    name: impl Into<String>,
    weights: impl AsRef<Path>,
) -> Result<Arc<dyn Backbone>> {
    let network = EfficientNet::new(&LITE0, name.into(), Weights::open(weights)?)?;
    // So that what the file lacks is said here.
    network.pack(Device::Cpu, Precision::F32)?;
    Ok(Arc::new(network))
}

/// An EfficientNet without squeeze-excite.
struct EfficientNet {
    config: &'static Config,
    weights: Weights,
    spec: BackboneSpec,
}

impl fmt::Debug for EfficientNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EfficientNet").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl EfficientNet {
    fn new(config: &'static Config, name: String, weights: Weights) -> Result<Self> {
        let channels = config.taps.iter().map(|&i| config.blocks[i].output).sum();
        let (size, grid) = (config.image_size, config.image_size / STRIDE);
        let spec = BackboneSpec::new(name, weights.hash()?, size, channels, grid);
        Ok(Self { config, weights, spec })
    }
}

impl Backbone for EfficientNet {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn pack(&self, device: Device, precision: Precision) -> Result<Arc<dyn Packed>> {
        precision.require("backbone", device)?;
        let blocks = read::blocks(self.config, &self.weights, &self.spec, device)?;
        Ok(Arc::new(Network { blocks, spec: self.spec.clone(), precision }))
    }
}

/// Its blocks on a device.
struct Network {
    blocks: Vec<Block>,
    spec: BackboneSpec,
    precision: Precision,
}

struct Block {
    /// The first block's expansion is the stem.
    residual: InvertedResidual,
    tap: Option<Tap>,
}

/// Which of the tapped blocks a block is, and the first of its channels among the features.
#[derive(Clone, Copy)]
struct Tap {
    index: usize,
    first_channel: usize,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let residuals: Vec<_> = self.blocks.iter().map(|block| &block.residual).collect();
        f.debug_struct(&self.spec.name).field("blocks", &residuals).finish()
    }
}

/// The memory of some images at once.
struct Space {
    /// A block's input and output.
    maps: [Tensor; 2],
    scratch: InvertedResidualScratch,
    /// For each tap, in order.
    gathers: Vec<Gather>,
}

struct Pass {
    network: Arc<Network>,
    spaces: Shared<Space>,
    images: usize,
}

impl Packed for Network {
    fn extractor(
        self: Arc<Self>,
        batch: usize,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Extractor>> {
        let spaces = Shared::new(batch, a.device(), |share| self.space(share, a))?;
        Ok(Box::new(Pass { network: self, spaces, images: batch }))
    }
}

impl Network {
    fn space(&self, Share { images, threads }: Share, a: &mut dyn Allocate) -> Result<Space> {
        let device = a.device();
        let dtype = self.precision.dtype();
        let mut take = |len| a.zeros(Purpose::Activations, &[len], dtype);
        let residuals = || self.blocks.iter().map(|block| &block.residual);
        let longest = residuals().map(|block| block.output(images).iter().product());
        let longest: usize = longest.max().unwrap_or(0);
        let tapped = self.blocks.iter().filter(|block| block.tap.is_some());
        let gathers = tapped.map(|block| {
            let [_, height, width, _] = block.residual.output(images);
            Gather::new([height, width], self.spec.grid)
        });
        Ok(Space {
            maps: [take(longest)?, take(longest)?],
            gathers: gathers.collect::<Result<_>>()?,
            scratch: InvertedResidualScratch::taken(residuals(), images, device, threads, take)?,
        })
    }

    fn forward(
        &self,
        rgb: TensorView,
        mut features: TensorViewMut,
        space: &mut Space,
    ) -> Result<()> {
        let images = rgb.shape()[0];
        let Space { maps: [input, output], scratch, gathers } = space;
        let (mut input, mut output) = (input, output);
        for (i, Block { residual, tap }) in self.blocks.iter().enumerate() {
            let x = if i == 0 { rgb } else { input.view().part(0, &residual.input(images))? };
            let y_shape = residual.output(images);
            let y = output.view_mut().part(0, &y_shape)?;
            ops::inverted_residual(x, residual, scratch, y)?;
            if let Some(Tap { index, first_channel }) = *tap {
                let y = output.view().part(0, &y_shape)?;
                ops::gather_features(y, &mut gathers[index], first_channel, features.reborrow())?;
            }
            std::mem::swap(&mut input, &mut output);
        }
        Ok(())
    }
}

impl Extractor for Pass {
    fn extract(&mut self, rgb: TensorView<'_>, features: TensorViewMut<'_>) -> Result<()> {
        let Self { network, spaces, images } = self;
        expect_shape("extract", "rgb", rgb.shape(), &network.spec.rgb(*images))?;
        expect_shape(
            "extract",
            "features",
            features.shape(),
            &network.spec.features().of(*images),
        )?;
        spaces.run(rgb, features, |rgb, features, space| network.forward(rgb, features, space))
    }
}
