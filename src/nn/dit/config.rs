//! The sizes of a network, and what its training computes twice.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::kernels::{LARGEST_HEAD, MOST_TOKENS, WIDEST, WIDEST_BACKWARD};
use crate::tensor::Device;

/// Modulation vectors of one block.
pub(super) const PER_BLOCK: usize = 6;
/// Hidden units of the MLP per unit of width.
pub(super) const MLP_RATIO: usize = 4;

/// The sizes of a [`Dit`](super::Dit).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DitConfig {
    /// Feature channels C.
    pub channels: usize,
    /// Side G of the feature grid.
    pub grid: usize,
    /// Model width D.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Side of a patch; it divides the grid.
    pub patch: usize,
}

impl DitConfig {
    /// N, the number of tokens.
    pub fn tokens(&self) -> usize {
        (self.grid / self.patch).pow(2)
    }

    /// Numbers of one token: C·p².
    pub(super) fn token_len(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    pub(super) fn chunks(&self) -> usize {
        PER_BLOCK * self.depth + 2
    }

    /// Whether a device can be used and can compute networks of these sizes forward.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be used; [`Error::Argument`] if it is a GPU and there are no
    /// kernels for the sizes: there are for widths that are multiples of 8 up to 8192, head sizes that
    /// are multiples of 8 up to 256, and up to 4096 tokens.
    pub fn require(&self, device: Device) -> Result<()> {
        device.require()?;
        if device != Device::Cpu {
            for (arg, got, multiple, most) in [
                ("width", self.width, 8, WIDEST),
                ("head size", self.width / self.heads, 8, LARGEST_HEAD),
                ("tokens", self.tokens(), 1, MOST_TOKENS),
            ] {
                if !got.is_multiple_of(multiple) || got > most {
                    let expected = format!("a multiple of {multiple} up to {most} on a GPU");
                    return Err(Error::argument("Dit", arg, expected, got));
                }
            }
        }
        Ok(())
    }

    /// Whether a device can be used and can train networks of these sizes.
    ///
    /// # Errors
    /// Those of [`DitConfig::require`]; [`Error::Argument`] if the device is a GPU and the width is
    /// above 4096, of which there are no gradients.
    pub fn require_training(&self, device: Device) -> Result<()> {
        self.require(device)?;
        if device != Device::Cpu && self.width > WIDEST_BACKWARD {
            let expected = format!("up to {WIDEST_BACKWARD} for training on a GPU");
            return Err(Error::argument("Dit", "width", expected, self.width));
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<()> {
        let e = |arg, expected: &str, got: usize| Error::argument("Dit", arg, expected, got);
        let sizes = [
            ("channels", self.channels),
            ("grid", self.grid),
            ("width", self.width),
            ("heads", self.heads),
            ("patch", self.patch),
        ];
        for (name, value) in sizes {
            if !(1..=1 << 14).contains(&value) {
                return Err(e(name, "in 1..=16384", value));
            }
        }
        if self.depth > 1024 {
            return Err(e("depth", "at most 1024", self.depth));
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(e("heads", &format!("a divisor of the width {}", self.width), self.heads));
        }
        if !self.grid.is_multiple_of(self.patch) {
            return Err(e("patch", &format!("a divisor of the grid {}", self.grid), self.patch));
        }
        Ok(())
    }
}

/// What a backward pass computes again instead of having it kept, from the fastest to the smallest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Nothing.
    #[default]
    Nothing,
    /// The outputs of normalisations and of GELUs.
    Normalisation,
    /// Everything but the residual stream between blocks: each block's forward pass.
    Blocks,
}

impl Recompute {
    /// All of them, each smaller and slower than the one before.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Normalisation, Self::Blocks];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Normalisation => "normalisation",
            Self::Blocks => "blocks",
        }
    }
}
