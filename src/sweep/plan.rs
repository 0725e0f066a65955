//! What a sweep needs, and whether it can be had, before long work.

use std::path::PathBuf;

use super::engine::SweepOptions;
use super::kept::{MeasurementKey, TrainingKey, detector_folder, measurement_file, require_file};
use super::setting::{Method, Setting};
use crate::backbones::{self, BackboneSpec};
use crate::data::{Dataset, load_sample};
use crate::denoisers;
use crate::detect::{require_tests, unreadable};
use crate::error::{Error, Result};
use crate::fit::require_good;

/// A detector of a sweep, and what is measured with it.
pub(super) struct Detecting<'s> {
    pub key: TrainingKey,
    pub folder: PathBuf,
    /// One of those below.
    pub setting: &'s Setting,
    /// All categories, or the one that has it.
    pub dataset: Dataset,
    pub category: Option<String>,
    pub measurements: Vec<Needed<'s>>,
}

/// What is measured, and where that is kept.
pub(super) type Needed<'s> = (&'s Setting, MeasurementKey, PathBuf);

impl Detecting<'_> {
    /// The files of the detector, of the state of its training, and of what is said beside them.
    pub fn files(&self) -> [PathBuf; 3] {
        ["detector.safetensors", "training.safetensors", "settings.json"]
            .map(|name| self.folder.join(name))
    }

    /// An error if a folder is in the place of a file.
    pub fn refuse_folders(&self) -> Result<()> {
        let measurements = self.measurements.iter().map(|(.., file)| file);
        self.files().iter().chain(measurements).try_for_each(|file| require_file(file))
    }
}

/// Whether there is what the settings name.
pub(super) fn check(settings: &[&Setting]) -> Result<()> {
    let known = backbones::known();
    for setting in settings {
        setting.check()?;
        if !known.contains(&setting.backbone) {
            let name = setting.backbone.as_str();
            return Err(Error::argument("sweep", "backbone", known.join(", "), name));
        }
    }
    Ok(())
}

/// Whether every category has images to train and to test with. What will not be measured is returned.
pub(super) fn check_data(dataset: &Dataset) -> Result<Vec<String>> {
    let mut doubts = Vec::new();
    for category in dataset.categories() {
        require_good(dataset, category)?;
        require_tests(dataset, category)?;
        if !category.test().iter().any(|test| load_sample(test).is_ok()) {
            return Err(unreadable(dataset, category));
        }
        let name = &category.name;
        let defective = category.test().iter().filter(|test| test.defect.is_some()).count();
        let lacking = match defective {
            0 => "defective",
            all if all == category.test().len() => "good",
            _ => continue,
        };
        doubts.push(format!(
            "category `{name}` has no {lacking} test images: how well good and defective ones are told apart is not \
             measured of it"
        ));
    }
    Ok(doubts)
}

impl Setting {
    /// Whether there is such a thing, before long work.
    fn check(&self) -> Result<()> {
        self.training()?;
        let refused =
            |arg, expected: String, got| Err(Error::argument("sweep", arg, expected, got));
        if !denoisers::presets().contains(&self.denoiser.as_str()) {
            return refused("denoiser", denoisers::presets().join(", "), self.denoiser.clone());
        }
        if !(1..=1000).contains(&self.evaluations) {
            return refused("evaluations", "in 1..=1000".into(), self.evaluations.to_string());
        }
        match self.method {
            Method::Reconstruction { noise_step } if noise_step >= self.evaluations => {
                let expected = format!("below {}, the evaluations", self.evaluations);
                refused("noise_step", expected, noise_step.to_string())
            }
            _ => Ok(()),
        }
    }
}

/// Adds a setting to the detectors that are needed.
pub(super) fn add<'s>(
    plan: &mut Vec<Detecting<'s>>,
    setting: &'s Setting,
    spec: &BackboneSpec,
    dataset: &Dataset,
    options: &SweepOptions,
) -> Result<()> {
    let denoiser = denoisers::preset(&setting.denoiser, spec.features())?.id();
    let names = dataset.categories().iter().map(|category| category.name.clone());
    let parts: Vec<Option<String>> =
        if setting.per_category { names.map(Some).collect() } else { vec![None] };
    for category in parts {
        let dataset =
            category.as_deref().map_or_else(|| Ok(dataset.clone()), |of| dataset.only(of))?;
        let seed = (options.seed, options.steps);
        let key = TrainingKey::new(spec, denoiser.clone(), setting, &dataset, seed)?;
        let measurement = MeasurementKey::new(key.clone(), setting, &dataset, options);
        let file = measurement_file(&options.out, setting, &measurement)?;
        let measurement = (setting, measurement, file);
        match plan.iter_mut().find(|of| of.key == key) {
            // With a single category one detector serves both ways.
            Some(of) => of.measurements.push(measurement),
            None => {
                let folder = detector_folder(&options.out, setting, &key)?;
                let measurements = vec![measurement];
                plan.push(Detecting { key, folder, setting, dataset, category, measurements });
            }
        }
    }
    Ok(())
}
