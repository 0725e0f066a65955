//! Masks that are told by the names of their images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::data::inputs::images_in;
use crate::data::sample::Sample;
use crate::error::Result;

/// The masks in a folder.
#[derive(Default)]
pub(super) struct MaskFolder {
    /// By path below the folder and without extension.
    masks: BTreeMap<PathBuf, Vec<PathBuf>>,
    used: BTreeSet<PathBuf>,
}

impl MaskFolder {
    pub fn open(folder: Option<PathBuf>) -> Result<MaskFolder> {
        let mut all = MaskFolder::default();
        if let Some(folder) = folder {
            for mask in images_in(&folder, usize::MAX)? {
                all.masks.entry(stem(&mask, &folder)).or_default().push(mask);
            }
        }
        Ok(all)
    }

    /// Finds for each of the images below `folder` the mask `<image>_mask` or `<image>`, in a folder of the defect's name or
    /// in none.
    pub fn pair(&mut self, images: Vec<PathBuf>, folder: &Path, defect: &str) -> Vec<Sample> {
        let with_mask = |path: PathBuf| {
            let plain = stem(&path, folder);
            let mut suffixed = plain.clone().into_os_string();
            suffixed.push("_mask");
            let names = [suffixed.into(), plain];
            let of_defect = names.clone().map(|name| Path::new(defect).join(name));
            let mut names = of_defect.iter().chain(&names);
            // A mask belongs to one image.
            let mask = names.find_map(|stem| {
                self.masks.get(stem)?.iter().find(|mask| !self.used.contains(*mask)).cloned()
            });
            self.used.extend(mask.clone());
            Sample::defective(path, defect, mask)
        };
        images.into_iter().map(with_mask).collect()
    }

    /// Warns of the masks that no image has.
    pub fn warn(&self, warnings: &mut Vec<String>) {
        for mask in self.masks.values().flatten().filter(|mask| !self.used.contains(*mask)) {
            warnings.push(format!("{}: no image belongs to this mask", mask.display()));
        }
    }
}

fn stem(path: &Path, folder: &Path) -> PathBuf {
    path.strip_prefix(folder).unwrap_or(path).with_extension("")
}
