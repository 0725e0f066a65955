//! What a calibration tells.

use std::collections::{BTreeMap, HashSet};

use crate::checkpoint::{Calibration, ImageStats};

/// Held-out images from which on a threshold can be relied on.
pub(crate) const ENOUGH: usize = 8;

impl ImageStats {
    /// What tells the image from others, and copies from none: that which is of the latent alone, whatever it was
    /// held against.
    pub(crate) fn latent(&self) -> (u32, u64) {
        (self.abs.to_bits(), self.nll.to_bits())
    }
}

impl Calibration {
    /// The held-out images of a category, or of all categories.
    pub fn images(&self, category: Option<&str>) -> Vec<ImageStats> {
        of(&self.categories, category)
    }

    /// The training images of a category, or of all categories.
    pub fn trained(&self, category: Option<&str>) -> Vec<ImageStats> {
        of(&self.trained, category)
    }

    /// Why the threshold of a category, or of all pooled, cannot be relied on, if so: it rests on
    /// fewer than 8 held-out images, or on images that were trained on. Nothing of one that there is not.
    pub fn doubt(&self, category: Option<&str>) -> Option<String> {
        let held_out = self.images(category);
        let count = held_out.len();
        let of = category.map_or("all categories".into(), |name| format!("category `{name}`"));
        let trained: HashSet<_> = self.trained(category).iter().map(ImageStats::latent).collect();
        if count > 0 && held_out.iter().all(|image| trained.contains(&image.latent())) {
            return Some(format!(
                "the threshold of {of} cannot be relied on: it rests on images that were trained \
                 on, or copies of them, which score far lower than others; it needs 16 good images that differ"
            ));
        }
        (1..ENOUGH).contains(&count).then(|| {
            let images = if count == 1 { "image" } else { "images" };
            format!(
                "the threshold of {of} cannot be relied on: it rests on {count} held-out {images} \
                 (copies count once); it needs {ENOUGH}, which 16 good images leave"
            )
        })
    }
}

fn of(all: &BTreeMap<String, Vec<ImageStats>>, category: Option<&str>) -> Vec<ImageStats> {
    match category {
        Some(name) => all.get(name).cloned().unwrap_or_default(),
        None => all.values().flatten().copied().collect(),
    }
}
