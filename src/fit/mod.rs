//! From a folder of good images to a calibrated detector.

mod compare;
mod control;
mod learn;
mod quantise;
mod synthetic;

use std::path::PathBuf;

use crate::backbones::{self, Loaded};
use crate::checkpoint::{Recipe, TrainingConfig, TrainingState};
use crate::data::{Category, Dataset, load_image};
use crate::denoisers::{self, Recompute, Use};
use crate::detect::Detector;
use crate::device::Plan;
use crate::error::{Error, Result};
use crate::tensor::{Device, Tensor};
use crate::train::{Resources, StepReport, Trainer, divide, extract_features};
use crate::types::{Precision, Products};
use crate::weights::Fetched;

pub use compare::Comparison;
pub use control::Control;
pub(crate) use control::is_stop;
use learn::{Good, learn, learn_together};
use quantise::multiply;
pub use quantise::quantise;
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
    /// What the detector is to multiply, if that harms no score: see [`quantise`]. To train is the
    /// same with and without.
    pub products: Option<Products>,
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
    products: Option<Products>,
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
            products: None,
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

/// Who is told of events, and ends the work with an error.
type Observe<'a> = dyn FnMut(Event) -> Result<()> + 'a;

/// How [`fit`] ended.
#[derive(Debug)]
pub enum Fitted {
    /// With a calibrated detector, on the device that it was trained on.
    Detector(Box<Detector>),
    /// Stopped after this many steps. From the first one on it can be resumed, with [`FitOptions::state`].
    Stopped(u64),
}

/// Trains one detector on the good images of all categories of `dataset`, keeping some of each
/// category back to calibrate with: their scores are those of a network that has not seen them. What latents of
/// normal images are like at each position is learnt from all of them, each held against others:
/// [`Detector::learn_prior`]. Defects painted into the images held back
/// ([`paint_defect`](crate::data::paint_defect)) choose between the recipe's
/// [`candidates`](Recipe::candidates) where there are fewer than 100 images of a category, in the mean.
///
/// `observe` gets every [`Event`], and may stop the run at each until the detector is done: after a step, or a batch of
/// images whose features are computed, that calibrate or that are compared. What was stopped after its last step is
/// calibrated when it is resumed.
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
    // Before the weights of a backbone are read.
    check(options)?;
    let mut control = Control::Continue;
    let backbone = backbones::named_with(&options.backbone, &mut |fetched| {
        if observe(Event::Fetched(fetched)) == Control::Stop {
            control = Control::Stop;
        }
    })?;
    if control == Control::Stop {
        return Ok(Fitted::Stopped(0));
    }
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
    let mut steps = 0;
    let mut observe = |event: Event| observe(event).go_on();
    match detector(dataset, backbone, options, &mut steps, &mut observe) {
        Err(e) if is_stop(&e) => Ok(Fitted::Stopped(steps)),
        fitted => fitted.map(|detector| Fitted::Detector(Box::new(detector))),
    }
}

/// What [`fit_on`] returns unless it is stopped, after so many steps.
fn detector(
    dataset: &Dataset,
    backbone: &Loaded,
    options: &FitOptions,
    done: &mut u64,
    observe: &mut Observe,
) -> Result<Detector> {
    check(options)?;
    let saved = match &options.state {
        Some(path) if options.resume => Some(TrainingState::load(path)?),
        _ => None,
    };
    *done = saved.as_ref().map_or(0, |state| state.step);
    let spec = backbone.spec();
    let denoiser = denoisers::preset(&options.denoiser, spec.features())?;
    let Resources { device, .. } = options.resources;
    denoiser.require(device, Use::Training, options.resources.precision_used())?;
    let good = good_images(dataset, options.seed, observe)?;
    let config = |steps| TrainingConfig {
        denoiser: denoiser.id(),
        backbone: spec.into(),
        seed: options.seed,
        steps,
        categories: good.iter().map(|of| of.category.to_string()).collect(),
        recipe: options.recipe.clone(),
    };
    if let Some(state) = &saved {
        // How many images can be read is not known yet.
        state.config.require_same(&config(options.steps.unwrap_or(state.config.steps)))?;
    }
    let features = features(dataset, backbone, &good, observe)?;
    let steps = options.recipe.training_steps(features.shape()[0], good.len());
    let config = config(options.steps.unwrap_or(steps));
    let mut trainer = match saved {
        Some(state) => Trainer::resume(state, &config, features, options.resources)?,
        None => Trainer::new(config, features, options.resources)?,
    };
    observe(Event::Plan { plan: trainer.plan(), recompute: trainer.recompute() })?;
    train(&mut trainer, options, done, observe)?;

    let device = options.resources.device;
    let mut detector = Detector::on(trainer.into_checkpoint()?, backbone)?.to_device(device)?;
    let side = spec.image_size;
    let chosen = detector.config().recipe.candidates.len() > 1;
    let paint = |of: &Good| Synthetic::paint(of.category, &of.held_out(), side, options.seed);
    let painted = match options.compare || chosen {
        true => good.iter().map(paint).collect::<Result<Vec<_>>>()?,
        false => Vec::new(),
    };
    let told = learn(&mut detector, &good, &painted, observe)?;
    let comparison = match options.compare {
        true => Some(Comparison::of(told, backbone, &good, &painted, observe)?),
        false => None,
    };
    if let Some(products) = options.products {
        multiply(&mut detector, products, &good, observe)?;
    }
    // The detector is done: to stop from here on is to finish.
    let mut say = |event: Event| observe(event).unwrap_or_default();
    // Of a category with few images it was said before the training.
    for of in good.iter().filter(|of| !of.split.few) {
        detector.doubts(Some(of.category)).iter().for_each(|doubt| say(Event::Warning(doubt)));
    }
    if let Some(comparison) = &comparison {
        say(Event::Compared(comparison));
        comparison.warnings().iter().for_each(|warning| say(Event::Warning(warning)));
    }
    Ok(detector)
}

/// What needs neither backbone nor images to be refused.
fn check(options: &FitOptions) -> Result<()> {
    let FitOptions { recipe, resources, products, .. } = options;
    resources.device.require()?;
    Precision::of(resources.device).with_products(*products).require("fit", resources.device)?;
    recipe.check()?;
    resources.check(recipe.batch)?;
    options.steps.map_or(Ok(()), TrainingConfig::check_steps)?;
    match options.resume && options.state.is_none() {
        true => Err(Error::argument("fit", "resume", "with the file of a state", "no `state`")),
        false => Ok(()),
    }
}

/// Has a detector learn from the good images of `dataset` what normal latents are like, and calibrates it, as [`fit`]
/// does after the training: what is to follow [`Detector::set_evaluations`]. [`Control::Stop`] is returned where `observe`
/// stopped it, after a batch of images; then it is to be done again.
///
/// # Errors
/// As [`fit`].
pub fn calibrate(
    detector: &mut Detector,
    dataset: &Dataset,
    mut observe: impl FnMut(Event) -> Control,
) -> Result<Control> {
    let good = good_images(dataset, detector.config().seed, &mut |_| Ok(()))?;
    let (mut done, total) = (0, good.iter().map(|of| of.samples.len()).sum());
    let learnt = learn_together(detector, &good, |_, _| {
        done += 1;
        observe(Event::Calibration { done, total }).go_on()
    });
    match learnt {
        Err(e) if is_stop(&e) => Ok(Control::Stop),
        learnt => learnt.map(|()| Control::Continue),
    }
}

/// An error of a category that has no images to train with.
pub(crate) fn require_good(dataset: &Dataset, category: &Category) -> Result<()> {
    if !category.train().is_empty() {
        return Ok(());
    }
    let name = &category.name;
    let reason = format!("category `{name}` has no good images; put some in train/good");
    Err(Error::dataset(dataset.root(), reason))
}

/// The good images of each category, some of them to be held out.
fn good_images<'d>(
    dataset: &'d Dataset,
    seed: u64,
    observe: &mut Observe,
) -> Result<Vec<Good<'d>>> {
    let mut good = Vec::new();
    for (i, category) in dataset.categories().iter().enumerate() {
        let (name, samples) = (&category.name, category.good());
        require_good(dataset, category)?;
        let split = divide(category, i as u64, seed);
        if split.few {
            let (images, what, enough) = match category.validation().len() {
                0 => (samples.len(), "good images", 16),
                calibrate => (calibrate, "images to calibrate with", 8),
            };
            observe(Event::Warning(&format!(
                "category `{name}` has {images} {what}: its threshold cannot be relied on below {enough}"
            )))?;
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
    observe: &mut Observe,
) -> Result<Tensor> {
    let train: Vec<_> = good.iter().flat_map(Good::trained).collect();

    let (mut done, total) = (0, train.len());
    let (mut unreadable, mut lost) = (Vec::new(), Vec::new());
    let features = extract_features(backbone, &train, |_, read| {
        if let Err(e) = read {
            unreadable.push(e);
            lost.push(done);
        }
        done += 1;
        observe(Event::Features { done, total })
    })?;
    for e in &unreadable {
        observe(Event::Unreadable(e))?;
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

/// Trains to the end, and has the state saved wherever it ends. `done` are the steps until then.
fn train(
    trainer: &mut Trainer,
    options: &FitOptions,
    done: &mut u64,
    observe: &mut Observe,
) -> Result<()> {
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
        *done = report.step;
        let told = observe(Event::Step { report, total });
        if told.is_err() || report.step.is_multiple_of(options.save_every) || trainer.is_done() {
            save(trainer)?;
        }
        told?;
    }
    Ok(())
}
