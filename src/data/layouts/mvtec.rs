//! The tree of MVTec AD.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Layout, expect_categories, folder_name};
use crate::data::inputs::{folders_in, images_in};
use crate::data::sample::{Category, Sample, Split};
use crate::error::Result;

/// A tree as that of MVTec AD (Bergmann et al., 2019): `<category>/train/good/*`,
/// `<category>/test/{good,<defect>}/*`, `<category>/ground_truth/<defect>/<image>_mask.png` (or `<image>.png`); or
/// one category of such a tree.
#[derive(Clone, Copy, Debug)]
pub struct MvTec;

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
        let found: BTreeMap<_, _> =
            found.into_iter().map(|folder| (folder_name(&folder), folder)).collect();
        expect_categories(root, categories, &found.keys().map(String::as_str).collect::<Vec<_>>())?;
        if categories.is_empty() {
            for folder in others {
                if !images_in(&folder, usize::MAX)?.is_empty() {
                    let path = folder.display();
                    warnings
                        .push(format!("{path}: ignored, there is neither train/ nor test/ in it"));
                }
            }
        }
        let wanted = |name: &String| categories.is_empty() || categories.contains(name);
        let found = found.into_iter().filter(|(name, _)| wanted(name));
        found.map(|(name, folder)| category(name, &folder, warnings)).collect()
    }
}

/// Whether the folder is the only category.
fn is_single(folder: &Path) -> bool {
    folder.join("train/good").is_dir()
}

fn is_category(folder: &Path) -> bool {
    folder.join("train").is_dir() || folder.join("test").is_dir()
}

fn category(name: String, folder: &Path, warnings: &mut Vec<String>) -> Result<Category> {
    let good = folder.join("train/good");
    let train = if good.is_dir() { images_in(&good, usize::MAX)? } else { Vec::new() };
    let of = |split| move |path| Sample::good(path, split);
    let mut samples: Vec<_> = train.into_iter().map(of(Split::Train)).collect();
    let subfolders = |kind: &str| -> Result<BTreeMap<String, PathBuf>> {
        let folder = folder.join(kind);
        let found = if folder.is_dir() { folders_in(&folder)? } else { Vec::new() };
        Ok(found.into_iter().map(|f| (folder_name(&f), f)).collect())
    };
    let mut masks = subfolders("ground_truth")?;
    masks.remove("good");
    for (defect, folder) in subfolders("test")? {
        let images = images_in(&folder, usize::MAX)?;
        if defect == "good" {
            samples.extend(images.into_iter().map(of(Split::Test)));
        } else {
            let masks = MaskFolder::open(masks.remove(&defect))?;
            samples.extend(masks.pair(images, &folder, &defect, warnings));
        }
    }
    for folder in masks.into_values() {
        MaskFolder::open(Some(folder))?.pair(Vec::new(), Path::new(""), "", warnings);
    }
    Ok(Category::new(name, samples))
}

/// The masks of one kind of defect, by path below their folder and without extension.
#[derive(Default)]
struct MaskFolder(BTreeMap<PathBuf, Vec<PathBuf>>);

impl MaskFolder {
    fn open(folder: Option<PathBuf>) -> Result<MaskFolder> {
        let mut masks = MaskFolder::default();
        if let Some(folder) = folder {
            for mask in images_in(&folder, usize::MAX)? {
                masks.0.entry(stem(&mask, &folder)).or_default().push(mask);
            }
        }
        Ok(masks)
    }

    /// Finds for each of the images below `folder` the mask `<image>_mask` or `<image>`, and warns
    /// of the masks that are left.
    fn pair(
        &self,
        images: Vec<PathBuf>,
        folder: &Path,
        defect: &str,
        warnings: &mut Vec<String>,
    ) -> Vec<Sample> {
        let mut used = BTreeSet::new();
        let paired = images
            .into_iter()
            .map(|path| {
                let plain = stem(&path, folder);
                let mut suffixed = plain.clone().into_os_string();
                suffixed.push("_mask");
                let mask = [suffixed.into(), plain]
                    .iter()
                    .find_map(|stem| self.0.get(stem)?.first().cloned());
                used.extend(mask.clone());
                Sample::defective(path, defect, mask)
            })
            .collect();
        for mask in self.0.values().flatten().filter(|mask| !used.contains(*mask)) {
            warnings.push(format!("{}: no image belongs to this mask", mask.display()));
        }
        paired
    }
}

fn stem(path: &Path, folder: &Path) -> PathBuf {
    path.strip_prefix(folder).unwrap_or(path).with_extension("")
}
