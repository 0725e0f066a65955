//! The sizes of a network.

use serde::{Deserialize, Serialize};

use crate::denoisers::adaln::require;
use crate::denoisers::parts::check_sizes;
use crate::denoisers::{FeatureShape, Use};
use crate::error::{Error, Result};
use crate::ops::kernels::require_transformer;
use crate::tensor::Device;
use crate::types::Precision;

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

    /// Width 128, 2 blocks, 2 heads: 0.8 million parameters.
    pub fn small(features: FeatureShape) -> Self {
        Self::sized(features, 128, 2, 2)
    }

    /// Width 192, 4 blocks, 3 heads: 2.9 million parameters.
    pub fn medium(features: FeatureShape) -> Self {
        Self::sized(features, 192, 4, 3)
    }

    /// Width 1024, 8 blocks, 8 heads: 155 million parameters.
    pub fn base(features: FeatureShape) -> Self {
        Self::sized(features, 1024, 8, 8)
    }

    /// Width 2048, 16 blocks, 8 heads: 1.2 billion parameters.
    pub fn gigant(features: FeatureShape) -> Self {
        Self::sized(features, 2048, 16, 8)
    }

    pub(super) fn sized(features: FeatureShape, width: usize, depth: usize, heads: usize) -> Self {
        let FeatureShape { grid, channels } = features;
        Self { channels, grid, width, depth, heads, patch: 1 }
    }

    /// Whether a device can be used and there are kernels for these sizes: on a GPU there are for widths that are
    /// multiples of 8 up to 8192, head sizes that are multiples of 8 up to 256, and up to 4096 tokens; gradients
    /// for widths up to 4096.
    pub(super) fn require(&self, device: Device, purpose: Use, precision: Precision) -> Result<()> {
        require("Dit", self.width, (device, purpose, precision), || {
            require_transformer("Dit", self.width, self.heads, self.tokens())
        })
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
        check_sizes("Dit", &sizes, self.depth)?;
        if !self.width.is_multiple_of(self.heads) {
            return Err(e("heads", &format!("a divisor of the width {}", self.width), self.heads));
        }
        if !self.grid.is_multiple_of(self.patch) {
            return Err(e("patch", &format!("a divisor of the grid {}", self.grid), self.patch));
        }
        Ok(())
    }
}
