//! The trees of MVTec AD and MVTec AD 2.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::masks::MaskFolder;
use super::{Layout, chosen, folder_name};
use crate::data::inputs::{folders_in, images_in};
use crate::data::sample::{Category, Sample, Split};
use crate::error::Result;

/// A tree as that of MVTec AD (Bergmann et al., 2019): `<category>/train/good/*`,
/// `<category>/test/{good,<defect>}/*`, `<category>/ground_truth/<defect>/<image>_mask.png` (or `<image>.png`); or as
/// that of MVTec AD 2 (Heckler-Kram et al., 2025), which has `validation/good`, and `test_public` with its own
/// `ground_truth` in place of `test`; or one category of such a tree.
#[derive(Clone, Copy, Debug)]
pub struct MvTec;

/// The folder of masks.
const MASKS: &str = "ground_truth";
/// The images to test with whose masks are public.
const PUBLIC: &str = "test_public";

impl Layout for MvTec {
    fn shape(&self) -> &'static str {
        "<category>/train/good/* for one or more categories, train/good/* for a single one"
    }

    fn recognises(&self, root: &Path) -> Result<bool> {
        Ok(is_single(root) || folders_in(root)?.iter().any(|folder| is_category(folder)))
    }

    fn scan(
        &self,
        root: &Path,
        categories: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Category>> {
        let (found, others): (Vec<_>, _) = match is_single(root) {
            true => (vec![root.to_path_buf()], Vec::new()),
            false => folders_in(root)?.into_iter().partition(|folder| is_category(folder)),
        };
        if categories.is_empty() {
            for folder in others {
                if !images_in(&folder, usize::MAX)?.is_empty() {
                    let path = folder.display();
                    warnings
                        .push(format!("{path}: ignored, there is neither train/ nor test/ in it"));
                }
            }
        }
        let found = found.into_iter().map(|folder| (folder_name(&folder), folder)).collect();
        let chosen = chosen(root, found, categories)?.into_iter();
        chosen.map(|(name, folder)| category(name, &folder, warnings)).collect()
    }
}

/// Whether the folder is the only category.
fn is_single(folder: &Path) -> bool {
    folder.join("train/good").is_dir()
}

fn is_category(folder: &Path) -> bool {
    ["train", "test", PUBLIC].iter().any(|part| folder.join(part).is_dir())
}

fn category(name: String, folder: &Path, warnings: &mut Vec<String>) -> Result<Category> {
    let of = |split| move |path| Sample::good(path, split);
    let mut samples = Vec::new();
    for (good, split) in [("train/good", Split::Train), ("validation/good", Split::Validation)] {
        let good = folder.join(good);
        if good.is_dir() {
            samples.extend(images_in(&good, usize::MAX)?.into_iter().map(of(split)));
        }
    }
    let subfolders = |folder: PathBuf| -> Result<BTreeMap<String, PathBuf>> {
        let found = if folder.is_dir() { folders_in(&folder)? } else { Vec::new() };
        Ok(found.into_iter().map(|f| (folder_name(&f), f)).collect())
    };
    let public = folder.join(PUBLIC);
    let tests = if public.is_dir() { public } else { folder.join("test") };
    let mut masks = subfolders(folder.join(MASKS))?;
    masks.extend(subfolders(tests.join(MASKS))?);
    masks.remove("good");
    for (defect, folder) in subfolders(tests)? {
        if defect == MASKS {
            continue;
        }
        let images = images_in(&folder, usize::MAX)?;
        if defect == "good" {
            samples.extend(images.into_iter().map(of(Split::Test)));
        } else {
            let mut masks = MaskFolder::open(masks.remove(&defect))?;
            samples.extend(masks.pair(images, &folder, &defect));
            masks.warn(warnings);
        }
    }
    for folder in masks.into_values() {
        MaskFolder::open(Some(folder))?.warn(warnings);
    }
    Ok(Category::new(name, samples))
}
