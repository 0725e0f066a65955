//! How data sets lie in folders, a file for each way.

mod bmad;
mod folder;
mod lists;
mod masks;
mod mvtec;
mod real_iad;
mod visa;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use bmad::Bmad;
pub use folder::Folder;
pub use mvtec::MvTec;
pub use real_iad::RealIad;
pub use visa::Visa;

use super::inputs::folders_in;
use super::sample::Category;
use crate::error::{Error, Result};

/// A way in which data sets lie in folders.
pub trait Layout: fmt::Debug + Sync {
    /// What lies where, as an error shows it to who has something else.
    fn shape(&self) -> &'static str;

    /// Whether the folder `root` is laid out like this. Only folders are listed for that.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read.
    fn recognises(&self, root: &Path) -> Result<bool>;

    /// The `categories` of a folder that it recognises, or all of them if none is named. What could not be used
    /// goes to `warnings`, a line each. Nothing is decoded.
    ///
    /// # Errors
    /// [`Error::Dataset`] if there is no category of a name; [`Error::Io`] if a folder cannot be read.
    fn scan(
        &self,
        root: &Path,
        categories: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Category>>;
}

/// Those that [`Dataset::open`](super::Dataset::open) knows, in the order in which they are asked.
pub static LAYOUTS: [&dyn Layout; 5] = [&Visa, &RealIad, &Bmad, &MvTec, &Folder];

/// The name of a category in this folder.
fn folder_name(folder: &Path) -> String {
    // `.` and `..` have a name only once resolved.
    let resolved = match folder.file_name() {
        Some(_) => folder.to_path_buf(),
        None => folder.canonicalize().unwrap_or_default(),
    };
    resolved.file_name().map_or("images".into(), |name| name.to_string_lossy().into_owned())
}

/// The folders directly in `root` that are categories, by name, or `root` itself if it is one.
fn categories_below(
    root: &Path,
    is_category: fn(&Path) -> bool,
) -> Result<BTreeMap<String, PathBuf>> {
    let folders = match is_category(root) {
        true => vec![root.to_path_buf()],
        false => folders_in(root)?.into_iter().filter(|folder| is_category(folder)).collect(),
    };
    Ok(folders.into_iter().map(|folder| (folder_name(&folder), folder)).collect())
}

/// Those found that are wanted: all, if none is named.
fn chosen<T>(
    root: &Path,
    mut found: BTreeMap<String, T>,
    wanted: &[String],
) -> Result<BTreeMap<String, T>> {
    expect_categories(root, wanted, &found.keys().map(String::as_str).collect::<Vec<_>>())?;
    found.retain(|name, _| wanted.is_empty() || wanted.contains(name));
    Ok(found)
}

fn expect_categories(root: &Path, wanted: &[String], known: &[&str]) -> Result<()> {
    match wanted.iter().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(missing) => {
            let reason = format!("no category `{missing}`; there are: {}", known.join(", "));
            Err(Error::dataset(root, reason))
        }
    }
}
