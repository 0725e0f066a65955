//! A folder of one's own images.

use std::path::{Path, PathBuf};

use super::masks::MaskFolder;
use super::{Layout, expect_categories, folder_name};
use crate::data::inputs::{folders_in, images_in};
use crate::data::sample::{Category, Sample, Split};
use crate::error::Result;

/// A folder of good images, in its subfolder `good` or else directly inside: one category of the folder's name, or of
/// the one above it that is not `good` or `train`.
///
/// Folders beside `good` are of images with defects, each a kind, and there may be their masks: in `masks` (or `mask`,
/// `ground_truth`), below it in a folder of the defect's name or not, `<image>_mask.*` or `<image>.*`. Images directly
/// beside `good` are left out. Where there are defects, every fifth good image is to test with.
#[derive(Clone, Copy, Debug)]
pub struct Folder;

const GOOD: &str = "good";
const MASKS: [&str; 3] = ["masks", "mask", "ground_truth"];
/// Of so many good images one is to test with.
const TESTED: usize = 5;

impl Layout for Folder {
    fn shape(&self) -> &'static str {
        "good images directly inside"
    }

    fn recognises(&self, root: &Path) -> Result<bool> {
        Ok(!images_in(root, 1)?.is_empty() || !good_below(root)?.is_empty())
    }

    fn scan(
        &self,
        root: &Path,
        categories: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Category>> {
        let above = root.canonicalize().unwrap_or_else(|_| root.into());
        let mut names = [root].into_iter().chain(above.ancestors().skip(1)).map(folder_name);
        let name =
            names.find(|name| name != GOOD && name != "train").expect("the root has no such name");
        expect_categories(root, categories, &[&name])?;
        let inside = images_in(root, 1)?;
        let good = good_below(root)?;
        let (good, mut samples) = match good.is_empty() {
            // Beside good images that lie about, folders may be of anything.
            true => (inside, Vec::new()),
            false => {
                if let Some(first) = inside.first() {
                    let (root, first, count) = (root.display(), folder_name(first), inside.len());
                    warnings.push(format!(
                        "{root}: {count} of its images lie beside `{GOOD}` and are left out, as {first}; \
                         put good ones in it"
                    ));
                }
                (good, defects(root, warnings)?)
            }
        };
        let tested = if samples.is_empty() { usize::MAX } else { TESTED };
        let split = |i| if i % tested == tested - 1 { Split::Test } else { Split::Train };
        samples.extend(good.into_iter().enumerate().map(|(i, path)| Sample::good(path, split(i))));
        Ok(vec![Category::new(name, samples)])
    }
}

fn good_below(root: &Path) -> Result<Vec<PathBuf>> {
    let good = root.join(GOOD);
    if good.is_dir() { images_in(&good, usize::MAX) } else { Ok(Vec::new()) }
}

/// The images in the folders beside `good`, which are of defects.
fn defects(root: &Path, warnings: &mut Vec<String>) -> Result<Vec<Sample>> {
    let is_of_masks = |folder: &PathBuf| MASKS.contains(&&*folder_name(folder));
    let (masks, others): (Vec<_>, _) = folders_in(root)?.into_iter().partition(is_of_masks);
    let mut masks = MaskFolder::open(masks.into_iter().next())?;
    let mut samples = Vec::new();
    for folder in others {
        let defect = folder_name(&folder);
        if defect != GOOD {
            let images = images_in(&folder, usize::MAX)?;
            log::info!("{}: {} images of defects", folder.display(), images.len());
            samples.extend(masks.pair(images, &folder, &defect));
        }
    }
    masks.warn(warnings);
    Ok(samples)
}
