//! Images of a data set, and what is known about them.

use std::path::{Path, PathBuf};

use ::image::RgbImage;

use super::image::load_image;
use super::mask::{Mask, load_mask};
use crate::error::{Error, Result};

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// To train with: it is good.
    Train,
    /// To calibrate with, where a data set says which images are for that: it is good.
    Validation,
    /// To test with.
    Test,
}

/// An image of a data set, and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The image file.
    pub path: PathBuf,
    /// What it is for.
    pub split: Split,
    /// The kind of defect; `None` if the image is good.
    pub defect: Option<String>,
    /// The mask of the defect. Good images have none: all their pixels are normal. A defect without
    /// one cannot take part in pixel metrics.
    pub mask: Option<PathBuf>,
    /// From where the part is seen, in data sets that show it from several sides.
    pub view: Option<String>,
}

impl Sample {
    /// A good image.
    pub fn good(path: impl Into<PathBuf>, split: Split) -> Self {
        Self { path: path.into(), split, defect: None, mask: None, view: None }
    }

    /// An image of a defect to test with, and its mask.
    pub fn defective(path: impl Into<PathBuf>, defect: &str, mask: Option<PathBuf>) -> Self {
        let defect = Some(defect.to_string());
        Self { defect, mask, ..Self::good(path, Split::Test) }
    }
}

impl AsRef<Path> for Sample {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// The images of one category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Category {
    /// Its name.
    pub name: String,
    /// Those to train with first, then those to calibrate with.
    samples: Vec<Sample>,
    train: usize,
    good: usize,
}

impl Category {
    /// A category of these images, which it sorts by path.
    pub fn new(name: impl Into<String>, mut samples: Vec<Sample>) -> Self {
        samples.sort_by(|a, b| (a.split, &a.path).cmp(&(b.split, &b.path)));
        let before = |split| samples.partition_point(|sample| sample.split < split);
        let (train, good) = (before(Split::Validation), before(Split::Test));
        Self { name: name.into(), samples, train, good }
    }

    /// Good images to train with, sorted by path; where there are none for it, some of them calibrate.
    pub fn train(&self) -> &[Sample] {
        &self.samples[..self.train]
    }

    /// Good images to calibrate with, of a data set that has such, sorted by path.
    pub fn validation(&self) -> &[Sample] {
        &self.samples[self.train..self.good]
    }

    /// Those to train with and then those to calibrate with.
    pub fn good(&self) -> &[Sample] {
        &self.samples[..self.good]
    }

    /// Images to test with, sorted by path.
    pub fn test(&self) -> &[Sample] {
        &self.samples[self.good..]
    }
}

/// Loads an image and, if it has one, its mask.
///
/// # Errors
/// As [`load_image`]; [`Error::Image`] if the mask is of another size than the image.
pub fn load_sample(sample: &Sample) -> Result<(RgbImage, Option<Mask>)> {
    let image = load_image(&sample.path)?;
    let Some(path) = &sample.mask else { return Ok((image, None)) };
    let mask = load_mask(path)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    if (mask.width(), mask.height()) != (width, height) {
        let reason = format!(
            "the mask is {}×{} pixels, but its image {} is {width}×{height}",
            mask.width(),
            mask.height(),
            sample.path.display()
        );
        return Err(Error::image(path, reason));
    }
    Ok((image, Some(mask)))
}
