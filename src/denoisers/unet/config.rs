//! The sizes of a network.

use serde::{Deserialize, Serialize};

use crate::denoisers::parts::check_sizes;
use crate::denoisers::{FeatureShape, Use};
use crate::error::{Error, Result};
use crate::ops::kernels::{self, LARGEST_HEAD, MOST_TOKENS};
use crate::tensor::Device;
use crate::types::Precision;

/// Groups of every group normalisation.
pub(super) const GROUPS: usize = 32;
/// Channels of the timestep's vector per unit of width.
pub(super) const TIME_RATIO: usize = 4;

/// The sizes of a [`Unet`](super::Unet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Feature channels C.
    pub channels: usize,
    /// Side G of the feature grid; 2 to the power of the levels but one divides it.
    pub grid: usize,
    /// Base width M, even.
    pub width: usize,
    /// Channels of each level, per unit of width: multiples of 32. Each level has half the side of the one before.
    pub channel_mult: Vec<usize>,
    /// Residual blocks of a level on the way down; there is one more on the way up.
    pub res_blocks: usize,
    /// Factors by which grids are smaller where there is attention, beside the middle, which has it always.
    pub attention_downsample: Vec<usize>,
    /// Channels of an attention's head; they divide those of the levels that have attention.
    pub head_size: usize,
}

/// A grid of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub side: usize,
    pub channels: usize,
}

impl Grid {
    pub fn cells(self) -> usize {
        self.side * self.side
    }

    /// (B, S, S, C) of so many images.
    pub fn of(self, images: usize) -> [usize; 4] {
        [images, self.side, self.side, self.channels]
    }

    pub fn with(self, channels: usize) -> Self {
        Self { channels, ..self }
    }
}

impl UnetConfig {
    /// Width 64, two levels with one block each, attention at the second: 3 million parameters.
    pub fn small(features: FeatureShape) -> Self {
        Self::sized(features, 64, &[1, 2], 1, &[2], 32)
    }

    /// The method's reference implementation's: width 512, four levels with two blocks each, attention at all but the
    /// first: 1.4 billion parameters.
    pub fn reference(features: FeatureShape) -> Self {
        Self::sized(features, 512, &[1, 2, 3, 4], 2, &[2, 4, 8], 64)
    }

    pub(super) fn sized(
        features: FeatureShape,
        width: usize,
        channel_mult: &[usize],
        res_blocks: usize,
        attention_downsample: &[usize],
        head_size: usize,
    ) -> Self {
        let FeatureShape { grid, channels } = features;
        let (channel_mult, attention_downsample) =
            (channel_mult.to_vec(), attention_downsample.to_vec());
        Self { channels, grid, width, channel_mult, res_blocks, attention_downsample, head_size }
    }

    pub(super) fn levels(&self) -> usize {
        self.channel_mult.len()
    }

    pub(super) fn level(&self, i: usize) -> Grid {
        Grid { side: self.grid >> i, channels: self.width * self.channel_mult[i] }
    }

    /// Whether a level has attention beside its residual blocks.
    pub(super) fn attends(&self, level: usize) -> bool {
        self.attention_downsample.contains(&(1 << level))
    }

    /// The levels whose channels are split into heads: those with attention, and the last, as the middle has it.
    fn attending(&self) -> impl Iterator<Item = Grid> {
        let last = self.levels() - 1;
        (0..=last).filter(move |&i| i == last || self.attends(i)).map(|i| self.level(i))
    }

    pub(super) fn check(&self) -> Result<()> {
        const OP: &str = "Unet";
        let e = |arg, expected: String, got: usize| Err(Error::argument(OP, arg, expected, got));
        let sizes = [
            ("channels", self.channels),
            ("grid", self.grid),
            ("width", self.width),
            ("res_blocks", self.res_blocks),
            ("head_size", self.head_size),
        ];
        check_sizes(OP, &sizes, self.res_blocks)?;
        if !(1..=8).contains(&self.levels()) {
            return e("channel_mult", "1 to 8 levels".into(), self.levels());
        }
        if self.res_blocks > 64 {
            return e("res_blocks", "at most 64".into(), self.res_blocks);
        }
        if !self.width.is_multiple_of(GROUPS) {
            return e("width", format!("a multiple of the {GROUPS} groups"), self.width);
        }
        if let Some(&mult) =
            self.channel_mult.iter().find(|m| !(1..=1 << 14).contains(&(**m * self.width)))
        {
            let expected = format!("1 to {} at width {}", (1 << 14) / self.width, self.width);
            return e("channel_mult", expected, mult);
        }
        let halved = 1 << (self.levels() - 1);
        if !self.grid.is_multiple_of(halved) {
            return e(
                "grid",
                format!("a multiple of {halved}, for {} levels", self.levels()),
                self.grid,
            );
        }
        match self.attending().find(|grid| !grid.channels.is_multiple_of(self.head_size)) {
            Some(grid) => {
                let expected =
                    format!("a divisor of the {} channels of an attention", grid.channels);
                e("head_size", expected, self.head_size)
            }
            None => Ok(()),
        }
    }

    /// Whether a device can be used and there are kernels for these sizes: on a GPU there are for feature channels and
    /// head sizes that are multiples of 8, heads up to 256, and up to 4096 cells where there is attention.
    pub(super) fn require(&self, device: Device, _: Use, precision: Precision) -> Result<()> {
        const OP: &str = "Unet";
        device.require()?;
        precision.require(OP, device)?;
        if device == Device::Cpu {
            return Ok(());
        }
        kernels::require(OP, "channels", self.channels, 8, 1 << 14)?;
        kernels::require(OP, "head size", self.head_size, 8, LARGEST_HEAD)?;
        let cells = self.attending().map(Grid::cells).max().unwrap_or(0);
        kernels::require(OP, "cells of an attention", cells, 1, MOST_TOKENS)
    }
}
