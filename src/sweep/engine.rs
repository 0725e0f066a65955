//! Trains and measures what a sweep lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::kept::{FOLDERS, create_folder, read_measurement, write_measurement};
use super::measure::Measurement;
use super::measuring::Measuring;
use super::plan::{self, Detecting};
use super::results::Results;
use super::setting::{Setting, Sweep};
use super::trained::trained;
use crate::backbones::{self, Backbone, Loaded, Remembered};
use crate::data::Dataset;
use crate::detect::Detector;
use crate::error::{Error, Result};
use crate::fit::{self, Control, is_stop};
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
    /// How many images a second there are is taken, a batch after another.
    Timing {
        /// Of what.
        setting: &'a Setting,
    },
    /// An image cannot be read and is left out, now or when what is kept was measured. It is said once. Where a training
    /// leaves one out, that is an event of [`Event::Fit`].
    Unreadable(&'a Error),
    /// What is kept cannot be used, and is made again.
    Discarded {
        /// A detector, the state of a training or a measurement.
        path: &'a Path,
        /// Why.
        reason: &'a str,
    },
    /// Something the user should know.
    Warning(&'a str),
    /// The weights of a backbone cannot be had; its rows stay empty, and [`Results::notes`] says so.
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
    /// Stopped by the observer, with what is measured so far; the same call goes on.
    Stopped(Box<Results>),
}

/// What is measured of a sweep.
#[derive(Default)]
pub(super) struct Measured {
    pub all: BTreeMap<Setting, Vec<Measurement>>,
    /// Measurements that are there, and all of them.
    pub done: usize,
    pub total: usize,
    /// The backbones whose weights cannot be had, and why.
    pub missing: Vec<(String, String)>,
}

impl Measured {
    fn add(
        &mut self,
        setting: &Setting,
        measurement: Measurement,
        observe: &mut dyn FnMut(Event) -> Control,
    ) -> Result<()> {
        self.all.entry(setting.clone()).or_default().push(measurement);
        self.done += 1;
        let (done, total) = (self.done, self.total);
        let control = observe(Event::Measured { setting, done, total });
        // To stop after the last is to finish.
        if done < total { control.go_on() } else { Ok(()) }
    }
}

/// Runs a sweep on a data set. What is in the folder from before is used where everything that decides it is the same:
/// data, backbone, denoiser, recipe, steps and seed. What is damaged there is made again.
///
/// `observe` gets every [`Event`], and may stop the run at each: a training after its step, with its state saved; all
/// that goes through images after a batch of them. Weights that are fetched come to their end before.
///
/// # Errors
/// Before any work, [`Error::Argument`] of settings that there are not; [`Error::Dataset`] of a category without images to
/// train or to test with that can be read; [`Error::File`] if a folder is in the place of a file, or a file in that of a
/// folder. The first of reading
/// weights, if there are those of no backbone; those of [`fit`](crate::fit()), of detectors, and of files.
pub fn run(
    sweep: &Sweep,
    dataset: &Dataset,
    options: &SweepOptions,
    mut observe: impl FnMut(Event) -> Control,
) -> Result<Swept> {
    let mut said = BTreeSet::new();
    let mut observe = |event: Event| match &event {
        Event::Unreadable(e) | Event::Fit(fit::Event::Unreadable(e))
            if !said.insert(e.to_string()) =>
        {
            Control::Continue
        }
        _ => observe(event),
    };
    options.resources.device.require()?;
    let settings = sweep.settings();
    plan::check(&settings)?;
    let doubts = plan::check_data(dataset)?;
    for folder in FOLDERS {
        create_folder(&options.out.join(folder))?;
    }
    let mut measured = Measured::default();
    let mut ended = doubts.iter().try_for_each(|doubt| observe(Event::Warning(doubt)).go_on());
    if ended.is_ok() {
        ended = all(&settings, dataset, options, &mut measured, &mut observe);
    }
    let stopped = match ended {
        Err(e) if !is_stop(&e) => return Err(e),
        ended => ended.is_err(),
    };
    let results = Box::new(Results::new(sweep, dataset, options, &measured));
    Ok(if stopped { Swept::Stopped(results) } else { Swept::Done(results) })
}

/// Measures all settings.
fn all(
    settings: &[&Setting],
    dataset: &Dataset,
    options: &SweepOptions,
    measured: &mut Measured,
    observe: &mut dyn FnMut(Event) -> Control,
) -> Result<()> {
    let found = backbones(settings, measured, observe)?;
    let mut plan: Vec<Detecting> = Vec::new();
    for setting in settings {
        if let Some(backbone) = found.get(setting.backbone.as_str()) {
            plan::add(&mut plan, setting, backbone.spec(), dataset, options)?;
        }
    }
    measured.total = plan.iter().map(|of| of.measurements.len()).sum();
    for of in &mut plan {
        of.refuse_folders()?;
        of.measurements = kept(of, dataset, measured, observe)?;
    }
    // One backbone at a time, in the order of the rows.
    let mut loaded: Option<(&str, Remembered, Loaded)> = None;
    for (i, of) in plan.iter().enumerate().filter(|(_, of)| !of.measurements.is_empty()) {
        let name = of.setting.backbone.as_str();
        if loaded.as_ref().is_none_or(|(of, ..)| *of != name) {
            let remembered = Remembered::new(found[name].clone(), options.memory);
            let on_cpu = Loaded::new(Arc::new(remembered.clone()), Device::Cpu)?;
            loaded = Some((name, remembered, on_cpu));
        }
        let Some((_, remembered, backbone)) = &loaded else {
            unreachable!("it was just put there")
        };
        let (setting, category) = (of.setting, of.category.as_deref());
        let training = Event::Training { setting, category, number: i + 1, total: plan.len() };
        let (checkpoint, unreadable) = trained(of, backbone, options, training, observe)?;
        let detector = Detector::on(checkpoint, backbone)?.to_device(options.resources.device)?;
        let mut measuring = Measuring {
            detector: detector.with_batch_size(options.batch)?,
            backbone,
            remembered,
            dataset: &of.dataset,
            batch: options.batch,
            unreadable,
        };
        for (setting, key, file) in &of.measurements {
            let measurement = measuring.measure(setting, observe)?;
            write_measurement(file, key, &measurement)?;
            measured.add(setting, measurement, observe)?;
        }
    }
    Ok(())
}

/// The backbones of all settings whose weights can be had.
fn backbones(
    settings: &[&Setting],
    measured: &mut Measured,
    observe: &mut dyn FnMut(Event) -> Control,
) -> Result<BTreeMap<String, Arc<dyn Backbone>>> {
    let names: BTreeSet<&str> = settings.iter().map(|of| of.backbone.as_str()).collect();
    let mut found = BTreeMap::new();
    let mut missing = Vec::new();
    for name in names {
        let mut control = Control::Continue;
        let backbone = backbones::named_with(name, &mut |fetched| {
            if observe(Event::Fit(fit::Event::Fetched(fetched))) == Control::Stop {
                control = Control::Stop;
            }
        });
        control.go_on()?;
        match backbone {
            Ok(backbone) => {
                found.insert(name.to_string(), backbone);
            }
            Err(error) => missing.push((name, error)),
        }
    }
    if found.is_empty() && !missing.is_empty() {
        return Err(missing.swap_remove(0).1);
    }
    for (backbone, error) in missing {
        observe(Event::Missing { backbone, error: &error }).go_on()?;
        measured.missing.push((backbone.into(), error.to_string()));
    }
    Ok(found)
}

/// Takes the measurements of a detector that are there; those that are lacking are left.
fn kept<'s>(
    of: &mut Detecting<'s>,
    dataset: &Dataset,
    measured: &mut Measured,
    observe: &mut dyn FnMut(Event) -> Control,
) -> Result<Vec<plan::Needed<'s>>> {
    let mut lacking = Vec::new();
    for (setting, key, file) in std::mem::take(&mut of.measurements) {
        match read_measurement(&file, &key, dataset) {
            Ok(Some(measurement)) => {
                for of in &measurement.unreadable {
                    observe(Event::Unreadable(&of.error(dataset))).go_on()?;
                }
                measured.add(setting, measurement, observe)?;
                continue;
            }
            Ok(None) => {}
            Err(reason) => observe(Event::Discarded { path: &file, reason: &reason }).go_on()?,
        }
        lacking.push((setting, key, file));
    }
    Ok(lacking)
}
