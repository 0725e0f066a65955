//! Data sets on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::image::RgbImage;

use super::image::load_image;
use super::inputs::{folders_in, images_in};
use super::mask::{Mask, load_mask};
use crate::error::{Error, Result};

/// Where the images of a data set are. Nothing is decoded.
///
/// Three layouts are recognised:
/// - a tree as that of MVTec AD: `<category>/train/good/*`, `<category>/test/{good,<defect>}/*`,
///   `<category>/ground_truth/<defect>/<image>_mask.png` (or `<image>.png`);
/// - one category of such a tree;
/// - a folder of good images, directly inside or in its subfolder `good`: one category of the
///   folder's name, or of the one above it that is not `good` or `train`; without test images.
///
/// Images are told by their extension (png, jpg, jpeg, bmp, tif, tiff, webp in any case); hidden
/// files and `__MACOSX` are left out.
#[derive(Clone, Debug)]
pub struct Dataset {
    root: PathBuf,
    categories: Vec<Category>,
    warnings: Vec<String>,
}

/// The images of one category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Category {
    /// Its name: the folder's.
    pub name: String,
    /// Good images to train on, sorted.
    pub train: Vec<PathBuf>,
    /// Images to test with, sorted by path.
    pub test: Vec<TestImage>,
}

/// An image to test with, and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestImage {
    /// The image file.
    pub path: PathBuf,
    /// The kind of defect; `None` if the image is good.
    pub defect: Option<String>,
    /// The mask of the defect. Good images have none: all their pixels are normal. A defect without
    /// one cannot take part in pixel metrics.
    pub mask: Option<PathBuf>,
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
        let mut folders = BTreeMap::new();
        let mut ignored: Vec<PathBuf> = Vec::new();
        if root.join("train/good").is_dir() {
            folders.insert(folder_name(root), root.to_path_buf());
        } else {
            let is_category =
                |folder: &PathBuf| folder.join("train").is_dir() || folder.join("test").is_dir();
            let (found, others): (Vec<_>, _) = folders_in(root)?.into_iter().partition(is_category);
            folders.extend(found.into_iter().map(|folder| (folder_name(&folder), folder)));
            ignored = others;
        }
        if folders.is_empty() {
            let category = plain_folder(root)?;
            expect_categories(root, categories, &[&category.name])?;
            return Ok(Dataset {
                root: root.into(),
                categories: vec![category],
                warnings: Vec::new(),
            });
        }

        expect_categories(root, categories, &folders.keys().collect::<Vec<_>>())?;
        if !categories.is_empty() {
            folders.retain(|name, _| categories.contains(name));
        }
        let mut dataset =
            Dataset { root: root.into(), categories: Vec::new(), warnings: Vec::new() };
        if categories.is_empty() {
            for folder in ignored {
                if !images_in(&folder, usize::MAX)?.is_empty() {
                    let path = folder.display();
                    let warning =
                        format!("{path}: ignored, there is neither train/ nor test/ in it");
                    warn(&mut dataset.warnings, warning);
                }
            }
        }
        for (name, folder) in folders {
            let category = scan_category(name, &folder, &mut dataset.warnings)?;
            dataset.categories.push(category);
        }
        Ok(dataset)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The categories, sorted by name; at least one.
    pub fn categories(&self) -> &[Category] {
        &self.categories
    }

    /// What was found but could not be used, one line each (also logged): masks without an image, folders
    /// of images that are no category.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Loads a test image and, if it has one, its mask.
///
/// # Errors
/// As [`load_image`]; [`Error::Image`] if the mask is of another size than the image.
pub fn load_test(test: &TestImage) -> Result<(RgbImage, Option<Mask>)> {
    let image = load_image(&test.path)?;
    let Some(path) = &test.mask else { return Ok((image, None)) };
    let mask = load_mask(path)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    if (mask.width(), mask.height()) != (width, height) {
        let reason = format!(
            "the mask is {}×{} pixels, but its image {} is {width}×{height}",
            mask.width(),
            mask.height(),
            test.path.display()
        );
        return Err(Error::image(path, reason));
    }
    Ok((image, Some(mask)))
}

fn folder_name(folder: &Path) -> String {
    // `.` and `..` have a name only once resolved.
    let resolved = match folder.file_name() {
        Some(_) => folder.to_path_buf(),
        None => folder.canonicalize().unwrap_or_default(),
    };
    resolved.file_name().map_or("images".into(), |name| name.to_string_lossy().into_owned())
}

fn plain_folder(root: &Path) -> Result<Category> {
    let mut train = images_in(root, 1)?;
    if root.join("good").is_dir() {
        train.extend(images_in(&root.join("good"), usize::MAX)?);
        train.sort();
    }
    if train.is_empty() {
        return Err(Error::dataset(
            root,
            "no images found; expected <category>/train/good/* for one or more categories, \
             train/good/* for a single one, or good images directly inside",
        ));
    }
    let above = root.canonicalize().unwrap_or_else(|_| root.into());
    let mut names = [root].into_iter().chain(above.ancestors().skip(1)).map(folder_name);
    let name =
        names.find(|name| name != "good" && name != "train").expect("the root has no such name");
    Ok(Category { name, train, test: Vec::new() })
}

fn expect_categories(root: &Path, wanted: &[String], known: &[&String]) -> Result<()> {
    match wanted.iter().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(missing) => {
            let known: Vec<_> = known.iter().map(|name| name.as_str()).collect();
            let reason = format!("no category `{missing}`; there are: {}", known.join(", "));
            Err(Error::dataset(root, reason))
        }
    }
}

fn scan_category(name: String, folder: &Path, warnings: &mut Vec<String>) -> Result<Category> {
    let good = folder.join("train/good");
    let train = if good.is_dir() { images_in(&good, usize::MAX)? } else { Vec::new() };
    let subfolders = |kind: &str| -> Result<BTreeMap<String, PathBuf>> {
        let folder = folder.join(kind);
        let found = if folder.is_dir() { folders_in(&folder)? } else { Vec::new() };
        Ok(found.into_iter().map(|f| (folder_name(&f), f)).collect())
    };
    let mut masks = subfolders("ground_truth")?;
    masks.remove("good");
    let mut test = Vec::new();
    for (defect, folder) in subfolders("test")? {
        let images = images_in(&folder, usize::MAX)?;
        if defect == "good" {
            test.extend(images.into_iter().map(|path| TestImage {
                path,
                defect: None,
                mask: None,
            }));
        } else {
            let masks = MaskFolder::open(masks.remove(&defect))?;
            test.extend(masks.pair(images, &folder, &defect, warnings));
        }
    }
    for folder in masks.into_values() {
        MaskFolder::open(Some(folder))?.pair(Vec::new(), Path::new(""), "", warnings);
    }
    Ok(Category { name, train, test })
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
    ) -> Vec<TestImage> {
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
                TestImage { path, defect: Some(defect.to_string()), mask }
            })
            .collect();
        for mask in self.0.values().flatten().filter(|mask| !used.contains(*mask)) {
            warn(warnings, format!("{}: no image belongs to this mask", mask.display()));
        }
        paired
    }
}

fn warn(warnings: &mut Vec<String>, warning: String) {
    log::warn!("{warning}");
    warnings.push(warning);
}

fn stem(path: &Path, folder: &Path) -> PathBuf {
    path.strip_prefix(folder).unwrap_or(path).with_extension("")
}
