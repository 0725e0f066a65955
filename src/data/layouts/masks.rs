//! Masks that are told by the names of their images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::data::inputs::images_in;
use crate::data::sample::Sample;
use crate::error::Result;

/// The masks of one kind of defect, by path below their folder and without extension.
#[derive(Default)]
pub(super) struct MaskFolder(BTreeMap<PathBuf, Vec<PathBuf>>);

impl MaskFolder {
    pub fn open(folder: Option<PathBuf>) -> Result<MaskFolder> {
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
    pub fn pair(
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
