//! Patches on the host.

use crate::ops::PatchOrder;

/// Height and width of the grid, side of a patch, channels.
#[derive(Clone, Copy)]
pub(crate) struct PatchSizes {
    pub grid: [usize; 2],
    pub patch: usize,
    pub channels: usize,
}

impl PatchSizes {
    /// Calls `f(index in the grid, index in the patches)` for every number of one image.
    fn for_each(self, order: PatchOrder, mut f: impl FnMut(usize, usize)) {
        let PatchSizes { grid: [height, width], patch, channels } = self;
        let across = width / patch;
        for y in 0..height {
            for x in 0..width {
                let token = y / patch * across + x / patch;
                let within = y % patch * patch + x % patch;
                for c in 0..channels {
                    let at = match order {
                        PatchOrder::ChannelsFirst => c * patch * patch + within,
                        PatchOrder::ChannelsLast => within * channels + c,
                    };
                    let patches = token * channels * patch * patch + at;
                    f((y * width + x) * channels + c, patches);
                }
            }
        }
    }

    /// Numbers of one image; 1 where there are none, so that slices can be cut by it.
    fn image(self) -> usize {
        (self.grid[0] * self.grid[1] * self.channels).max(1)
    }
}

pub(crate) fn patchify(grid: &[f32], patches: &mut [f32], sizes: PatchSizes, order: PatchOrder) {
    if sizes.patch == 1 {
        return patches.copy_from_slice(grid);
    }
    let images = grid.chunks_exact(sizes.image()).zip(patches.chunks_exact_mut(sizes.image()));
    images.for_each(|(grid, patches)| sizes.for_each(order, |g, p| patches[p] = grid[g]));
}

pub(crate) fn unpatchify(patches: &[f32], grid: &mut [f32], sizes: PatchSizes, order: PatchOrder) {
    if sizes.patch == 1 {
        return grid.copy_from_slice(patches);
    }
    let images = grid.chunks_exact_mut(sizes.image()).zip(patches.chunks_exact(sizes.image()));
    images.for_each(|(grid, patches)| sizes.for_each(order, |g, p| grid[g] = patches[p]));
}
