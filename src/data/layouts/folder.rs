//! A folder of good images.

use std::path::Path;

use super::{Layout, expect_categories, folder_name};
use crate::data::inputs::images_in;
use crate::data::sample::{Category, Sample, Split};
use crate::error::Result;

/// A folder of good images, directly inside or in its subfolder `good`: one category of the folder's name, or of
/// the one above it that is not `good` or `train`; without test images.
#[derive(Clone, Copy, Debug)]
pub struct Folder;

impl Layout for Folder {
    fn shape(&self) -> &'static str {
        "good images directly inside"
    }

    fn recognises(&self, root: &Path) -> Result<bool> {
        let good = root.join("good");
        Ok(!images_in(root, 1)?.is_empty()
            || good.is_dir() && !images_in(&good, usize::MAX)?.is_empty())
    }

    fn scan(
        &self,
        root: &Path,
        categories: &[String],
        _: &mut Vec<String>,
    ) -> Result<Vec<Category>> {
        let above = root.canonicalize().unwrap_or_else(|_| root.into());
        let mut names = [root].into_iter().chain(above.ancestors().skip(1)).map(folder_name);
        let name = names
            .find(|name| name != "good" && name != "train")
            .expect("the root has no such name");
        expect_categories(root, categories, &[&name])?;
        let mut train = images_in(root, 1)?;
        if root.join("good").is_dir() {
            train.extend(images_in(&root.join("good"), usize::MAX)?);
        }
        let samples = train.into_iter().map(|path| Sample::good(path, Split::Train));
        Ok(vec![Category::new(name, samples.collect())])
    }
}
