//! The trees of VisA.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::lists::{Lists, Row};
use super::{Layout, MvTec, chosen};
use crate::data::inputs::folders_in;
use crate::data::sample::{Category, Split};
use crate::error::{Error, Result};

/// VisA (Zou et al., 2022) as it is published: `<category>/Data/Images/{Normal,Anomaly}/*`,
/// `<category>/Data/Masks/Anomaly/*`, divided by `split_csv/1cls.csv`; or, without that, converted to the tree of
/// [`MvTec`] in a folder `1cls`.
#[derive(Clone, Copy, Debug)]
pub struct Visa;

/// What divides the images.
const SPLIT: &str = "split_csv/1cls.csv";
/// Where the converted data set is.
const CONVERTED: &str = "1cls";

/// A line of it.
#[derive(Deserialize)]
struct Line {
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
        // A list alone is of a data set whose images are elsewhere, unless they were converted beside it.
        let is_list = root.join(SPLIT).is_file() && !MvTec.recognises(root)?;
        Ok(is_list || is_raw(root)? || is_converted(root)?)
    }

    fn scan(
        &self,
        root: &Path,
        categories: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Category>> {
        let list = root.join(SPLIT);
        if !(list.is_file() && is_raw(root)?) && is_converted(root)? {
            return MvTec.scan(&root.join(CONVERTED), categories, warnings);
        }
        if !list.is_file() {
            let reason = format!("it looks like VisA, but {SPLIT}, which divides it, is not there");
            return Err(Error::dataset(root, reason));
        }
        let mut lists = Lists::default();
        for (name, lines) in chosen(root, lines(&list)?, categories)? {
            let rows = lines.into_iter().map(|(at, line)| row(&list, at, line));
            lists.add(&name, &list, &[root.into()], rows.collect::<Result<_>>()?, warnings)?;
        }
        lists.categories(categories, warnings)
    }
}

fn is_raw(root: &Path) -> Result<bool> {
    Ok(folders_in(root)?.iter().any(|folder| folder.join("Data/Images").is_dir()))
}

fn is_converted(root: &Path) -> Result<bool> {
    let converted = root.join(CONVERTED);
    Ok(converted.is_dir() && MvTec.recognises(&converted)?)
}

/// The lines of each category, and which they are.
fn lines(list: &Path) -> Result<BTreeMap<String, Vec<(u64, Line)>>> {
    let refused = |e: csv::Error| Error::dataset(list, e.to_string());
    let mut reader = csv::Reader::from_path(list).map_err(refused)?;
    let headers = reader.headers().map_err(refused)?.clone();
    let mut lines = BTreeMap::<String, Vec<_>>::new();
    for record in reader.records() {
        let record = record.map_err(refused)?;
        let at = record.position().map_or(0, csv::Position::line);
        let line: Line = record.deserialize(Some(&headers)).map_err(refused)?;
        lines.entry(line.object.clone()).or_default().push((at, line));
    }
    Ok(lines)
}

fn row(list: &Path, at: u64, line: Line) -> Result<Row> {
    let place = format!("line {at}");
    let split = match &*line.split {
        "train" => Split::Train,
        "test" => Split::Test,
        other => {
            let reason = format!("{place}: its split is `{other}`; expected train or test");
            return Err(Error::dataset(list, reason));
        }
    };
    let defect = Some(line.label).filter(|label| label != "normal");
    Ok(Row::new(place, split, defect, &line.image, line.mask.as_deref()))
}
