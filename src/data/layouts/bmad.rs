//! The trees of BMAD.

use std::path::{Path, PathBuf};

use super::masks::MaskFolder;
use super::{Layout, categories_below};
use crate::data::inputs::images_in;
use crate::data::sample::{Category, Sample, Split};
use crate::error::Result;

/// Trees as those of BMAD (Bao et al., 2024): `<category>/train/good/*`,
/// `<category>/{valid,val}/{good,Ungood}/*` and `<category>/test/{good,Ungood}/*`, images directly there or in `img`,
/// masks of those in `Ungood` beside them in `label` or `anomaly_mask`, where there are any; or one category of such a
/// tree. Good images for validation calibrate; the others are not used.
#[derive(Clone, Copy, Debug)]
pub struct Bmad;

const UNGOOD: &str = "Ungood";
const VALIDATION: [&str; 2] = ["valid", "val"];
const MASKS: [&str; 2] = ["label", "anomaly_mask"];

impl Layout for Bmad {
    fn shape(&self) -> &'static str {
        "<category>/train/good/* and <category>/test/{good,Ungood}/*"
    }

    fn recognises(&self, root: &Path) -> Result<bool> {
        Ok(!categories_below(root, is_category)?.is_empty())
    }

    fn scan(
        &self,
        root: &Path,
        categories: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Category>> {
        let found = categories_below(root, is_category)?;
        let chosen = super::chosen(root, found, categories)?.into_iter();
        chosen.map(|(name, folder)| category(name, &folder, warnings)).collect()
    }
}

fn is_category(folder: &Path) -> bool {
    folder.join("test").join(UNGOOD).is_dir()
}

fn category(name: String, folder: &Path, warnings: &mut Vec<String>) -> Result<Category> {
    let mut samples = Vec::new();
    let splits = [("train", Split::Train), ("test", Split::Test)];
    let splits = splits.into_iter().chain(VALIDATION.map(|name| (name, Split::Validation)));
    for (part, split) in splits {
        let good = folder.join(part).join("good");
        let images = images_of(&good)?.1;
        samples.extend(images.into_iter().map(|path| Sample::good(path, split)));
    }
    let ungood = folder.join("test").join(UNGOOD);
    let (below, images) = images_of(&ungood)?;
    let masks = MASKS.iter().map(|masks| ungood.join(masks)).find(|masks| masks.is_dir());
    let mut masks = MaskFolder::open(masks)?;
    samples.extend(masks.pair(images, &below, UNGOOD));
    masks.warn(warnings);
    Ok(Category::new(name, samples))
}

/// The folder in which images of `folder` are, and they.
fn images_of(folder: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let level = folder.join("img");
    match (level.is_dir(), folder.is_dir()) {
        (true, _) => Ok((level.clone(), images_in(&level, usize::MAX)?)),
        (_, true) => Ok((folder.into(), images_in(folder, 1)?)),
        _ => Ok((folder.into(), Vec::new())),
    }
}
