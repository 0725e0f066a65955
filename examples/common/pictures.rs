//! Pictures of what a detector found.

use std::path::Path;

use image::RgbImage;
use invad::Result;
use invad::data::{write_map, write_png};
use invad::detect::Scored;
use invad::detect::overlay::{self, PREDICTED, contour, fade, mask_image};

use super::create_folder;

/// The pictures of an image; each is written where a path is given.
#[derive(Default)]
pub struct Pictures<'a> {
    /// The image with the map laid over it in colours, and an outline of what is anomalous.
    pub overlay: Option<&'a Path>,
    /// 255 where the image is anomalous, 0 elsewhere.
    pub mask: Option<&'a Path>,
    /// The map as 32-bit floats.
    pub map: Option<&'a Path>,
}

impl Pictures<'_> {
    /// Writes the pictures, at the size of the image.
    pub fn write(&self, image: &RgbImage, scored: &Scored) -> Result<()> {
        let (width, height) = image.dimensions();
        let (w, h) = (width as usize, height as usize);
        let map = scored.map.resize(w, h)?;
        let region = scored.region(&map, w, h)?;
        for path in [self.overlay, self.mask, self.map].into_iter().flatten() {
            create_folder(path.parent().unwrap_or(Path::new(".")))?;
        }
        if let Some(path) = self.overlay {
            let (low, high) = scored.map_range;
            let coloured = overlay::overlay(image, &map, low, high, fade)?;
            write_png(path, &contour(&coloured, region.pixels(), PREDICTED)?)?;
        }
        if let Some(path) = self.mask {
            write_png(path, &mask_image(&region))?;
        }
        match self.map {
            Some(path) => write_map(path, &map, width, height),
            None => Ok(()),
        }
    }
}
