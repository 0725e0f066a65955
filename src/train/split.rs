//! Which normal images are kept back for calibration.

use crate::data::Category;
use crate::ops::{Random, Stream};

/// Images of a category from which on the usual share is held out.
const ENOUGH: usize = 16;
/// Images of those that are held out then, at least.
const FEWEST: usize = 8;
/// Runs of neighbours that are held out, at most.
const RUNS: usize = 4;

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

/// Divides the good images of category number `number` ([`Category::good`]): as the data set does, or else by
/// [`hold_out`].
pub fn divide(category: &Category, number: u64, seed: u64) -> Split {
    let (train, good) = (category.train().len(), category.good().len());
    match good - train {
        0 => hold_out(train, number, seed),
        calibrate => Split {
            train: (0..train).collect(),
            held_out: (train..good).collect(),
            few: calibrate < FEWEST,
        },
    }
}

/// Divides the `images` normal images of category number `category`.
///
/// A fifth is held out, at least 8; of fewer than 16 images a quarter, at least 2; of 2 or 3 images
/// one. A single image serves for both, and thresholds come out far too low.
///
/// They are runs of neighbours in the order of the files, one from each quarter where there are 8, since what
/// was taken one after the other is often nearly the same: beside its neighbours in training an image
/// looks more normal than those of another day will.
pub fn hold_out(images: usize, category: u64, seed: u64) -> Split {
    let few = images < ENOUGH;
    if images < 2 {
        let all: Vec<usize> = (0..images).collect();
        return Split { train: all.clone(), held_out: all, few };
    }
    let count = match images {
        ..4 => 1,
        4..ENOUGH => (images / 4).max(2),
        _ => (images / 5).max(FEWEST),
    };
    let random = Random { seed, stream: Stream::HeldOut, step: category };
    let runs = (count / 2).clamp(1, RUNS);
    let mut held_out = Vec::with_capacity(count);
    for run in 0..runs {
        let share = |of: usize| (run * of / runs, (run + 1) * of / runs);
        let ((first, end), (from, to)) = (share(images), share(count));
        let len = to - from;
        let places = end - first - len + 1;
        let start = first + random.below(places as u32, run as u64) as usize;
        held_out.extend(start..start + len);
    }
    let train = (0..images).filter(|i| held_out.binary_search(i).is_err()).collect();
    Split { train, held_out, few }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Sample, Split as For};

    #[test]
    fn what_a_data_set_divides() {
        let category = |train, validation| {
            let of = |n, split| (0..n).map(move |i| Sample::good(format!("{i}.png"), split));
            let good = of(train, For::Train).chain(of(validation, For::Validation));
            Category::new("parts", good.chain(of(3, For::Test)).collect())
        };
        for (validation, few) in [(1, true), (7, true), (8, false), (40, false)] {
            let split = divide(&category(20, validation), 1, 5);
            assert_eq!(split.train, (0..20).collect::<Vec<_>>());
            assert_eq!(split.held_out, (20..20 + validation).collect::<Vec<_>>());
            assert_eq!(split.few, few);
        }
        assert_eq!(divide(&category(20, 0), 1, 5), hold_out(20, 1, 5));
    }

    #[test]
    fn shares() {
        for (images, held_out, runs) in [
            (2, 1, 1),
            (3, 1, 1),
            (4, 2, 1),
            (5, 2, 1),
            (12, 3, 1),
            (15, 3, 1),
            (16, 8, 4),
            (40, 8, 4),
            (100, 20, 4),
        ] {
            let split = hold_out(images, 3, 7);
            assert_eq!((split.held_out.len(), split.few), (held_out, images < 16));
            let neighbours =
                split.held_out.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
            assert!(held_out - neighbours <= runs, "{:?}", split.held_out);
            let quarter = |i: &usize| i * runs / images;
            let quarters: Vec<_> = split.held_out.iter().map(quarter).collect();
            assert_eq!(quarters.iter().max(), Some(&(runs - 1)), "{:?}", split.held_out);
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
