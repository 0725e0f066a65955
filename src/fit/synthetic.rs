//! Held-out images with synthetic defects.

use std::path::PathBuf;

use image::RgbImage;
use rayon::prelude::*;

use crate::data::{DefectKind, Mask, load_image, paint_defect};
use crate::error::Result;
use crate::ops;

/// About how many of a category are painted.
const COUNT: usize = 96;

/// Images of a category with synthetic defects, of the size that the backbone takes.
pub(super) struct Synthetic {
    pub category: String,
    pub images: Vec<RgbImage>,
    pub masks: Vec<Mask>,
}

impl Synthetic {
    /// Paints defects of all kinds into the files of normal images, `side` pixels wide and high, those that
    /// can be read: all kinds into each of a few images, one into each of many, 96 of them.
    pub fn paint(category: &str, files: &[PathBuf], side: usize, seed: u64) -> Result<Self> {
        let kinds = DefectKind::ALL.len();
        let files: Vec<_> = files.iter().step_by(files.len().div_ceil(COUNT).max(1)).collect();
        let each = (COUNT / files.len().max(1)).clamp(1, kinds);
        let painted: Vec<Vec<_>> = files
            .par_iter()
            .enumerate()
            .filter_map(|(i, file)| Some((i, load_image(file).ok()?)))
            .map(|(i, image)| {
                let image = resized(&image, side)?;
                let all = (i * each..(i + 1) * each).map(|index| {
                    paint_defect(&image, DefectKind::ALL[index % kinds], seed, index as u64)
                });
                all.collect()
            })
            .collect::<Result<_>>()?;
        let (images, masks) = painted.into_iter().flatten().unzip();
        Ok(Self { category: category.into(), images, masks })
    }
}

fn resized(image: &RgbImage, side: usize) -> Result<RgbImage> {
    let from = [image.height() as usize, image.width() as usize];
    let mut pixels = vec![0; side * side * 3];
    ops::resize_antialias(image.as_raw(), from, &mut pixels, [side; 2])?;
    Ok(RgbImage::from_raw(side as u32, side as u32, pixels).expect("as many bytes as it takes"))
}
