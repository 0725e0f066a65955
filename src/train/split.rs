//! Which normal images are kept back for calibration.

use crate::ops::{Random, Stream};

/// Images of a category from which on the usual share is held out.
const ENOUGH: usize = 16;

/// A category's normal images by index, each list ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Images to whiten and train with.
    pub train: Vec<usize>,
    /// Images to calibrate with.
    pub held_out: Vec<usize>,
    /// Whether a threshold from so few images cannot be relied on.
    pub few: bool,
}

/// Divides the `images` normal images of category number `category`.
///
/// A fifth is held out, at least 8; of fewer than 16 images a quarter, at least 2; of 2 or 3 images
/// one. A single image serves for both, and thresholds come out far too low.
pub fn hold_out(images: usize, category: u64, seed: u64) -> Split {
    let few = images < ENOUGH;
    if images < 2 {
        let all: Vec<usize> = (0..images).collect();
        return Split { train: all.clone(), held_out: all, few };
    }
    let count = match images {
        ..4 => 1,
        4..ENOUGH => (images / 4).max(2),
        _ => (images / 5).max(8),
    };
    let random = Random { seed, stream: Stream::HeldOut, step: category };
    let mut held_out = random.permutation(images);
    let mut train = held_out.split_off(count);
    held_out.sort_unstable();
    train.sort_unstable();
    Split { train, held_out, few }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (images, held_out) in
            [(2, 1), (3, 1), (4, 2), (5, 2), (12, 3), (15, 3), (16, 8), (40, 8), (100, 20)]
        {
            let split = hold_out(images, 3, 7);
            assert_eq!((split.held_out.len(), split.few), (held_out, images < 16));
            let mut all = [split.train, split.held_out].concat();
            all.sort_unstable();
            assert_eq!(all, (0..images).collect::<Vec<_>>());
        }
        for images in 0..2 {
            let split = hold_out(images, 0, 7);
            assert_eq!((split.train.len(), split.held_out.len()), (images, images));
        }
        assert_ne!(hold_out(40, 0, 7).held_out, hold_out(40, 1, 7).held_out);
        assert_ne!(hold_out(40, 0, 7).held_out, hold_out(40, 0, 8).held_out);
    }
}
