//! The trees of VisA.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Layout, MvTec, chosen};
use crate::data::inputs::folders_in;
use crate::data::sample::{Category, Sample, Split};
use crate::error::{Error, Result};

/// VisA (Zou et al., 2022) as it is published: `<category>/Data/Images/{Normal,Anomaly}/*`,
/// `<category>/Data/Masks/Anomaly/*`, divided by `split_csv/1cls.csv`; or converted to the tree of
/// [`MvTec`] in a folder `1cls`.
#[derive(Clone, Copy, Debug)]
pub struct Visa;

/// What divides the images.
const SPLIT: &str = "split_csv/1cls.csv";
/// Where the converted data set is.
const CONVERTED: &str = "1cls";

/// A line of it.
#[derive(Deserialize)]
struct Row {
    object: String,
    split: String,
    label: String,
    image: String,
    mask: Option<String>,
}

impl Layout for Visa {
    fn shape(&self) -> &'static str {
        "split_csv/1cls.csv and <category>/Data/Images/*"
    }

    fn recognises(&self, root: &Path) -> Result<bool> {
        let converted = root.join(CONVERTED);
        Ok(converted.is_dir() && MvTec.recognises(&converted)?
            || folders_in(root)?.iter().any(|folder| folder.join("Data/Images").is_dir()))
    }

    fn scan(
        &self,
        root: &Path,
        categories: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Category>> {
        let converted = root.join(CONVERTED);
        if converted.is_dir() {
            return MvTec.scan(&converted, categories, warnings);
        }
        let rows = rows(root)?;
        let missing = |path: &str| !root.join(path).is_file();
        let absent: Vec<_> = rows.values().flatten().filter(|row| missing(&row.image)).collect();
        if let Some(first) = absent.first() {
            let path = root.join(SPLIT);
            let (path, count, first) = (path.display(), absent.len(), &first.image);
            warnings.push(format!("{path}: {count} of its images are not there, as {first}"));
        }
        chosen(root, rows, categories, |name, rows| {
            let there = rows.into_iter().filter(|row| !missing(&row.image));
            let samples = there.map(|row| sample(root, row)).collect::<Result<_>>()?;
            Ok(Category::new(name, samples))
        })
    }
}

/// The lines of each category.
fn rows(root: &Path) -> Result<BTreeMap<String, Vec<Row>>> {
    let path = root.join(SPLIT);
    if !path.is_file() {
        let reason = format!("it looks like VisA, but {SPLIT}, which divides it, is not there");
        return Err(Error::dataset(root, reason));
    }
    let mut reader =
        csv::Reader::from_path(&path).map_err(|e| Error::dataset(&path, e.to_string()))?;
    let mut rows = BTreeMap::<String, Vec<Row>>::new();
    for row in reader.deserialize::<Row>() {
        let row = row.map_err(|e| Error::dataset(&path, e.to_string()))?;
        rows.entry(row.object.clone()).or_default().push(row);
    }
    Ok(rows)
}

fn sample(root: &Path, row: Row) -> Result<Sample> {
    let path = root.join(&row.image);
    match (&*row.split, &*row.label) {
        ("train", "normal") => Ok(Sample::good(path, Split::Train)),
        ("test", "normal") => Ok(Sample::good(path, Split::Test)),
        ("test", defect) => {
            let mask = row.mask.filter(|mask| !mask.is_empty()).map(|mask| root.join(mask));
            Ok(Sample::defective(path, defect, mask))
        }
        (split, label) => {
            let reason = format!("{}: images of split `{split}` and label `{label}`", row.image);
            Err(Error::dataset(root.join(SPLIT), format!("{reason} cannot be used")))
        }
    }
}
