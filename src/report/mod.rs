//! Results as one HTML page that needs nothing else: no network, no script, no other file.
//!
//! It shows the metrics, how scores are distributed, ROC and precision-recall curves, and each
//! image with its heat map, what was found, the ground truth and its score against the threshold.
//!
//! ```no_run
//! use invad::data::Dataset;
//! use invad::report::{Image, Images, Report};
//! use invad::{Detector, detect};
//!
//! # fn main() -> invad::Result<()> {
//! let detector = Detector::load("detector.safetensors")?;
//! let dataset = Dataset::open("data", &[])?;
//! let mut images = Images::default();
//! let evaluation = detect::evaluate(&detector, &dataset, &Default::default(), |_, result| {
//!     images.add(Image::new(&result?)?);
//!     Ok(())
//! })?;
//! Report::new("Evaluation", &detector, evaluation, images).write("report.html")?;
//! # Ok(())
//! # }
//! ```

mod chart;
mod frame;
mod images;
mod labels;
mod outline;
mod page;
mod points;
mod sweep;

use std::io::Write;
use std::path::Path;

pub use images::{Image, Images};
pub use sweep::write_sweep;

use crate::baselines::Baselines;
use crate::checkpoint::CheckpointConfig;
use crate::detect::{Detector, Evaluation};
use crate::error::Result;
use crate::files::write_atomic;

/// What the page shows. All strings are shown as text, whatever they contain.
#[derive(Debug)]
pub struct Report {
    /// The page's title.
    pub title: String,
    /// What the results are of, by name: detector, data, times.
    pub facts: Vec<(String, String)>,
    /// What the reader should know before trusting the figures.
    pub warnings: Vec<String>,
    /// The metrics.
    pub evaluation: Evaluation,
    /// The metrics of simpler methods.
    pub baselines: Option<Baselines>,
    /// Step and loss of a training.
    pub training: Vec<(u64, f64)>,
    /// The images.
    pub images: Images,
}

impl Report {
    /// The results of a detector, with facts about it, and warnings where a threshold rests on too
    /// few images.
    pub fn new(
        title: impl Into<String>,
        detector: &Detector,
        evaluation: Evaluation,
        images: Images,
    ) -> Self {
        let CheckpointConfig { recipe, backbone, seed, steps, images: trained, categories, .. } =
            detector.config();
        let calibration = detector.calibration();
        let held_out = calibration.images(None).len();
        let facts = [
            ("Trained on", format!("{trained} good images of {}", categories.join(", "))),
            ("Calibrated with", format!("{held_out} held-out good images")),
            ("Training", format!("{} recipe, {steps} steps, seed {seed}", recipe.name)),
            ("Features", backbone.name.clone()),
        ];
        let warnings = evaluation.calibrated.categories.keys().flat_map(|name| {
            let own = calibration.categories.contains_key(name).then_some(name.as_str());
            detector.doubts(own)
        });
        let mut warnings: Vec<String> = warnings.collect();
        warnings.dedup();
        warnings.extend(evaluation.advice());
        Self {
            title: title.into(),
            facts: facts.map(|(name, value)| (name.into(), value)).into(),
            warnings,
            evaluation,
            baselines: None,
            training: Vec::new(),
            images,
        }
    }

    /// Adds a fact.
    pub fn fact(&mut self, name: impl Into<String>, value: impl ToString) {
        self.facts.push((name.into(), value.to_string()));
    }

    /// The page.
    pub fn html(&self) -> String {
        page::page(self).into_string()
    }

    /// Writes the page to a file, aside and renamed.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let html = self.html();
        write_atomic(path, |file| file.write_all(html.as_bytes()))
    }
}
