//! From a folder of good images to a calibrated detector.

mod compare;
mod learn;
mod synthetic;

use std::cell::Cell;
use std::path::PathBuf;

use crate::backbones::{self, Loaded};
use crate::checkpoint::{Recipe, TrainingConfig, TrainingState};
use crate::data::{Dataset, load_image};
use crate::denoisers::{self, Recompute, Use};
use crate::detect::Detector;
use crate::device::Plan;
use crate::error::{Error, Result};
use crate::tensor::{Device, Tensor};
use crate::train::{Resources, StepReport, Trainer, divide, extract_features};
use crate::weights::Fetched;

pub use compare::Comparison;
use learn::{Good, learn, learn_together};
use synthetic::Synthetic;

/// How to [`fit`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FitOptions {
    /// How to train.
    pub recipe: Recipe,
    /// The name of the backbone ([`backbones::named`]).
    pub backbone: String,
    /// The denoiser: the name of a preset ([`denoisers::presets`]).
    pub denoiser: String,
    /// Optimiser steps; `None` is the recipe's.
    pub steps: Option<u64>,
    /// The seed of all random numbers.
    pub seed: u64,
    /// Where to train and to calibrate, and how the training fits there.
    pub resources: Resources,
    /// Where the training state is saved, so that a run that ends early can go on.
    pub state: Option<PathBuf>,
    /// Whether to go on from that state.
    pub resume: bool,
    /// Steps after which the state is saved again; 0 saves it at the end only.
    pub save_every: u64,
    /// Whether to put simpler methods on the same features beside the detector ([`Comparison`]).
    pub compare: bool,
}

setters!(FitOptions {
    recipe: Recipe,
    backbone: String,
    denoiser: String,
    steps: Option<u64>,
    seed: u64,
    resources: Resources,
    state: Option<PathBuf>,
    resume: bool,
    save_every: u64,
    compare: bool,
});

impl Default for FitOptions {
    /// The whitened recipe, EfficientNet-Lite0 and the small denoiser on the CPU, seed 0, no state, which would be
    /// saved every 500 steps; compared with simpler methods.
    fn default() -> Self {
        Self {
            recipe: Recipe::whitened(),
            backbone: "efficientnet-lite0".into(),
            denoiser: "small".into(),
            steps: None,
            seed: 0,
            resources: Resources::default(),
            state: None,
            resume: false,
            save_every: 500,
            compare: true,
        }
    }
}

/// What [`fit`] has done or found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// So much of the backbone's weights is fetched, where they were not at hand.
    Fetched(Fetched),
    /// The features of `done` of `total` images to train on are computed.
    Features {
        /// Images done.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// The memory of the training is taken.
    Plan {
        /// Its bytes by purpose.
        plan: &'a Plan,
        /// What the backward pass computes again.
        recompute: Recompute,
    },
    /// An optimiser step of `total` is done.
    Step {
        /// What it did.
        report: StepReport,
        /// All steps of the run.
        total: u64,
    },
    /// `done` of `total` images to learn the prior from, to calibrate with and to choose the timestep by are
    /// measured, at each timestep.
    Calibration {
        /// Images done.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// `done` of `total` images that simpler methods are fitted to, or that they are compared on, are seen.
    Comparison {
        /// Images done.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// The detector is done; how it does beside simpler methods.
    Compared(&'a Comparison),
    /// An image cannot be read and is left out.
    Unreadable(&'a Error),
    /// Something the user should know.
    Warning(&'a str),
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Stop after this step; the state is saved.
    Stop,
}

/// How [`fit`] ended.
#[derive(Debug)]
pub enum Fitted {
    /// With a calibrated detector, on the device that it was trained on.
    Detector(Box<Detector>),
    /// Stopped after this many steps. With [`FitOptions::state`], it can be resumed.
    Stopped(u64),
}

/// Trains one detector on the good images of all categories of `dataset`, keeping some of each
/// category back to calibrate with: their scores are those of a network that has not seen them. What latents of
/// normal images are like at each position is learnt from all of them, each held against others:
/// [`Detector::learn_prior`]. Defects painted into the images held back
/// ([`paint_defect`](crate::data::paint_defect)) choose between the recipe's
/// [`candidates`](Recipe::candidates) where there are fewer than 100 images of a category, in the mean.
///
/// `observe` gets every [`Event`], and may stop the run after a step.
///
/// ```no_run
/// use invad::{Control, FitOptions, Fitted, data::Dataset, fit};
///
/// # fn main() -> invad::Result<()> {
/// let good = Dataset::open("photos/of/good/parts", &[])?;
/// let fitted = fit(&good, &FitOptions::default(), |_| Control::Continue)?;
/// if let Fitted::Detector(detector) = fitted {
///     detector.save("detector.safetensors")?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Dataset`] if a category has no good images that can be read; [`Error::NonFinite`] if
/// training diverges (the last good state is saved); [`Error::Argument`] if there is no backbone or no denoiser
/// of the name, or `resume` is asked for with other settings or images than before; those of reading and writing files.
pub fn fit(
    dataset: &Dataset,
    options: &FitOptions,
    mut observe: impl FnMut(Event) -> Control,
) -> Result<Fitted> {
    options.resources.device.require()?;
    // Before the weights of a backbone are read.
    require_state(options)?;
    let backbone = backbones::named_with(&options.backbone, &mut |fetched| {
        observe(Event::Fetched(fetched));
    })?;
    fit_on(dataset, &Loaded::new(backbone, Device::Cpu)?, options, observe)
}

/// The same with a backbone that is loaded already, on the CPU, whatever name `options` have.
///
/// # Errors
/// As [`fit`].
pub fn fit_on(
    dataset: &Dataset,
    backbone: &Loaded,
    options: &FitOptions,
    mut observe: impl FnMut(Event) -> Control,
) -> Result<Fitted> {
    options.resources.device.require()?;
    require_state(options)?;
    let saved = match &options.state {
        Some(path) if options.resume => Some(TrainingState::load(path)?),
        _ => None,
    };
    let spec = backbone.spec();
    let denoiser = denoisers::preset(&options.denoiser, spec.features())?;
    let Resources { device, .. } = options.resources;
    denoiser.require(device, Use::Training, options.resources.precision_used())?;
    options.recipe.check()?;
    let good = good_images(dataset, options.seed, &mut observe)?;
    let features = features(dataset, backbone, &good, &mut observe)?;
    let recipe = options.recipe.clone();
    let steps = recipe.training_steps(features.shape()[0], good.len());
    let config = TrainingConfig {
        denoiser: denoiser.id(),
        backbone: spec.into(),
        seed: options.seed,
        steps: options.steps.unwrap_or(steps),
        categories: good.iter().map(|of| of.category.to_string()).collect(),
        recipe,
    };
    let mut trainer = match saved {
        Some(state) => Trainer::resume(state, &config, features, options.resources)?,
        None => Trainer::new(config, features, options.resources)?,
    };
    observe(Event::Plan { plan: trainer.plan(), recompute: trainer.recompute() });

    if !train(&mut trainer, options, &mut observe)? {
        return Ok(Fitted::Stopped(trainer.step_count()));
    }

    let device = options.resources.device;
    let mut detector = Detector::on(trainer.into_checkpoint()?, backbone)?.to_device(device)?;
    let side = spec.image_size;
    let chosen = detector.config().recipe.candidates.len() > 1;
    let paint = |of: &Good| Synthetic::paint(of.category, &of.held_out(), side, options.seed);
    let painted = match options.compare || chosen {
        true => good.iter().map(paint).collect::<Result<Vec<_>>>()?,
        false => Vec::new(),
    };
    let told = learn(&mut detector, &good, &painted, &mut observe)?;
    // Of a category with few images it was said before the training.
    for of in good.iter().filter(|of| !of.split.few) {
        for doubt in detector.doubts(Some(of.category)) {
            observe(Event::Warning(&doubt));
        }
    }
    if !options.compare {
        return Ok(Fitted::Detector(Box::new(detector)));
    }
    let comparison = Comparison::of(told, backbone, &good, &painted, &mut observe)?;
    observe(Event::Compared(&comparison));
    for warning in comparison.warnings() {
        observe(Event::Warning(&warning));
    }
    Ok(Fitted::Detector(Box::new(detector)))
}

fn require_state(options: &FitOptions) -> Result<()> {
    match options.resume && options.state.is_none() {
        true => Err(Error::argument("fit", "resume", "with the file of a state", "no `state`")),
        false => Ok(()),
    }
}

/// Has a detector learn from the good images of `dataset` what normal latents are like, and calibrates it, as [`fit`]
/// does after the training: what is to follow [`Detector::set_evaluations`].
///
/// # Errors
/// As [`fit`].
pub fn calibrate(
    detector: &mut Detector,
    dataset: &Dataset,
    mut observe: impl FnMut(Event) -> Control,
) -> Result<()> {
    let good = good_images(dataset, detector.config().seed, &mut |_| Control::Continue)?;
    let (mut done, total) = (0, good.iter().map(|of| of.samples.len()).sum());
    learn_together(detector, &good, || {
        done += 1;
        observe(Event::Calibration { done, total });
    })
}

/// The good images of each category, some of them to be held out.
fn good_images<'d>(
    dataset: &'d Dataset,
    seed: u64,
    observe: &mut dyn FnMut(Event) -> Control,
) -> Result<Vec<Good<'d>>> {
    let mut good = Vec::new();
    for (i, category) in dataset.categories().iter().enumerate() {
        let (name, samples) = (&category.name, category.good());
        if category.train().is_empty() {
            let reason = format!("category `{name}` has no good images; put some in train/good");
            return Err(Error::dataset(dataset.root(), reason));
        }
        let split = divide(category, i as u64, seed);
        if split.few {
            let (images, what, enough) = match category.validation().len() {
                0 => (samples.len(), "good images", 16),
                calibrate => (calibrate, "images to calibrate with", 8),
            };
            observe(Event::Warning(&format!(
                "category `{name}` has {images} {what}: its threshold cannot be relied on below {enough}"
            )));
        }
        good.push(Good { category: name, samples, split });
    }
    Ok(good)
}

/// The features of the images to train on, once there are images of every category to train on and to hold out.
fn features(
    dataset: &Dataset,
    backbone: &Loaded,
    good: &[Good],
    observe: &mut dyn FnMut(Event) -> Control,
) -> Result<Tensor> {
    let train: Vec<_> = good.iter().flat_map(Good::trained).collect();

    let (done, total) = (Cell::new(0), train.len());
    let (mut unreadable, mut lost) = (Vec::new(), Vec::new());
    let features = extract_features(
        backbone,
        &train,
        |e| {
            unreadable.push(e);
            lost.push(done.get());
        },
        || {
            done.set(done.get() + 1);
            observe(Event::Features { done: done.get(), total });
        },
    )?;
    for e in &unreadable {
        observe(Event::Unreadable(e));
    }
    if features.is_empty() {
        return Err(Error::dataset(dataset.root(), "none of the images to train on can be read"));
    }
    let mut first = 0;
    for Good { category, split, .. } in good {
        let end = first + split.train.len();
        if lost.iter().filter(|&&i| (first..end).contains(&i)).count() == split.train.len() {
            let reason = format!("category `{category}`: no image to train on can be read");
            return Err(Error::dataset(dataset.root(), reason));
        }
        first = end;
    }
    for of in good {
        let held_out = of.held_out();
        if !held_out.iter().any(|file| load_image(file).is_ok()) {
            let category = of.category;
            let reason = format!("category `{category}`: no image to calibrate with can be read");
            return Err(Error::dataset(dataset.root(), reason));
        }
    }
    Ok(features)
}

/// Trains to the end; false if it was stopped before.
fn train(
    trainer: &mut Trainer,
    options: &FitOptions,
    observe: &mut dyn FnMut(Event) -> Control,
) -> Result<bool> {
    let save = |trainer: &Trainer| match &options.state {
        Some(path) => trainer.state().save(path),
        None => Ok(()),
    };
    let total = trainer.config().steps;
    while !trainer.is_done() {
        let report = match trainer.step() {
            Ok(report) => report,
            Err(e) => {
                save(trainer)?;
                return Err(e);
            }
        };
        let control = observe(Event::Step { report, total });
        if control == Control::Stop && !trainer.is_done() {
            save(trainer)?;
            return Ok(false);
        }
        if report.step.is_multiple_of(options.save_every) || trainer.is_done() {
            save(trainer)?;
        }
    }
    Ok(true)
}
