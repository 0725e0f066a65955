//! A network on a device, and its forward pass.

use std::fmt;
use std::sync::Arc;

use super::config::MLP_RATIO;
use super::{Reader, VitConfig};
use crate::backbones::{Extractor, Packed};
use crate::device::{Allocate, Purpose, Shared};
use crate::error::{Error, Result};
use crate::ops::{
    self, Activation, Chunk, PackedWeight, PatchOrder, Residual, expect_axes, expect_shape,
};
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;
use crate::weights::Weights;

/// A Vision Transformer on a device, for images of one size, which need not be square.
///
/// For bytes of square images there is [`vit`](super::vit).
pub struct Vit {
    config: VitConfig,
    image: [usize; 2],
    grid: [usize; 2],
    device: Device,
    eps: f32,
    embed: Layer,
    /// (N, D), of the class token and registers with themselves.
    position: Tensor,
    blocks: Vec<Block>,
    /// (1, (6·L + 2)·D): of each block [`PER_BLOCK`] vectors, then shift and scale of the last normalisation.
    table: Tensor,
}

/// Vectors of a block in the table: shift, scale and gain of its attention, then of its MLP.
const PER_BLOCK: usize = 6;

struct Layer {
    weight: PackedWeight,
    bias: Tensor,
}

impl Layer {
    /// Of a weight, whose first axis has as many rows as there are numbers in the bias, on a device.
    fn new([weight, bias]: [Vec<f32>; 2], device: Device) -> Result<Self> {
        let n = bias.len();
        let weight = TensorView::from_slice(&weight, &[n, weight.len() / n])?;
        let dtype = Precision::of(device).dtype();
        let bias = TensorView::from_slice(&bias, &[n])?.copied_to(device, dtype)?;
        Ok(Self { weight: PackedWeight::in_pairs(device, weight)?, bias })
    }

    fn run(&self, x: TensorView, activation: Activation, y: TensorViewMut) -> Result<()> {
        ops::linear(x, &self.weight, Some(self.bias.view()), activation, None, y)
    }
}

struct Block {
    qkv: Layer,
    proj: Layer,
    fc1: Layer,
    fc2: Layer,
}

impl fmt::Debug for Vit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, image, device, .. } = self;
        let mut all = f.debug_struct("Vit");
        all.field("config", config).field("image", image).field("device", device);
        all.finish_non_exhaustive()
    }
}

impl Vit {
    /// A network with the weights of a file, as [`vit`](super::vit) takes it, for images of `image` = [H, W] pixels.
    ///
    /// # Errors
    /// Those of [`vit`](super::vit) and of [`Backbone::pack`](crate::backbones::Backbone::pack).
    pub fn new(
        config: &VitConfig,
        weights: Weights,
        image: [usize; 2],
        device: Device,
    ) -> Result<Self> {
        config.grid(image)?;
        Self::of(config, &Reader::new(weights, config)?, image, device)
    }

    pub(super) fn of(
        config: &VitConfig,
        reader: &Reader,
        image: [usize; 2],
        device: Device,
    ) -> Result<Self> {
        device.require()?;
        let grid = config.grid(image)?;
        config.require(device, config.before() + grid[0] * grid[1])?;
        let (d, p, hidden) = (config.width, config.patch, MLP_RATIO * config.width);
        let layer = |name: &str, shape: &[usize]| Layer::new(reader.pair(name, shape)?, device);
        let mut table = Vec::new();
        let norm = |table: &mut Vec<f32>, name: &str| -> Result<()> {
            let [weight, bias] = reader.pair(name, &[d])?;
            table.extend(bias);
            // The operation multiplies by 1 + scale.
            table.extend(weight.iter().map(|weight| weight - 1.0));
            Ok(())
        };
        let mut blocks = Vec::new();
        for i in 0..config.computed() {
            let name = |part: &str| format!("blocks.{i}.{part}");
            for branch in [1, 2] {
                norm(&mut table, &name(&format!("norm{branch}")))?;
                table.extend(reader.gain(i, branch)?);
            }
            blocks.push(Block {
                qkv: Layer::new(reader.pair(&name("attn.qkv"), &[3 * d, d])?, device)?,
                proj: layer(&name("attn.proj"), &[d, d])?,
                fc1: layer(&name("mlp.fc1"), &[hidden, d])?,
                fc2: layer(&name("mlp.fc2"), &[d, hidden])?,
            });
        }
        norm(&mut table, "norm")?;
        let table = TensorView::from_slice(&table, &[1, table.len()])?;
        Ok(Self {
            image,
            grid,
            device,
            eps: reader.eps()?,
            embed: layer("patch_embed.proj", &[d, 3, p, p])?,
            position: reader.position(grid)?.view().copied_to(device, DType::F32)?,
            blocks,
            table: table.copied_to(device, DType::F32)?,
            config: config.clone(),
        })
    }

    /// [h, w], the patches of an image.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// The tokens of the chosen blocks, of images that are normalised already; takes memory for the time of the call.
    ///
    /// `images`: (B, H, W, 3), f32, on the CPU or the network's device. `tokens`: (B, T, L·D), written, f32, on a GPU
    /// f16 or f32, on the network's device; the last T tokens of each block, so that with T = h·w there are those of the
    /// patches, and with as many more as there are registers, and one, these and the class token before them.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Device`] if the arguments are others; [`Error::OutOfMemory`] if there is not enough
    /// memory.
    pub fn tokens<'a>(
        &self,
        images: impl Into<TensorView<'a>>,
        tokens: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        const OP: &str = "Vit::tokens";
        let (images, mut tokens) = (images.into(), tokens.into());
        let [batch, ..] = expect_axes::<4>(OP, "images", images.shape(), "(B, H, W, 3)")?;
        let [height, width] = self.image;
        expect_shape(OP, "images", images.shape(), &[batch, height, width, 3])?;
        let [_, t, channels] = expect_axes(OP, "tokens", tokens.shape(), "(B, T, L·D)")?;
        expect_shape(OP, "tokens", tokens.shape(), &[batch, t, channels])?;
        let (expected, got) = (self.device, tokens.device());
        if expected != got {
            return Err(Error::Device { op: OP, arg: "tokens", expected, got });
        }
        let images = images.copied_to(self.device, DType::F32)?;
        // On the host one by one: matrix products take rows in pairs, which have to be of one image.
        let each = if self.device == Device::Cpu { 1 } else { batch };
        let mut space = Space::new(self, each, &mut { self.device })?;
        for first in (0..batch).step_by(each.max(1)) {
            let pixels = [each, height, width, 3];
            let pixels = images.view().part(first * height * width * 3, &pixels)?;
            let tokens = tokens.reborrow().part(first * t * channels, &[each, t, channels])?;
            self.forward(pixels, tokens, &mut space)?;
        }
        Ok(())
    }

    /// N, the tokens of an image.
    fn tokens_each(&self) -> usize {
        self.config.before() + self.grid[0] * self.grid[1]
    }

    /// A vector of the table.
    fn chunk(&self, index: usize) -> Chunk<'_> {
        Chunk { table: self.table.view(), index }
    }

    /// out = the normalisation whose shift is vector `index` of the table, of x, or of x with a branch joined to it, which
    /// goes to `joined`.
    fn normalise(
        &self,
        index: usize,
        x: &Tensor,
        branch: Option<(Residual, &mut Tensor)>,
        out: &mut Tensor,
    ) -> Result<()> {
        let (residual, joined) = branch.map(|(r, joined)| (r, joined.view_mut())).unzip();
        let (shift, scale) = (self.chunk(index), self.chunk(index + 1));
        ops::adaln_zero(x, residual, shift, scale, self.eps, joined, out, None)
    }

    /// Writes the last T tokens of the chosen blocks to `out` (B, T, L·D).
    fn forward(&self, pixels: TensorView, mut out: TensorViewMut, space: &mut Space) -> Result<()> {
        let Space { patches, embedded, stream, h, y, qkv, hidden } = space;
        let [x, next] = stream.each_mut();
        ops::patchify(pixels, &mut *patches, self.config.patch, PatchOrder::ChannelsFirst)?;
        self.embed.run(patches.view(), Activation::None, embedded.view_mut())?;
        ops::add_position(&*embedded, &self.position, &mut *x)?;
        self.normalise(0, x, None, h)?;
        let flat = [y.shape()[0], y.shape()[1], 3 * self.config.width];
        let last_norm = PER_BLOCK * self.blocks.len();
        let mut first_channel = 0;
        for (i, block) in self.blocks.iter().enumerate() {
            let at = PER_BLOCK * i;
            block.qkv.run(h.view(), Activation::None, qkv.view_mut().part(0, &flat)?)?;
            ops::attention(&*qkv, &mut *h, None)?;
            block.proj.run(h.view(), Activation::None, y.view_mut())?;
            let branch = Residual { y: y.view(), gate: self.chunk(at + 2) };
            self.normalise(at + 3, x, Some((branch, &mut *next)), h)?;
            block.fc1.run(h.view(), Activation::GeluErf, hidden.view_mut())?;
            block.fc2.run(hidden.view(), Activation::None, y.view_mut())?;
            // For the next block, or as the last normalisation.
            let branch = Residual { y: y.view(), gate: self.chunk(at + 5) };
            self.normalise(at + PER_BLOCK, next, Some((branch, &mut *x)), h)?;
            if !self.config.blocks.contains(&i) {
                continue;
            }
            let tokens = match (self.config.norm, at + PER_BLOCK == last_norm) {
                (false, _) => &*x,
                (true, true) => &*h,
                (true, false) => {
                    self.normalise(last_norm, x, None, y)?;
                    &*y
                }
            };
            ops::gather_tokens(tokens, first_channel, out.reborrow())?;
            first_channel += self.config.width;
        }
        Ok(())
    }
}

/// The memory of some images at once.
struct Space {
    patches: Tensor,
    embedded: Tensor,
    /// The residual stream before and after a branch.
    stream: [Tensor; 2],
    /// What a branch is given, and what attention makes of it.
    h: Tensor,
    /// A branch's output.
    y: Tensor,
    qkv: Tensor,
    hidden: Tensor,
}

impl Space {
    fn new(vit: &Vit, images: usize, a: &mut dyn Allocate) -> Result<Self> {
        let c = &vit.config;
        let (patches, n, d) = (vit.grid[0] * vit.grid[1], vit.tokens_each(), c.width);
        let half = Precision::of(vit.device).dtype();
        let mut take = |shape: &[usize], dtype| a.zeros(Purpose::Activations, shape, dtype);
        let wide = [images, n, d];
        Ok(Self {
            patches: take(&[images, patches, 3 * c.patch * c.patch], half)?,
            embedded: take(&[images, patches, d], half)?,
            stream: [take(&wide, DType::F32)?, take(&wide, DType::F32)?],
            h: take(&wide, half)?,
            y: take(&wide, half)?,
            qkv: take(&[images, n, 3, c.heads, d / c.heads], half)?,
            hidden: take(&[images, n, MLP_RATIO * d], half)?,
        })
    }
}

/// A network, and for each of the threads images in f32 or f16 and the memory of a pass.
struct Pass {
    network: Arc<Vit>,
    spaces: Shared<(Tensor, Space)>,
    images: usize,
}

impl Packed for Vit {
    fn extractor(
        self: Arc<Self>,
        batch: usize,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Extractor>> {
        let [height, width] = self.image;
        let dtype = Precision::of(self.device).dtype();
        let spaces = Shared::new(batch, a.device(), |share| {
            let shape = [share.images, height, width, 3];
            let pixels = a.zeros(Purpose::Activations, &shape, dtype)?;
            Ok((pixels, Space::new(&self, share.images, a)?))
        })?;
        Ok(Box::new(Pass { network: self, spaces, images: batch }))
    }
}

impl Extractor for Pass {
    fn extract(&mut self, rgb: TensorView<'_>, features: TensorViewMut<'_>) -> Result<()> {
        const OP: &str = "extract";
        let Self { network, spaces, images } = self;
        let ([height, width], [h, w]) = (network.image, network.grid);
        let channels = network.config.channels();
        expect_shape(OP, "rgb", rgb.shape(), &[*images, height, width, 3])?;
        expect_shape(OP, "features", features.shape(), &[*images, h, w, channels])?;
        spaces.run(rgb, features, |rgb, features, (pixels, space)| {
            let (mean, std) = (network.config.mean, network.config.std);
            ops::normalise(rgb, mean, std, &mut *pixels)?;
            let flat = [features.shape()[0], h * w, channels];
            network.forward(pixels.view(), features.part(0, &flat)?, space)
        })
    }
}
