//! What a backbone says of itself.

use std::path::{Path, PathBuf};

use crate::types::FeatureShape;

/// How images are resized to the size that a backbone takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filter {
    /// Bilinear and antialiased, as Pillow does it ([`resize_antialias`](crate::ops::resize_antialias)).
    #[default]
    Bilinear,
}

/// What a backbone is, what it takes and what it makes of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BackboneSpec {
    /// Its name, as in `efficientnet-lite0`.
    pub name: String,
    /// SHA-256 of the file of its weights, or of whatever else tells it from others of the name, in hexadecimal.
    pub hash: String,
    /// That file, where there is one, for errors to name it.
    pub file: Option<PathBuf>,
    /// S, the height and width in pixels to which images are resized, without regard to their proportions.
    pub image_size: usize,
    /// How they are resized.
    pub filter: Filter,
    /// The mean of red, green and blue that it was trained with, of pixels in [0, 1].
    pub mean: [f32; 3],
    /// Their standard deviation.
    pub std: [f32; 3],
    /// C, the number of channels of the features.
    pub channels: usize,
    /// G, the height and width of the grid of features.
    pub grid: usize,
}

impl BackboneSpec {
    /// Of images that are normalised by ImageNet's mean and standard deviation.
    pub fn new(
        name: impl Into<String>,
        hash: impl Into<String>,
        image_size: usize,
        channels: usize,
        grid: usize,
    ) -> Self {
        Self {
            name: name.into(),
            hash: hash.into(),
            file: None,
            image_size,
            filter: Filter::Bilinear,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            channels,
            grid,
        }
    }

    /// The same, with weights of this file.
    pub fn with_file(self, file: impl AsRef<Path>) -> Self {
        Self { file: Some(file.as_ref().into()), ..self }
    }

    /// The same, of images that are normalised by others.
    pub fn with_normalisation(self, mean: [f32; 3], std: [f32; 3]) -> Self {
        Self { mean, std, ..self }
    }

    /// (B, S, S, 3), the shape of a batch of images.
    pub fn rgb(&self, images: usize) -> [usize; 4] {
        [images, self.image_size, self.image_size, 3]
    }

    /// The size of their features.
    pub fn features(&self) -> FeatureShape {
        FeatureShape { grid: self.grid, channels: self.channels }
    }
}
