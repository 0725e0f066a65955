//! What distinguishes one Vision Transformer from another.

use super::Resampling;
use crate::error::{Error, Result};
use crate::ops::kernels;
use crate::tensor::Device;

/// The sizes of a Vision Transformer, how images come to it, and what its features are made of.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct VitConfig {
    /// Height and width of a patch in pixels.
    pub patch: usize,
    /// D, the width of a token.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of the attention; they divide the width.
    pub heads: usize,
    /// Tokens between the class token and those of the patches, without a position.
    pub registers: usize,
    /// M, the height and width of the grid that positions were learned on.
    pub positions: usize,
    /// How they come to another grid.
    pub resampling: Resampling,
    /// Whether each channel of a branch has a gain (LayerScale).
    pub layer_scale: bool,
    /// What is added to the variance in normalisations: by default `layer_norm_eps` of a `config.json` that lies
    /// beside the file of the weights, 1e-6 without one.
    pub eps: Option<f32>,
    /// The mean of red, green and blue, of pixels in [0, 1].
    pub mean: [f32; 3],
    /// Their standard deviation.
    pub std: [f32; 3],
    /// Height and width in pixels that images are resized to, a multiple of the patch.
    pub image_size: usize,
    /// The blocks whose tokens are features, counted from 0, ascending. Those behind the last are left out.
    pub blocks: Vec<usize>,
    /// Whether these go through the network's last normalisation.
    pub norm: bool,
}

setters!(VitConfig {
    patch: usize,
    width: usize,
    depth: usize,
    heads: usize,
    registers: usize,
    positions: usize,
    resampling: Resampling,
    layer_scale: bool,
    eps: Option<f32>,
    mean: [f32; 3],
    std: [f32; 3],
    image_size: usize,
    blocks: Vec<usize>,
    norm: bool,
});

/// Hidden units of the MLP per unit of width.
pub(super) const MLP_RATIO: usize = 4;

impl VitConfig {
    /// The networks that [`named`](Self::named) knows.
    pub const NAMES: [&str; 8] = [
        "vit-b16",
        "dino-vit-b16",
        "dinov2-vits14",
        "dinov2-vitb14",
        "dinov2-vitl14",
        "dinov2-vits14-reg",
        "dinov2-vitb14-reg",
        "dinov2-vitl14-reg",
    ];

    /// A network by name, its features the tokens of the last block, at 224×224: after the last normalisation of the
    /// supervised ViT and of DINO, before it of DINOv2. Positions are resampled as the library of the weights does.
    ///
    /// `vit-b16`: ViT-B/16 of ImageNet (Dosovitskiy et al., 2021); `dino-vit-b16`: Caron et al., 2021;
    /// `dinov2-vits14`, `-vitb14`, `-vitl14`: Oquab et al., 2023; with `-reg` those with four registers (Darcet et al.,
    /// 2024).
    ///
    /// # Errors
    /// [`Error::Argument`] if there is none of this name.
    pub fn named(name: &str) -> Result<Self> {
        let base = Self {
            patch: 16,
            width: 768,
            depth: 12,
            heads: 12,
            registers: 0,
            positions: 14,
            resampling: Resampling::Hub,
            layer_scale: false,
            eps: None,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            image_size: 224,
            blocks: vec![11],
            norm: true,
        };
        match name {
            "vit-b16" => {
                let (mean, std) = ([0.5; 3], [0.5; 3]);
                return Ok(Self { resampling: Resampling::Antialias, mean, std, ..base });
            }
            "dino-vit-b16" => return Ok(base),
            _ => {}
        }
        let (size, registers) = match name.strip_suffix("-reg") {
            Some(size) => (size, 4),
            None => (name, 0),
        };
        let (width, depth, heads) = match size {
            "dinov2-vits14" => (384, 12, 6),
            "dinov2-vitb14" => (768, 12, 12),
            "dinov2-vitl14" => (1024, 24, 16),
            _ => {
                let expected = format!("one of {}", Self::NAMES.join(", "));
                return Err(Error::argument("VitConfig", "name", expected, name));
            }
        };
        Ok(Self {
            patch: 14,
            width,
            depth,
            heads,
            registers,
            positions: 37,
            resampling: if registers > 0 { Resampling::Antialias } else { base.resampling },
            layer_scale: true,
            blocks: vec![depth - 1],
            norm: false,
            ..base
        })
    }

    /// L·D, the channels of features.
    pub fn channels(&self) -> usize {
        self.blocks.len() * self.width
    }

    /// Tokens before those of the patches.
    pub(super) fn before(&self) -> usize {
        1 + self.registers
    }

    /// Blocks that are computed.
    pub(super) fn computed(&self) -> usize {
        self.blocks.last().map_or(0, |last| last + 1)
    }

    /// The grid of patches of an image [H, W], if all sizes fit together.
    pub(super) fn grid(&self, image: [usize; 2]) -> Result<[usize; 2]> {
        let e = |arg, expected: String, got: String| Err(Error::argument(OP, arg, expected, got));
        for (arg, got) in [
            ("patch", self.patch),
            ("width", self.width),
            ("depth", self.depth),
            ("heads", self.heads),
            ("positions", self.positions),
            ("image size", image[0]),
            ("image size", image[1]),
            ("registers", self.registers.saturating_add(1)),
        ] {
            if !(1..=MOST).contains(&got) {
                return e(arg, format!("in 1..={MOST}"), got.to_string());
            }
        }
        if !self.width.is_multiple_of(self.heads) {
            let expected = format!("a divisor of the width {}", self.width);
            return e("heads", expected, self.heads.to_string());
        }
        let ascending = self.blocks.is_sorted_by(|a, b| a < b);
        if !ascending || self.blocks.last().is_none_or(|&last| last >= self.depth) {
            let expected = format!("some below {}, ascending", self.depth);
            return e("blocks", expected, format!("{:?}", self.blocks));
        }
        if let Some(side) = image.into_iter().find(|side| !side.is_multiple_of(self.patch)) {
            let below = side / self.patch * self.patch;
            let near = if below == 0 { self.patch } else { below };
            let expected = format!("a multiple of the patch {}, as {near} is", self.patch);
            return e("image size", expected, side.to_string());
        }
        if self.eps.is_some_and(|eps| !(0.0..=1.0).contains(&eps)) {
            return e("eps", "in 0..=1".into(), format!("{:?}", self.eps));
        }
        Ok(image.map(|side| side / self.patch))
    }

    /// Whether a device has kernels for so many tokens.
    pub(super) fn require(&self, device: Device, tokens: usize) -> Result<()> {
        match device {
            Device::Cpu => Ok(()),
            _ => kernels::require_transformer(OP, self.width, self.heads, tokens),
        }
    }
}

const OP: &str = "Vit";
/// The largest of any size.
const MOST: usize = 1 << 14;
