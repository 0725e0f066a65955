//! Images that are left out.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::{Dataset, Sample, load_sample};
use crate::error::Error;

/// An image, or the mask of one, that cannot be read, so that the image is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unreadable {
    /// The file, from the folder of the data set on.
    pub path: String,
    /// Why.
    pub reason: String,
}

impl Unreadable {
    pub(super) fn of(error: &Error, dataset: &Dataset) -> Self {
        let (path, reason) = match error {
            Error::Image { path, reason } => (path.as_path(), reason.clone()),
            Error::Io { path, source } => (path.as_path(), source.to_string()),
            other => (Path::new(""), other.to_string()),
        };
        Self { path: below(path, dataset), reason }
    }

    /// The error that it was.
    pub(super) fn error(&self, dataset: &Dataset) -> Error {
        Error::image(dataset.root().join(&self.path), &self.reason)
    }

    /// Whether it can be read by now.
    fn is_mended(&self, dataset: &Dataset) -> bool {
        let is = |path: &Path| below(path, dataset) == self.path;
        let of = |sample: &&Sample| is(&sample.path) || sample.mask.as_deref().is_some_and(is);
        let all = dataset.categories().iter();
        let mut all = all.flat_map(|category| category.good().iter().chain(category.test()));
        all.find(of).is_some_and(|sample| load_sample(sample).is_ok())
    }
}

/// Says which of them can be read by now, if one can: what was made without it is to be made again.
pub(super) fn mended(all: &[Unreadable], dataset: &Dataset) -> Result<(), String> {
    match all.iter().find(|of| of.is_mended(dataset)) {
        Some(of) => Err(format!("{}, which could not be read then, can be now", of.path)),
        None => Ok(()),
    }
}

fn below(path: &Path, dataset: &Dataset) -> String {
    path.strip_prefix(dataset.root()).unwrap_or(path).to_string_lossy().into_owned()
}
