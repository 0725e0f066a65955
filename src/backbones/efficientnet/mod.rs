//! EfficientNet as a frozen feature extractor: the outputs of several blocks on one grid.
//!
//! Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019. The Lite
//! variants have no squeeze-excite and ReLU6 in place of swish.

mod read;
mod variants;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::{Backbone, BackboneSpec, Extractor, Packed};
use crate::device::{Allocate, Purpose, Share, Shared};
use crate::error::{Error, Result};
use crate::ops::{self, Gather, InvertedResidual, InvertedResidualScratch, expect_shape};
use crate::tensor::{Device, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;
use crate::weights::{self, Weights};
use read::Names;
use variants::{VARIANTS, Variant};

/// What training code puts before names.
const PREFIXES: [&str; 2] = ["module.", "backbone."];

/// Pixels of an image between neighbouring cells of the grid.
const STRIDE: usize = 16;

/// EfficientNet-Lite0 with ImageNet weights, up to block 10: 192 channels.
pub(super) fn lite0() -> Result<Arc<dyn Backbone>> {
    // Cut after block 10; see `scripts/lite0_weights.py`.
    static LITE0: &[u8] = include_bytes!("../../../assets/efficientnet-lite0.safetensors");
    const NAME: &str = "efficientnet-lite0";
    EfficientNet::named(NAME)?.with_weights(NAME, Weights::of_bytes(NAME, LITE0)?)
}

/// An EfficientNet without weights, and what is taken of it; it is changed a field at a time:
///
/// ```no_run
/// # use invad::backbones::{self, EfficientNet};
/// # use invad::weights::Weights;
/// let b4 = EfficientNet::named("efficientnet-b4")?.image_size(320);
/// let weights = Weights::open("tf_efficientnet_b4.safetensors")?;
/// backbones::register(b4.with_weights("efficientnet-b4", weights)?)?;
/// # Ok::<(), invad::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct EfficientNet {
    variant: &'static Variant,
    image_size: usize,
    taps: Vec<usize>,
}

impl EfficientNet {
    /// All there are: [`named`](Self::named) says which are which.
    pub fn names() -> impl Iterator<Item = &'static str> {
        VARIANTS.iter().map(|variant| variant.name)
    }

    /// By name, for images of 256 × 256, and with the outputs of the last block at each of the strides 2, 4, 8 and 16.
    ///
    /// - `efficientnet-lite0`, `efficientnet-lite1`: 192 channels; `efficientnet-lite2`: 208.
    /// - `efficientnet-b4`, 272 channels, is timm's `tf_efficientnet_b4`: TensorFlow's "SAME" padding for the images as
    ///   they are.
    /// - `efficientnet-b4-reference` pads as if images had 380 × 380 pixels, as checkpoints of InvAD's reference
    ///   implementation expect.
    /// - `efficientnet-b4-symmetric` is timm's `efficientnet_b4`, trained in PyTorch: as much padding on every side, and
    ///   another ε in batch normalisation.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is none of this name.
    pub fn named(name: &str) -> Result<Self> {
        let Some(variant) = VARIANTS.iter().find(|variant| variant.name == name) else {
            let expected = format!("one of {}", Self::names().collect::<Vec<_>>().join(", "));
            return Err(Error::argument("EfficientNet", "name", expected, name));
        };
        Ok(Self { variant, image_size: 256, taps: variant.taps(STRIDE) })
    }

    /// The same for images of this height and width, a multiple of 16.
    pub fn image_size(self, image_size: usize) -> Self {
        Self { image_size, ..self }
    }

    /// The same with the outputs of these blocks as features, in ascending order and counted from 0.
    pub fn taps(self, taps: impl Into<Vec<usize>>) -> Self {
        Self { taps: taps.into(), ..self }
    }

    /// The names and shapes of the tensors that it is read from, by the names of the PyTorch ports.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.named_by(Names::Ports)
    }

    fn named_by(&self, names: Names) -> Vec<(String, Vec<usize>)> {
        read::tensors(self.variant, self.count(), names)
    }

    /// A backbone with weights, and a name to [`register`](super::register) it by.
    ///
    /// Tensors have the names of the PyTorch ports (`_conv_stem.weight`, `_blocks.3._bn1.running_mean`, …) or timm's
    /// (`conv_stem.weight`, `blocks.1.1.bn2.running_mean`, …), also after `module.` or `backbone.`; what lies beyond the last of the blocks is not read.
    ///
    /// # Errors
    /// [`Error::File`] that names what is missing or has another shape; [`Error::Argument`] for an image size that is no
    /// multiple of 16 or beyond 16384, or blocks that there are not; [`Error::Io`] if the file cannot be read.
    pub fn with_weights(
        self,
        name: impl Into<String>,
        weights: Weights,
    ) -> Result<Arc<dyn Backbone>> {
        let refused =
            |arg, expected: String, got| Err(Error::argument("EfficientNet", arg, expected, got));
        let size = self.image_size;
        if !size.is_multiple_of(STRIDE) || !(1..=1 << 14).contains(&size) {
            let expected = format!("a multiple of {STRIDE} up to 16384");
            return refused("image_size", expected, size.to_string());
        }
        let weights = weights.without_prefixes(&PREFIXES)?;
        self.check(&weights)?;
        let blocks = self.variant.blocks();
        let channels = self.taps.iter().map(|&i| blocks[i].output).sum();
        let spec = BackboneSpec::new(name, weights.hash()?, size, channels, size / STRIDE);
        let spec = spec.with_file(weights.path());
        Ok(Arc::new(Weighted { network: self, weights, spec }))
    }

    /// Writes what it is read from to a file of safetensors, in f32 and under the names of the PyTorch ports; returns the
    /// names of the tensors that it does not need.
    ///
    /// # Errors
    /// As [`EfficientNet::with_weights`]; [`Error::Io`] if the file cannot be written.
    pub fn convert(&self, weights: Weights, to: impl AsRef<Path>) -> Result<Vec<String>> {
        let weights = weights.without_prefixes(&PREFIXES)?;
        let left = self.check(&weights)?;
        let (ours, theirs) = (self.tensors(), self.named_by(Names::of(&weights)));
        weights::write(to, None, &ours, |i, put| {
            let (name, shape) = &theirs[i];
            put(&weights.f32s(name, shape)?)
        })?;
        Ok(left)
    }

    /// Its blocks up to the last whose output is a feature, for images of `input` = [height, width]: to be computed one
    /// after another by [`inverted_residual`](ops::inverted_residual).
    ///
    /// # Errors
    /// Those of [`EfficientNet::with_weights`], and of [`InvertedResidual::new`].
    pub fn blocks(
        &self,
        weights: &Weights,
        input: [usize; 2],
        device: Device,
    ) -> Result<Vec<InvertedResidual>> {
        self.check(weights)?;
        let BackboneSpec { mean, std, .. } = BackboneSpec::new("", "", 1, 1, 1);
        read::blocks(self.variant, self.count(), weights, (input, mean, std), device)
    }

    /// How many blocks are computed.
    fn count(&self) -> usize {
        self.taps.last().map_or(0, |last| last + 1)
    }

    /// That there are such blocks, and weights for them; returns the names of others.
    fn check(&self, weights: &Weights) -> Result<Vec<String>> {
        let there = self.variant.blocks().len();
        let ascending = self.taps.is_sorted_by(|a, b| a < b);
        if self.taps.is_empty() || !ascending || self.count() > there {
            let expected = format!("ascending, and below {there}");
            return Err(Error::argument(
                "EfficientNet",
                "taps",
                expected,
                format!("{:?}", self.taps),
            ));
        }
        weights.require(self.named_by(Names::of(weights)))
    }
}

/// An EfficientNet with its weights.
struct Weighted {
    network: EfficientNet,
    weights: Weights,
    spec: BackboneSpec,
}

impl fmt::Debug for Weighted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EfficientNet").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Backbone for Weighted {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn pack(&self, device: Device, precision: Precision) -> Result<Arc<dyn Packed>> {
        precision.require("backbone", device)?;
        let input = [self.spec.image_size; 2];
        let taps = &self.network.taps;
        let mut first_channel = 0;
        let blocks = self.network.blocks(&self.weights, input, device)?;
        let blocks = blocks.into_iter().enumerate().map(|(i, residual)| {
            let tap = taps.iter().position(|&tap| tap == i).map(|index| {
                let tap = Tap { index, first_channel };
                first_channel += residual.output(1)[3];
                tap
            });
            Block { residual, tap }
        });
        let blocks = blocks.collect();
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
        let mut take = |len, dtype| a.zeros(Purpose::Activations, &[len], dtype);
        let residuals = || self.blocks.iter().map(|block| &block.residual);
        let longest = residuals().map(|block| block.output(images).iter().product());
        let longest: usize = longest.max().unwrap_or(0);
        let tapped = self.blocks.iter().filter(|block| block.tap.is_some());
        let gathers = tapped.map(|block| {
            let [_, height, width, _] = block.residual.output(images);
            Gather::new([height, width], self.spec.grid)
        });
        Ok(Space {
            maps: [take(longest, dtype)?, take(longest, dtype)?],
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
