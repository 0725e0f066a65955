//! The tree of Real-IAD.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::lists::{self, Lists, Row};
use super::{Layout, chosen};
use crate::data::inputs::folders_in;
use crate::data::sample::{Category, Split};
use crate::error::{Error, Result};

/// Real-IAD (Wang et al., 2024): a file `<category>.json` for each category, directly in the folder or in one of the name
/// `realiad_jsons`, which lists the images to train and test with; and `<category>/{OK,NG/<defect>}/…`, directly in the
/// folder or below one that begins with `realiad_`. A part is seen from five sides, the `C1` to `C5` of the images' names.
#[derive(Clone, Copy, Debug)]
pub struct RealIad;

/// A category's file.
#[derive(Deserialize)]
struct Listing {
    meta: Meta,
    train: Vec<Entry>,
    test: Vec<Entry>,
}

#[derive(Deserialize)]
struct Meta {
    /// The folder that paths begin in; without one it is the category's.
    #[serde(default)]
    prefix: String,
    /// What good images are called.
    normal_class: String,
}

#[derive(Deserialize)]
struct Entry {
    anomaly_class: String,
    image_path: String,
    mask_path: Option<String>,
}

/// A category's file, and the folder that has one of its images.
struct Listed {
    listing: PathBuf,
    images: Option<PathBuf>,
}

impl Layout for RealIad {
    fn shape(&self) -> &'static str {
        "<category>.json beside <category>/{OK,NG}/*"
    }

    fn recognises(&self, root: &Path) -> Result<bool> {
        Ok(listed(root)?.values().any(|listed| listed.images.is_some()))
    }

    fn scan(
        &self,
        root: &Path,
        categories: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Category>> {
        let mut lists = Lists::default();
        for (name, Listed { listing, images }) in chosen(root, listed(root)?, categories)? {
            let Some(images) = images else {
                lists.absent(&name, &listing, root.join(&name));
                continue;
            };
            let (prefix, rows) = rows(&listing)?;
            // Published lists have the prefix; in others paths begin with the category, or in the data set's folder.
            let below = [prefix, name.clone().into(), PathBuf::new()];
            let folders: Vec<PathBuf> = [&*images, root]
                .into_iter()
                .flat_map(|from| below.iter().map(move |below| from.join(below)))
                .collect();
            lists.add(&name, &listing, &folders, rows, warnings)?;
        }
        lists.categories(categories, warnings)
    }
}

/// The categories: those whose images are there, and others of lists in a folder of lists.
fn listed(root: &Path) -> Result<BTreeMap<String, Listed>> {
    let folders = folders_in(root)?;
    let begins = |folder: &&PathBuf| {
        folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"realiad_"))
    };
    let named: Vec<PathBuf> = folders.iter().filter(begins).cloned().collect();
    let inner = named.iter().map(|folder| folder.join("realiad_jsons"));
    let places: Vec<PathBuf> = [root.to_path_buf()].into_iter().chain(named.clone()).collect();
    let mut listed = BTreeMap::new();
    for folder in places.iter().cloned().chain(inner).filter(|folder| folder.is_dir()) {
        let files = folder.read_dir().map_err(|e| Error::io(&folder, e))?;
        for file in files {
            let listing = file.map_err(|e| Error::io(&folder, e))?.path();
            let name = listing.file_stem().and_then(|name| name.to_str()).map(str::to_string);
            let is_listing = listing.extension().is_some_and(|extension| extension == "json");
            let Some(name) = name.filter(|name| is_listing && !name.starts_with('.')) else {
                continue;
            };
            let has = |place: &&PathBuf| {
                ["OK", "NG"].iter().any(|part| place.join(&name).join(part).is_dir())
            };
            let images = places.iter().find(has).cloned();
            if images.is_some() || folder != root {
                listed.entry(name).or_insert(Listed { listing, images });
            }
        }
    }
    Ok(listed)
}

/// The folder that a list's paths begin in, and its images.
fn rows(list: &Path) -> Result<(PathBuf, Vec<Row>)> {
    let file = File::open(list).map_err(|e| Error::io(list, e))?;
    let Listing { meta, train, test } = serde_json::from_reader(BufReader::new(file))
        .map_err(|e| Error::dataset(list, format!("not a list of images of Real-IAD: {e}")))?;
    let mut rows = Vec::new();
    for (part, split, entries) in [("train", Split::Train, train), ("test", Split::Test, test)] {
        for (i, entry) in entries.into_iter().enumerate() {
            let defect = Some(entry.anomaly_class).filter(|class| *class != meta.normal_class);
            let (image, mask) = (&entry.image_path, entry.mask_path.as_deref());
            let mut row = Row::new(format!("{part}[{i}]"), split, defect, image, mask);
            row.sample.view = view(&row.sample.path);
            rows.push(row);
        }
    }
    Ok((lists::path(&meta.prefix), rows))
}

/// The `C1` of a name such as `toy_0001_OK_C1_2023.jpg`.
fn view(path: &Path) -> Option<String> {
    let name = path.file_stem()?.to_str()?;
    let is_view = |part: &&str| {
        part.strip_prefix('C')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    name.split('_').rfind(is_view).map(str::to_string)
}
