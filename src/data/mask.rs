//! Ground truth: which pixels are anomalous.

use std::path::Path;

use ::image::DynamicImage;

use super::image::decode;
use crate::error::{Error, Result};

/// Which pixels of an image are anomalous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    width: usize,
    height: usize,
    pixels: Vec<bool>,
}

impl Mask {
    /// A mask of `width` × `height` pixels, row by row, `true` where anomalous.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of pixels is another.
    pub fn new(width: usize, height: usize, pixels: Vec<bool>) -> Result<Self> {
        if width.checked_mul(height) != Some(pixels.len()) {
            let expected = format!("({height}, {width})");
            return Err(Error::shape("Mask::new", "pixels", expected, &[pixels.len()]));
        }
        Ok(Mask { width, height, pixels })
    }

    /// The width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels row by row, `true` where anomalous.
    pub fn pixels(&self) -> &[bool] {
        &self.pixels
    }

    /// Nearest-neighbour resize, pixel for pixel that of PIL's `resize(…, NEAREST)`. A mask without
    /// pixels becomes one without anomalous ones.
    pub fn resize(&self, width: usize, height: usize) -> Mask {
        if self.pixels.is_empty() {
            return Mask { width, height, pixels: vec![false; width * height] };
        }
        let columns = nearest(self.width, width);
        let mut pixels = Vec::with_capacity(width * height);
        for y in nearest(self.height, height) {
            let row = &self.pixels[y * self.width..][..self.width];
            pixels.extend(columns.iter().map(|&x| row[x]));
        }
        Mask { width, height, pixels }
    }
}

/// For each of `to` places along an axis, the nearest of the `from` source places. PIL adds up the
/// step in f64 rather than multiplying; where a sum lands on a pixel's edge, its rounding decides.
fn nearest(from: usize, to: usize) -> Vec<usize> {
    let step = from as f64 / to as f64;
    let mut at = step * 0.5;
    (0..to)
        .map(|_| {
            let place = at as usize;
            at += step;
            place.min(from - 1)
        })
        .collect()
}

/// Loads a mask: a pixel is anomalous if any of its colour samples is not zero. Alpha is ignored;
/// palettes are looked up.
///
/// # Errors
/// As [`load_image`](super::load_image).
pub fn load_mask(path: impl AsRef<Path>) -> Result<Mask> {
    let image = decode(path.as_ref())?;
    let pixels = match &image {
        DynamicImage::ImageLuma8(m) => anomalous(m, 1, 1),
        DynamicImage::ImageLumaA8(m) => anomalous(m, 2, 1),
        DynamicImage::ImageRgb8(m) => anomalous(m, 3, 3),
        DynamicImage::ImageRgba8(m) => anomalous(m, 4, 3),
        DynamicImage::ImageLuma16(m) => anomalous(m, 1, 1),
        DynamicImage::ImageLumaA16(m) => anomalous(m, 2, 1),
        DynamicImage::ImageRgb16(m) => anomalous(m, 3, 3),
        DynamicImage::ImageRgba16(m) => anomalous(m, 4, 3),
        _ => anomalous(&image.to_rgba32f(), 4, 3),
    };
    Mask::new(image.width() as usize, image.height() as usize, pixels)
}

/// Pixels of `samples` values each, the first `colours` of which count.
fn anomalous<T: Default + PartialEq>(data: &[T], samples: usize, colours: usize) -> Vec<bool> {
    data.chunks_exact(samples).map(|p| p[..colours].iter().any(|v| *v != T::default())).collect()
}
