//! Trains and measures what a sweep lacks.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::kept::{
    MeasurementKey, TrainingKey, detector_folder, measurement_file, read_measurement,
    write_measurement,
};
use super::measure::{self, Measurement};
use super::reconstruct::Reconstruction;
use super::results::Results;
use super::setting::{Method, Setting, Sweep};
use crate::backbones::{self, Loaded, Remembered};
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::denoisers;
use crate::detect::Detector;
use crate::error::{Error, Result};
use crate::fit::{self, Control, FitOptions, Fitted, calibrate, fit_on};
use crate::tensor::Device;
use crate::train::Resources;

/// How a sweep is run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SweepOptions {
    /// Where detectors and measurements are kept.
    pub out: PathBuf,
    /// Where to compute, and how trainings fit there.
    pub resources: Resources,
    /// Images that are scored at once.
    pub batch: usize,
    /// Optimiser steps of each training; `None`: the recipe's.
    pub steps: Option<u64>,
    /// The seed of all random numbers.
    pub seed: u64,
    /// Bytes of memory for features, so that those of an image are computed once on the CPU.
    pub memory: usize,
}

setters!(SweepOptions {
    out: PathBuf,
    resources: Resources,
    batch: usize,
    steps: Option<u64>,
    seed: u64,
    memory: usize,
});

impl SweepOptions {
    /// In a folder: on the CPU, 8 images at once, the recipes' steps, seed 0, 4 GiB of features.
    pub fn new(out: impl Into<PathBuf>) -> Self {
        Self {
            out: out.into(),
            resources: Resources::default(),
            batch: 8,
            steps: None,
            seed: 0,
            memory: 4 << 30,
        }
    }
}

/// What [`run`] does.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A detector is trained, the `number`-th of `total`.
    Training {
        /// What for.
        setting: &'a Setting,
        /// The category, where each has its own.
        category: Option<&'a str>,
        /// Which, from 1 on.
        number: usize,
        /// All detectors of the sweep.
        total: usize,
    },
    /// Weights that are fetched, a training, or what a detector learns for another number of evaluations.
    Fit(fit::Event<'a>),
    /// A detector that is there already is used.
    Reused(&'a Path),
    /// `done` of `total` images are measured.
    Measuring {
        /// What is measured.
        setting: &'a Setting,
        /// Images done.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// `done` of `total` measurements of the sweep are there.
    Measured {
        /// What was measured.
        setting: &'a Setting,
        /// Measurements done, those from before included.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// An image cannot be read and is left out.
    Unreadable(&'a Error),
    /// The weights of a backbone cannot be had; its rows stay empty.
    Missing {
        /// The backbone.
        backbone: &'a str,
        /// Why.
        error: &'a Error,
    },
}

/// How [`run`] ended.
#[derive(Debug)]
pub enum Swept {
    /// With all that could be measured.
    Done(Box<Results>),
    /// Stopped by the observer; the same call goes on.
    Stopped,
}

/// A detector of a sweep, and what is measured with it.
struct Detecting<'s> {
    key: TrainingKey,
    folder: PathBuf,
    /// One of those below.
    setting: &'s Setting,
    /// All categories, or the one that has it.
    dataset: Dataset,
    category: Option<String>,
    measurements: Vec<(&'s Setting, MeasurementKey, PathBuf)>,
}

/// Runs a sweep on a data set. What is in the folder from before is used where everything that decides it is the same:
/// data, backbone, denoiser, recipe, steps and seed.
///
/// `observe` gets every [`Event`], and may stop the run: a training after its step, with its state saved; a measurement
/// after an image. What follows a training, and what a detector learns for another number of evaluations, is
/// finished before.
///
/// # Errors
/// [`Error::Argument`] of settings that there are not; [`Error::Dataset`] of a category without images to train or
/// to test with; the first of reading weights, if there are those of no backbone; those of [`fit`](crate::fit()), of detectors, and of files.
pub fn run(
    sweep: &Sweep,
    dataset: &Dataset,
    options: &SweepOptions,
    mut observe: impl FnMut(Event) -> Control,
) -> Result<Swept> {
    let settings = sweep.settings();
    let device = options.resources.device;
    device.require()?;
    for setting in &settings {
        setting.check()?;
    }
    for folder in ["detectors", "measurements"] {
        let folder = options.out.join(folder);
        fs::create_dir_all(&folder).map_err(|e| Error::io(folder, e))?;
    }
    let mut names: Vec<&str> = settings.iter().map(|of| of.backbone.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut found: BTreeMap<&str, _> = BTreeMap::new();
    let mut missing = None;
    for name in names {
        let mut fetched = |fetched| {
            observe(Event::Fit(fit::Event::Fetched(fetched)));
        };
        match backbones::named_with(name, &mut fetched) {
            Ok(backbone) => {
                found.insert(name, backbone);
            }
            Err(error) => {
                observe(Event::Missing { backbone: name, error: &error });
                missing.get_or_insert(error);
            }
        }
    }
    if let (true, Some(error)) = (found.is_empty(), missing) {
        return Err(error);
    }
    let mut plan = Vec::new();
    for setting in settings.into_iter().filter(|of| found.contains_key(of.backbone.as_str())) {
        let spec = found[setting.backbone.as_str()].spec();
        add(&mut plan, setting, spec, dataset, options)?;
    }
    let total: usize = plan.iter().map(|of| of.measurements.len()).sum();
    let detectors = plan.len();
    let mut done = 0;
    let mut all: BTreeMap<&Setting, Vec<Measurement>> = BTreeMap::new();
    // One backbone at a time, in the order of the rows.
    let mut loaded: Option<(&str, Remembered, Loaded)> = None;
    for (i, of) in plan.iter().enumerate() {
        let mut lacking = Vec::new();
        for (setting, key, file) in &of.measurements {
            match read_measurement(file, key)? {
                Some(measurement) => {
                    all.entry(setting).or_default().push(measurement);
                    done += 1;
                    observe(Event::Measured { setting, done, total });
                }
                None => lacking.push((*setting, key, file)),
            }
        }
        if lacking.is_empty() {
            continue;
        }
        let name = of.setting.backbone.as_str();
        if loaded.as_ref().is_none_or(|(of, ..)| *of != name) {
            let remembered = Remembered::new(found[name].clone(), options.memory);
            let on_cpu = Loaded::new(std::sync::Arc::new(remembered.clone()), Device::Cpu)?;
            loaded = Some((name, remembered, on_cpu));
        }
        let Some((_, remembered, backbone)) = &loaded else {
            unreachable!("it was just put there")
        };
        let (setting, category) = (of.setting, of.category.as_deref());
        let training = Event::Training { setting, category, number: i + 1, total: detectors };
        let Some(checkpoint) = trained(of, backbone, options, training, &mut observe)? else {
            return Ok(Swept::Stopped);
        };
        let detector = Detector::on(checkpoint, backbone)?.to_device(device)?;
        let mut measuring = Measuring {
            detector: detector.with_batch_size(options.batch)?,
            backbone,
            remembered,
            dataset: &of.dataset,
            batch: options.batch,
        };
        for (setting, key, file) in lacking {
            let Some(measurement) = measuring.measure(setting, &mut observe)? else {
                return Ok(Swept::Stopped);
            };
            write_measurement(file, key, &measurement)?;
            all.entry(setting).or_default().push(measurement);
            done += 1;
            if observe(Event::Measured { setting, done, total }) == Control::Stop && done < total {
                return Ok(Swept::Stopped);
            }
        }
    }
    let all = all.into_iter().map(|(setting, parts)| (setting.clone(), joined(parts))).collect();
    Ok(Swept::Done(Box::new(Results::new(sweep, dataset, options, &all))))
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
fn add<'s>(
    plan: &mut Vec<Detecting<'s>>,
    setting: &'s Setting,
    spec: &crate::backbones::BackboneSpec,
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
        let measurement = MeasurementKey {
            training: key.clone(),
            evaluations: setting.evaluations,
            method: setting.method,
            device: options.resources.device.to_string(),
            batch: options.batch,
        };
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

/// The detector of a folder, trained if it is not there; `None` if that was stopped.
fn trained(
    of: &Detecting,
    backbone: &Loaded,
    options: &SweepOptions,
    training: Event,
    observe: &mut dyn FnMut(Event) -> Control,
) -> Result<Option<Checkpoint>> {
    let [detector, state, settings] =
        ["detector.safetensors", "training.safetensors", "settings.json"]
            .map(|name| of.folder.join(name));
    if detector.exists() {
        observe(Event::Reused(&detector));
        return Checkpoint::load(&detector).map(Some);
    }
    observe(training);
    fs::create_dir_all(&of.folder).map_err(|e| Error::io(&of.folder, e))?;
    let json = serde_json::to_vec_pretty(&of.key).map_err(|e| Error::io(&settings, e.into()))?;
    crate::files::write_atomic(&settings, |file| std::io::Write::write_all(file, &json))?;
    let fitting = FitOptions::default()
        .recipe(of.key.recipe.clone())
        .backbone(of.setting.backbone.clone())
        .denoiser(of.setting.denoiser.clone())
        .steps(options.steps)
        .seed(options.seed)
        .resources(options.resources)
        .resume(state.exists())
        .state(Some(state.clone()))
        .compare(false);
    match fit_on(&of.dataset, backbone, &fitting, |event| observe(Event::Fit(event)))? {
        Fitted::Stopped(_) => Ok(None),
        Fitted::Detector(fitted) => {
            fitted.save(&detector)?;
            // What it could be resumed from is as large again.
            fs::remove_file(&state).map_err(|e| Error::io(&state, e))?;
            Checkpoint::load(&detector).map(Some)
        }
    }
}

/// A detector that is measured in one way after another.
struct Measuring<'a> {
    detector: Detector,
    /// On the CPU.
    backbone: &'a Loaded,
    remembered: &'a Remembered,
    dataset: &'a Dataset,
    batch: usize,
}

impl Measuring<'_> {
    /// `None` if it was stopped.
    fn measure(
        &mut self,
        setting: &Setting,
        observe: &mut dyn FnMut(Event) -> Control,
    ) -> Result<Option<Measurement>> {
        let measured = match setting.method {
            Method::Inversion => {
                if self.detector.config().recipe.inversion_steps != setting.evaluations {
                    self.detector.set_evaluations(setting.evaluations)?;
                    let observe = |event: fit::Event| observe(Event::Fit(event));
                    calibrate(&mut self.detector, self.dataset, observe)?;
                }
                self.inversion(setting, observe)
            }
            Method::Reconstruction { noise_step } => {
                self.reconstruction(setting, noise_step, observe)
            }
        };
        match measured {
            Err(Error::Io { source, .. }) if is_stop(&source) => Ok(None),
            measured => measured.map(Some),
        }
    }

    fn inversion(
        &self,
        setting: &Setting,
        observe: &mut dyn FnMut(Event) -> Control,
    ) -> Result<Measurement> {
        let tests = self.dataset.categories().iter().map(|category| category.test().len());
        let mut each = counted(setting, tests.sum(), observe);
        let mut categories = BTreeMap::new();
        for category in self.dataset.categories() {
            let measured = measure::category(&self.detector, self.dataset, category, &mut each)?;
            categories.insert(category.name.clone(), measured);
        }
        let images = measure::images(self.dataset, self.batch);
        let images_per_second = self.remembered.without(|| {
            measure::images_per_second(&images, |images| self.detector.score(images).map(drop))
        })?;
        Ok(Measurement { images_per_second, parameters: self.parameters()?, categories })
    }

    fn reconstruction(
        &self,
        setting: &Setting,
        noise_step: usize,
        observe: &mut dyn FnMut(Event) -> Control,
    ) -> Result<Measurement> {
        let steps = (setting.evaluations, noise_step);
        let device = self.detector.device();
        let checkpoint = self.detector.checkpoint();
        let mut of = Reconstruction::new(checkpoint, self.backbone, steps, device, self.batch)?;
        let total = self
            .dataset
            .categories()
            .iter()
            .enumerate()
            .map(|(i, category)| category.test().len() + of.held_out(category, i).len());
        let mut each = counted(setting, total.sum(), observe);
        let mut categories = BTreeMap::new();
        for (i, category) in self.dataset.categories().iter().enumerate() {
            let measured = of.category(self.dataset, i, &mut each)?;
            categories.insert(category.name.clone(), measured);
        }
        let (images, noise) = (measure::images(self.dataset, self.batch), of.noise(0)?);
        let images_per_second = self.remembered.without(|| {
            measure::images_per_second(&images, |images| of.errors(images, &noise).map(drop))
        })?;
        Ok(Measurement { images_per_second, parameters: self.parameters()?, categories })
    }

    fn parameters(&self) -> Result<usize> {
        Ok(denoisers::read(&self.detector.config().denoiser)?.len())
    }
}

/// Counts images for `observe`, which may stop.
fn counted<'a>(
    setting: &'a Setting,
    total: usize,
    observe: &'a mut dyn FnMut(Event) -> Control,
) -> impl FnMut(Result<()>) -> Result<()> + 'a {
    let mut done = 0;
    move |read| {
        if let Err(error) = read {
            observe(Event::Unreadable(&error));
        }
        done += 1;
        match observe(Event::Measuring { setting, done, total }) {
            Control::Continue => Ok(()),
            Control::Stop => Err(Error::io("", std::io::Error::new(ErrorKind::Interrupted, STOP))),
        }
    }
}

/// What tells an observer's wish from an interruption of the system's.
const STOP: &str = "the observer stops the sweep";

fn is_stop(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::Interrupted && error.to_string() == STOP
}

/// Those of one detector, or of the detectors of each category.
fn joined(parts: Vec<Measurement>) -> Measurement {
    let rates = parts.iter().map(|part| part.images_per_second);
    let images_per_second = rates.sum::<f64>() / parts.len().max(1) as f64;
    let parameters = parts.first().map_or(0, |part| part.parameters);
    let categories = parts.into_iter().flat_map(|part| part.categories).collect();
    Measurement { images_per_second, parameters, categories }
}
