//! One detector of a data set, or one of each of its categories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use invad::backbones::Loaded;
use invad::checkpoint::Checkpoint;
use invad::data::{Dataset, Sample};
use invad::detect::{self, Evaluated, Evaluation, ImageResult, ScoreOptions};
use invad::{Detector, Device, Error, Result};

use super::options::Computing;
use super::progress::fetched;

/// The file of a detector in its folder.
pub const DETECTOR: &str = "detector.safetensors";

/// A detector, and the images that are its own.
pub struct Own {
    pub detector: Detector,
    pub dataset: Dataset,
}

/// The detector of a file for all of a data set, or those of a folder for a category each, `each` if it has to be one;
/// their backbone is loaded once.
pub fn detectors(
    path: &Path,
    dataset: &Dataset,
    computing: &Computing,
    each: bool,
) -> Result<Vec<Own>> {
    if !path.is_dir() {
        if each {
            let reason = "--per-category takes the folder that `train --per-category` wrote to";
            return Err(Error::file(path, reason));
        }
        return Ok(vec![Own { detector: computing.detector(path)?, dataset: dataset.clone() }]);
    }
    let mut loaded: Option<Loaded> = None;
    let names = dataset.categories().iter().map(|category| category.name.as_str());
    let own = names.map(|name| {
        let file = detector_of(path, name)?;
        let checkpoint = Checkpoint::load(&file)?;
        let backbone = &checkpoint.config.backbone.name;
        if loaded.as_ref().is_none_or(|loaded| loaded.spec().name != *backbone) {
            loaded = Some(Loaded::new(fetched(backbone)?, Device::Cpu)?);
        }
        let backbone = loaded.as_ref().expect("it was just put there");
        let detector = Detector::on(checkpoint, backbone);
        let detector = detector.map_err(|e| Error::file(&file, e.to_string()))?;
        Ok(Own { detector: computing.ready(detector)?, dataset: dataset.only(name)? })
    });
    own.collect()
}

/// The file of a category's detector in a folder.
fn detector_of(folder: &Path, category: &str) -> Result<PathBuf> {
    let file = folder.join(category).join(DETECTOR);
    if file.is_file() {
        return Ok(file);
    }
    if folder.join(DETECTOR).is_file() {
        let reason =
            format!("this folder has one detector of all categories; name its file, {DETECTOR}");
        return Err(Error::file(folder, reason));
    }
    let reason = format!(
        "there is no detector of category `{category}`; `train --per-category --category {category}` \
         with this folder as --out makes one, `evaluate --category` leaves it out"
    );
    Err(Error::file(file, reason))
}

impl Own {
    /// The metrics of all categories. `each` as of [`detect::evaluate`], with the detector of the image.
    pub fn evaluate<'d>(
        all: &'d [Own],
        options: &ScoreOptions,
        mut each: impl FnMut(&Detector, &'d Sample, Result<ImageResult<'d>>) -> Result<()>,
    ) -> Result<Evaluation> {
        let (mut calibrated, mut paper) = (BTreeMap::new(), BTreeMap::new());
        let (mut thresholds, mut tied) = (BTreeMap::new(), Vec::new());
        for Own { detector, dataset } in all {
            let each = |test, result| each(detector, test, result);
            let evaluation = detect::evaluate(detector, dataset, options, each)?;
            calibrated.extend(evaluation.calibrated.categories);
            paper.extend(evaluation.paper.categories);
            thresholds.extend(evaluation.thresholds);
            tied.extend(evaluation.tied);
        }
        let [calibrated, paper] = [calibrated, paper].map(Evaluated::new);
        Ok(Evaluation { calibrated, paper, thresholds, tied })
    }

    /// The report of all of them.
    #[cfg(feature = "report")]
    pub fn report(
        all: &[Own],
        evaluation: Evaluation,
        images: invad::report::Images,
    ) -> invad::report::Report {
        let first = &all[0].detector;
        let mut report = invad::report::Report::new("Evaluation", first, evaluation, images);
        if all.len() > 1 {
            let trained: usize = all.iter().map(|own| own.detector.config().images).sum();
            let held_out = |own: &Own| own.detector.calibration().images(None).len();
            let held_out: usize = all.iter().map(held_out).sum();
            for (name, value) in &mut report.facts {
                match name.as_str() {
                    "Trained on" => {
                        *value = format!("{trained} good images, one detector of each category");
                    }
                    "Calibrated with" => *value = format!("{held_out} held-out good images"),
                    _ => {}
                }
            }
            let doubts = all.iter().flat_map(|own| own.detector.doubts(None));
            report.warnings = doubts.chain(report.evaluation.advice()).collect();
        }
        report
    }
}
