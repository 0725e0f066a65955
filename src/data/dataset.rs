//! Data sets on disk.

use std::path::{Path, PathBuf};

use super::inputs::folders_in;
use super::layouts::{LAYOUTS, Layout};
use super::sample::Category;
use crate::error::{Error, Result};

/// Where the images of a data set are. Nothing is decoded.
///
/// Its layout is the first of [`LAYOUTS`] that recognises it: a published data set as it lies on disk, a tree as that of
/// MVTec AD ([`MvTec`](super::layouts::MvTec)), one category of such a tree, or a folder of good images
/// ([`Folder`](super::layouts::Folder)).
///
/// Images are told by their extension (png, jpg, jpeg, bmp, tif, tiff, webp in any case); hidden
/// files and `__MACOSX` are left out.
#[derive(Clone, Debug)]
pub struct Dataset {
    root: PathBuf,
    categories: Vec<Category>,
    warnings: Vec<String>,
}

impl Dataset {
    /// Looks through the folder `root` and lists its `categories`, or all of them if none is named.
    ///
    /// # Errors
    /// [`Error::Dataset`] if `root` is no folder or of no known layout, or if it lacks a category
    /// asked for; [`Error::Io`] if a folder cannot be read.
    pub fn open(root: impl AsRef<Path>, categories: &[String]) -> Result<Dataset> {
        let root = root.as_ref();
        if !root.is_dir() {
            let what = if root.exists() { "this is a file" } else { "there is no such folder" };
            return Err(Error::dataset(root, format!("{what}; expected the folder of a data set")));
        }
        for layout in LAYOUTS {
            if layout.recognises(root)? {
                return Self::open_as(layout, root, categories);
            }
        }
        let mut shapes = LAYOUTS.map(Layout::shape);
        // Those of one's own images come last and are said first.
        shapes.rotate_right(2);
        let shapes = shapes.join(", or ");
        for folder in folders_in(root)? {
            for layout in LAYOUTS {
                if layout.recognises(&folder)? {
                    let name = folder.file_name().unwrap_or_default().display();
                    let reason =
                        format!("no data set; its folder {name} is one. Expected {shapes}");
                    return Err(Error::dataset(root, reason));
                }
            }
        }
        Err(Error::dataset(root, format!("no images found; expected {shapes}")))
    }

    /// The same of a folder of a known layout.
    ///
    /// # Errors
    /// Those of [`Layout::scan`]; [`Error::Dataset`] if there is no category.
    pub fn open_as(
        layout: &dyn Layout,
        root: impl AsRef<Path>,
        categories: &[String],
    ) -> Result<Dataset> {
        let (root, mut warnings) = (root.as_ref(), Vec::new());
        let categories = layout.scan(root, categories, &mut warnings)?;
        if categories.is_empty() {
            let reason = format!("no images found; expected {}", layout.shape());
            return Err(Error::dataset(root, reason));
        }
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        Ok(Dataset { root: root.into(), categories, warnings })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The categories, sorted by name; at least one.
    pub fn categories(&self) -> &[Category] {
        &self.categories
    }

    /// A data set of one of the categories alone, which a detector of its own is trained on.
    ///
    /// # Errors
    /// [`Error::Dataset`] if there is no category of this name.
    pub fn only(&self, category: &str) -> Result<Dataset> {
        let found = self.categories.iter().find(|of| of.name == category);
        let found = found.ok_or_else(|| {
            let known: Vec<_> = self.categories.iter().map(|of| of.name.as_str()).collect();
            let reason = format!("no category `{category}`; there are: {}", known.join(", "));
            Error::dataset(&self.root, reason)
        })?;
        Ok(Dataset { categories: vec![found.clone()], warnings: Vec::new(), ..self.clone() })
    }

    /// What was found but could not be used, one line each (also logged): masks without an image, folders
    /// of images that are no category.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}
