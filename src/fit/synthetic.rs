//! Held-out images with synthetic defects.

use std::path::PathBuf;

use image::RgbImage;
use rayon::prelude::*;

use crate::data::{DefectKind, Mask, load_image, paint_defect};
use crate::detect::Compared;
use crate::error::Result;
use crate::metrics::Metrics;
use crate::ops;

/// About how many of a category are painted.
const COUNT: usize = 96;

/// Images of a category with synthetic defects and without, of the size that the backbone takes.
pub(super) struct Synthetic {
    pub category: String,
    /// Those painted into.
    pub normal: Vec<RgbImage>,
    pub painted: Vec<RgbImage>,
    pub masks: Vec<Mask>,
}

impl Synthetic {
    /// Paints defects of all kinds into the files of normal images, `side` pixels wide and high, those that
    /// can be read: all kinds into each of a few images, one into each of many, 96 of them.
    pub fn paint(category: &str, files: &[PathBuf], side: usize, seed: u64) -> Result<Self> {
        let kinds = DefectKind::ALL.len();
        let files: Vec<_> = files.iter().step_by(files.len().div_ceil(COUNT).max(1)).collect();
        let each = (COUNT / files.len().max(1)).clamp(1, kinds);
        let normal = files.par_iter().filter_map(|file| load_image(file).ok());
        let normal: Vec<_> = normal.map(|image| resized(&image, side)).collect::<Result<_>>()?;
        let painted = (0..each * normal.len()).into_par_iter().map(|index| {
            let kind = DefectKind::ALL[index % kinds];
            paint_defect(&normal[index / each], kind, seed, index as u64)
        });
        let (painted, masks) = painted.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Self { category: category.into(), normal, painted, masks })
    }

    /// All images, those without defects first.
    pub fn images(&self) -> Vec<RgbImage> {
        [&self.normal[..], &self.painted].concat()
    }

    /// The metrics of scores and maps of all images, in that order.
    pub fn metrics(&self, scores: &[f64], maps: Vec<Vec<f32>>) -> Result<Metrics> {
        let mut compared = Compared::default();
        let masks = self.normal.iter().map(|_| None).chain(self.masks.iter().map(Some));
        for (mask, map) in masks.zip(maps) {
            compared.add(mask.is_some(), mask, || Ok(map))?;
        }
        compared.metrics(scores, None)
    }
}

fn resized(image: &RgbImage, side: usize) -> Result<RgbImage> {
    let from = [image.height() as usize, image.width() as usize];
    let mut pixels = vec![0; side * side * 3];
    ops::resize_antialias(image.as_raw(), from, &mut pixels, [side; 2])?;
    Ok(RgbImage::from_raw(side as u32, side as u32, pixels).expect("as many bytes as it takes"))
}
