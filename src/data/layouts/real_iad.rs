//! The tree of Real-IAD.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Layout, chosen};
use crate::data::inputs::folders_in;
use crate::data::sample::{Category, Sample, Split};
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
    train: Vec<Row>,
    test: Vec<Row>,
}

#[derive(Deserialize)]
struct Meta {
    /// The folder that paths begin in.
    prefix: String,
    /// What good images are called.
    normal_class: String,
}

#[derive(Deserialize)]
struct Row {
    anomaly_class: String,
    image_path: String,
    mask_path: Option<String>,
}

/// A category's file, and the folder that its prefix begins in.
struct Listed {
    listing: PathBuf,
    images: PathBuf,
}

impl Layout for RealIad {
    fn shape(&self) -> &'static str {
        "<category>.json beside <category>/{OK,NG}/*"
    }

    fn recognises(&self, root: &Path) -> Result<bool> {
        Ok(!listed(root)?.is_empty())
    }

    fn scan(
        &self,
        root: &Path,
        categories: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Category>> {
        chosen(root, listed(root)?, categories, |name, listed| category(name, &listed, warnings))
    }
}

/// The categories whose images are there.
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
            let Some(name) = name.filter(|_| is_listing) else { continue };
            let has = |place: &&PathBuf| {
                ["OK", "NG"].iter().any(|part| place.join(&name).join(part).is_dir())
            };
            if let Some(images) = places.iter().find(has).cloned() {
                listed.entry(name).or_insert(Listed { listing, images });
            }
        }
    }
    Ok(listed)
}

fn category(name: String, listed: &Listed, warnings: &mut Vec<String>) -> Result<Category> {
    let path = &listed.listing;
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let Listing { meta, train, test } = serde_json::from_reader(BufReader::new(file))
        .map_err(|e| Error::dataset(path, format!("not a list of images of Real-IAD: {e}")))?;
    let folder = listed.images.join(&meta.prefix);
    let (mut samples, mut absent) = (Vec::new(), Vec::new());
    let rows = [(Split::Train, train), (Split::Test, test)];
    for (split, row) in
        rows.into_iter().flat_map(|(of, rows)| rows.into_iter().map(move |r| (of, r)))
    {
        let image = folder.join(&row.image_path);
        if !image.is_file() {
            absent.push(row.image_path);
            continue;
        }
        let mut sample = match (row.anomaly_class == meta.normal_class, split) {
            (true, split) => Sample::good(image, split),
            (false, Split::Test) => {
                let mask = row.mask_path.map(|mask| folder.join(mask));
                Sample::defective(image, &row.anomaly_class, mask)
            }
            (false, _) => {
                let reason = format!("{} is to be trained on, and defective", row.image_path);
                return Err(Error::dataset(path, reason));
            }
        };
        sample.view = view(&row.image_path);
        samples.push(sample);
    }
    if let Some(first) = absent.first() {
        let (path, count) = (path.display(), absent.len());
        warnings.push(format!("{path}: {count} of its images are not there, as {first}"));
    }
    Ok(Category::new(name, samples))
}

/// The `C1` of a name such as `toy_0001_OK_C1_2023.jpg`.
fn view(path: &str) -> Option<String> {
    let name = Path::new(path).file_stem()?.to_str()?;
    let is_view = |part: &&str| {
        part.strip_prefix('C')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    name.split('_').rfind(is_view).map(str::to_string)
}
