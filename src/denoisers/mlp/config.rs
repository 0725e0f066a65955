//! The sizes of a network.

use serde::{Deserialize, Serialize};

use crate::denoisers::FeatureShape;
use crate::denoisers::parts::check_sizes;
use crate::error::Result;

/// The sizes of an [`Mlp`](super::Mlp).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Feature channels C.
    pub channels: usize,
    /// Side G of the feature grid.
    pub grid: usize,
    /// Model width D.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
}

impl MlpConfig {
    /// N, the number of tokens: G².
    pub fn tokens(&self) -> usize {
        self.grid * self.grid
    }

    /// Width 256, 2 blocks: 1.0 million parameters, of 192 channels.
    pub fn small(features: FeatureShape) -> Self {
        Self::sized(features, 256, 2)
    }

    /// Width 2048, 16 blocks: 350 million parameters.
    pub fn reference(features: FeatureShape) -> Self {
        Self::sized(features, 2048, 16)
    }

    pub(super) fn sized(features: FeatureShape, width: usize, depth: usize) -> Self {
        let FeatureShape { grid, channels } = features;
        Self { channels, grid, width, depth }
    }

    pub(super) fn check(&self) -> Result<()> {
        let Self { channels, grid, width, depth } = *self;
        check_sizes("Mlp", &[("channels", channels), ("grid", grid), ("width", width)], depth)
    }
}
