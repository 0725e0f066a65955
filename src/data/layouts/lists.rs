//! Lists that say what a data set's images are.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::data::sample::{Category, Sample, Split};
use crate::error::{Error, Result};

/// So many categories without images are named.
const NAMED: usize = 3;

/// An image as a list names it.
pub(super) struct Row {
    /// Where in the list, as `line 3`.
    place: String,
    /// Its paths are those of the list.
    pub sample: Sample,
}

impl Row {
    /// An image, the kind of its defect if it has one, and the mask of that; an empty path is none.
    pub fn new(
        place: String,
        split: Split,
        defect: Option<String>,
        image: &str,
        mask: Option<&str>,
    ) -> Row {
        let mask = mask.filter(|mask| !mask.is_empty()).map(path);
        let sample = Sample { path: path(image), split, defect, mask, view: None };
        Row { place, sample }
    }
}

/// A path of a list, which may have been written on Windows.
pub(super) fn path(text: &str) -> PathBuf {
    text.replace('\\', "/").into()
}

/// An image that is there, and where it was listed.
struct Listed {
    category: String,
    place: String,
    sample: Sample,
}

/// The images of lists, each once.
#[derive(Default)]
pub(super) struct Lists {
    images: BTreeMap<PathBuf, Listed>,
    /// Categories of which nothing is there, with their list and the first path that was looked for.
    absent: Vec<(String, PathBuf, PathBuf)>,
}

impl Lists {
    /// Adds the images of a category that are there. The list's paths begin in the first of `folders` where any leads
    /// to an image.
    pub fn add(
        &mut self,
        category: &str,
        list: &Path,
        folders: &[PathBuf],
        rows: Vec<Row>,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let is_there =
            |folder: &&PathBuf| rows.iter().any(|row| folder.join(&row.sample.path).is_file());
        let Some(folder) = folders.iter().find(is_there) else {
            let first = rows.first().map_or(Path::new(""), |row| &row.sample.path);
            self.absent(category, list, folders[0].join(first));
            return Ok(());
        };
        let mut missing = BTreeSet::new();
        for Row { place, mut sample } in rows {
            let image = sample.path;
            sample.path = folder.join(&image);
            sample.mask = sample.mask.map(|mask| folder.join(mask));
            if !sample.path.is_file() {
                missing.insert(image);
                continue;
            }
            if sample.defect.is_some() && sample.split != Split::Test {
                let reason =
                    format!("{place}: {} is to be trained on, and defective", image.display());
                return Err(Error::dataset(list, reason));
            }
            match self.images.entry(sample.path.clone()) {
                Entry::Vacant(new) => {
                    new.insert(Listed { category: category.into(), place, sample });
                }
                Entry::Occupied(old) => {
                    let Listed { category: of, place: before, sample: as_before } = old.get();
                    if (&**of, as_before) != (category, &sample) {
                        let image = image.display();
                        let reason = format!(
                            "{before} and {place} disagree about {image}; keep one of them"
                        );
                        return Err(Error::dataset(list, reason));
                    }
                }
            }
        }
        if let Some(first) = missing.first() {
            let (list, first, count) = (list.display(), first.display(), missing.len());
            warnings.push(format!(
                "{list}: {count} of `{category}`'s images are not there, as {first}"
            ));
        }
        Ok(())
    }

    /// Adds a category of which nothing is there.
    pub fn absent(&mut self, category: &str, list: &Path, looked_for: PathBuf) {
        self.absent.push((category.into(), list.into(), looked_for));
    }

    /// The categories that are there; of others a warning says that they are left out.
    ///
    /// # Errors
    /// [`Error::Dataset`] if there is none, or if those that are not were asked for by name.
    pub fn categories(
        self,
        wanted: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Category>> {
        let mut categories = BTreeMap::<_, Vec<Sample>>::new();
        for Listed { category, sample, .. } in self.images.into_values() {
            categories.entry(category).or_default().push(sample);
        }
        if let Some((_, list, looked_for)) = self.absent.first() {
            let (absent, all) = (self.absent.len(), self.absent.len() + categories.len());
            let mut names: Vec<_> =
                self.absent.iter().map(|(name, ..)| &**name).take(NAMED).collect();
            names.extend((absent > NAMED).then_some("…"));
            let names = names.join(", ");
            let what = format!("no images here of {names} ({absent} of {all} categories)");
            if categories.is_empty() || !wanted.is_empty() {
                let reason = format!("{what}; first looked for {}", looked_for.display());
                return Err(Error::dataset(list, reason));
            }
            warnings.push(format!("{}: {what}, which are left out", list.display()));
        }
        Ok(categories.into_iter().map(|(name, samples)| Category::new(name, samples)).collect())
    }
}
