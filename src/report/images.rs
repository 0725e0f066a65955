//! What the page shows of each image.

use std::collections::BinaryHeap;
use std::fmt;
use std::io::Cursor;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{ImageError, ImageFormat, RgbImage, Rgba, RgbaImage};

use super::outline::outline;
use crate::data::Mask;
use crate::detect::overlay::{colour, fade, normalised};
use crate::detect::{ImageResult, Scored};
use crate::error::{Error, Result};

/// The longest side of a picture, in pixels; smaller images are shown as they are.
const SIDE: u32 = 320;
/// The longest side of a heat map, which is smooth.
const HEAT_SIDE: u32 = 80;
/// Of JPEG, in percent.
const QUALITY: u8 = 82;
/// What all pictures of a page may take, in bytes.
const BUDGET: usize = 20_000_000;

/// A test image, what was said of it, and pictures of both.
pub struct Image {
    /// The category.
    pub category: String,
    /// The kind of defect; `None` if the image is good.
    pub defect: Option<String>,
    /// The name of the image file.
    pub name: String,
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// The score.
    pub score: f64,
    /// The score from which on an image counts as anomalous.
    pub threshold: f64,
    /// Whether it does.
    pub is_anomalous: bool,
    /// How long reading and decoding took.
    pub loading: Duration,
    pub(super) pictures: Option<Pictures>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("category", &self.category)
            .field("name", &self.name)
            .field("score", &self.score)
            .finish_non_exhaustive()
    }
}

/// Pictures of the same size, scaled to a page's needs.
pub(super) struct Pictures {
    pub width: u32,
    pub height: u32,
    /// JPEG as a data URI.
    pub image: String,
    /// The map in colours, transparent where it is low: PNG as a data URI.
    pub heat: String,
    /// The outline of what is anomalous.
    pub found: String,
    /// The part of the image that it takes, in percent.
    pub found_share: f64,
    /// The outline of the defect, where there is a mask.
    pub truth: Option<String>,
}

impl Image {
    /// What the detector said of a test image, with pictures. Takes some milliseconds; images do
    /// not depend on each other.
    ///
    /// # Errors
    /// [`Error::Argument`] if the image has no pixels.
    pub fn new(result: &ImageResult) -> Result<Self> {
        let ImageResult { category, test, image, mask, scored, loading } = result;
        let name = test.path.file_name().unwrap_or(test.path.as_os_str());
        Ok(Self {
            category: category.to_string(),
            defect: test.defect.clone(),
            name: name.to_string_lossy().into_owned(),
            size: image.dimensions(),
            score: scored.score,
            threshold: scored.threshold,
            is_anomalous: scored.is_anomalous,
            loading: *loading,
            pictures: Some(Pictures::new(image, mask.as_ref(), scored)?),
        })
    }

    /// How far the score is on the right side of the threshold; below 0 where the verdict is wrong.
    pub(super) fn margin(&self) -> f64 {
        let above = self.score - self.threshold;
        if self.defect.is_some() { above } else { -above }
    }

    /// Whether the verdict differs from the label.
    pub(super) fn is_wrong(&self) -> bool {
        self.is_anomalous != self.defect.is_some()
    }
}

impl Pictures {
    fn new(image: &RgbImage, mask: Option<&Mask>, scored: &Scored) -> Result<Self> {
        let (width, height) = fitted(image.dimensions(), SIDE);
        let resized;
        let small = if (width, height) == image.dimensions() {
            image
        } else {
            resized = imageops::resize(image, width, height, FilterType::Triangle);
            &resized
        };
        let (w, h) = (width as usize, height as usize);
        let found = scored.region(&scored.map.resize(w, h)?, w, h)?;
        let inside = found.pixels().iter().filter(|inside| **inside).count();
        Ok(Self {
            width,
            height,
            image: jpeg(small)?,
            heat: heat(scored, (width, height))?,
            found: outline(found.pixels(), w),
            found_share: 100.0 * inside as f64 / (w * h) as f64,
            truth: mask.map(|mask| outline(mask.resize(w, h).pixels(), w)),
        })
    }

    fn bytes(&self) -> usize {
        let truth = self.truth.as_ref().map_or(0, String::len);
        self.image.len() + self.heat.len() + self.found.len() + truth
    }
}

/// The size at which the longer side is at most `side`.
fn fitted((width, height): (u32, u32), side: u32) -> (u32, u32) {
    let scale = (f64::from(side) / f64::from(width.max(height))).min(1.0);
    let scaled = |v: u32| ((f64::from(v) * scale).round() as u32).max(1);
    (scaled(width), scaled(height))
}

fn jpeg(image: &RgbImage) -> Result<String> {
    let mut bytes = Vec::new();
    image.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY)).map_err(failed)?;
    Ok(data_uri("jpeg", &bytes))
}

fn heat(scored: &Scored, size: (u32, u32)) -> Result<String> {
    let (width, height) = fitted(size, HEAT_SIDE);
    let map = scored.map.resize(width as usize, height as usize)?;
    let (low, high) = scored.map_range;
    let mut heat = RgbaImage::new(width, height);
    for (pixel, &value) in heat.pixels_mut().zip(&map) {
        let t = normalised(value, low, high);
        let [r, g, b] = colour(t).0;
        // What is no number must be seen.
        let opacity = if t.is_nan() { 1.0 } else { fade(t) };
        *pixel = Rgba([r, g, b, (255.0 * opacity).round() as u8]);
    }
    let mut bytes = Cursor::new(Vec::new());
    heat.write_to(&mut bytes, ImageFormat::Png).map_err(failed)?;
    Ok(data_uri("png", bytes.get_ref()))
}

fn data_uri(kind: &str, bytes: &[u8]) -> String {
    let mut uri = format!("data:image/{kind};base64,");
    STANDARD.encode_string(bytes, &mut uri);
    uri
}

fn failed(e: ImageError) -> Error {
    Error::argument("report::Image", "image", "one that can be encoded", e)
}

/// The images of a page. Of so many that their pictures would make the page too large (some 20 MB),
/// those whose verdicts are wrong or least certain keep them, whatever the order they come in.
#[derive(Debug, Default)]
pub struct Images {
    all: Vec<Image>,
    /// The images that have pictures, the most certain first.
    shown: BinaryHeap<Shown>,
    bytes: usize,
    /// From this margin on, images have no pictures.
    limit: Option<f64>,
}

impl Images {
    /// Adds an image.
    pub fn add(&mut self, mut image: Image) {
        let margin = image.margin();
        if self.limit.is_some_and(|limit| margin >= limit) {
            image.pictures = None;
        }
        if let Some(pictures) = &image.pictures {
            self.bytes += pictures.bytes();
            self.shown.push(Shown { margin, index: self.all.len() });
        }
        self.all.push(image);
        while self.bytes > BUDGET
            && let Some(Shown { margin, index }) = self.shown.pop()
        {
            let dropped = self.all[index].pictures.take();
            self.bytes -= dropped.map_or(0, |pictures| pictures.bytes());
            self.limit = Some(margin);
        }
    }

    /// All of them, by category, kind of defect (good ones last) and name.
    pub(super) fn sorted(&self) -> Vec<&Image> {
        let mut sorted: Vec<&Image> = self.all.iter().collect();
        sorted.sort_by_key(|i| (&i.category, i.defect.is_none(), &i.defect, &i.name));
        sorted
    }
}

#[derive(Debug)]
struct Shown {
    margin: f64,
    index: usize,
}

impl Ord for Shown {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.margin.total_cmp(&other.margin).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Shown {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Shown {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Shown {}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(score: f64, bytes: usize) -> Image {
        let pictures = Pictures {
            width: 1,
            height: 1,
            image: "x".repeat(bytes),
            heat: String::new(),
            found: String::new(),
            found_share: 0.0,
            truth: None,
        };
        Image {
            category: "bolt".into(),
            defect: None,
            name: score.to_string(),
            size: (1, 1),
            score,
            threshold: 3.0,
            is_anomalous: score >= 3.0,
            loading: Duration::ZERO,
            pictures: Some(pictures),
        }
    }

    /// Whatever the order, the wrong and the least certain keep their pictures.
    #[test]
    fn pictures_within_the_budget() {
        let sizes = [(5.0, 8), (2.9, 7), (2.0, 3), (1.0, 9), (0.5, 2), (-1.0, 1)];
        for turn in 0..sizes.len() {
            for reversed in [false, true] {
                let mut order = sizes.to_vec();
                order.rotate_left(turn);
                if reversed {
                    order.reverse();
                }
                let mut images = Images::default();
                for (score, millions) in order {
                    images.add(image(score, millions * 1_000_000));
                }
                let mut kept: Vec<&str> =
                    images.all.iter().filter(|i| i.pictures.is_some()).map(|i| &*i.name).collect();
                kept.sort();
                assert_eq!(kept, ["2", "2.9", "5"], "turned by {turn}");
                assert_eq!(images.sorted().len(), sizes.len());
            }
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(fitted((224, 100), 320), (224, 100));
        assert_eq!(fitted((640, 320), 320), (320, 160));
        assert_eq!(fitted((3, 9000), 320), (1, 320));
    }

    #[test]
    fn margins() {
        let right = image(1.0, 0);
        assert_eq!((right.margin(), right.is_wrong()), (2.0, false));
        let missed = Image { defect: Some("dent".into()), ..image(1.0, 0) };
        assert_eq!((missed.margin(), missed.is_wrong()), (-2.0, true));
    }
}
