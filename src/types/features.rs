//! Sizes of features.

use serde::{Deserialize, Serialize};

/// The size of an image's features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureShape {
    /// G, the height and width of the grid.
    pub grid: usize,
    /// C, the channels of a cell.
    pub channels: usize,
}

impl FeatureShape {
    /// (B, G, G, C) of so many images.
    pub fn of(self, images: usize) -> [usize; 4] {
        [images, self.grid, self.grid, self.channels]
    }
}
