//! The files that say how good a detector is.

use std::io::Write;
use std::path::Path;

use invad::baselines::Baselines;
use invad::detect::Evaluation;
use invad::files::write_atomic;
use invad::{Detector, Error, Result};
use serde::Serialize;

/// `metrics.json`.
#[derive(Serialize)]
struct Metrics<'a> {
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    #[serde(skip_serializing_if = "Option::is_none")]
    baselines: Option<&'a Baselines>,
}

/// Writes `metrics.json`, indented.
pub fn write_metrics(
    path: &Path,
    evaluation: &Evaluation,
    baselines: Option<&Baselines>,
) -> Result<()> {
    let metrics = Metrics { evaluation, baselines };
    let mut json = serde_json::to_vec_pretty(&metrics).map_err(|e| Error::io(path, e.into()))?;
    json.push(b'\n');
    write_atomic(path, |file| file.write_all(&json))
}

/// What to say of so many images that are unfamiliar and not anomalous.
pub fn unfamiliar_images(count: usize) -> String {
    let are = if count == 1 { "image is" } else { "images are" };
    format!(
        "{count} {are} unfamiliar, as a whole unlike all good ones (another part, view or light?), so that scores \
         say little of them"
    )
}

/// Warns of thresholds that rest on too few images, for each of `categories` (none: of no known one).
pub fn warn_of_thresholds<'a>(
    detector: &Detector,
    categories: impl IntoIterator<Item = Option<&'a str>>,
) {
    let mut doubts: Vec<String> = categories.into_iter().flat_map(|c| detector.doubts(c)).collect();
    doubts.dedup();
    for doubt in doubts {
        log::warn!("{doubt}");
    }
}
