//! How a denoiser is trained and used.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::diffusion::{Parameterisation, Process, Schedule, TIMESTEPS};
use crate::error::{Error, Result};
use crate::ops::AdamW;

/// Everything that decides how a detector is trained and how it scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// What the network predicts.
    pub parameterisation: Parameterisation,
    /// How much noise there is at each timestep.
    #[serde(default = "Schedule::linear", skip_serializing_if = "is_linear")]
    pub schedule: Schedule,
    /// Whether features are whitened first.
    pub whiten: bool,
    /// Whether [`fit`](crate::fit) learns what latents are like at each position of an image, so that
    /// maps are distances to that: [`Prior`](crate::gaussian::Prior).
    #[serde(default)]
    pub prior: bool,
    /// Training draws timesteps from the first to the second, both included, each as likely.
    #[serde(default = "all_timesteps")]
    pub timesteps: [usize; 2],
    /// The weight of the loss at each timestep.
    pub loss_weight: LossWeight,
    /// Images of one optimiser step.
    pub batch: usize,
    /// How long to train.
    pub steps: Steps,
    /// Learning rate of the first step.
    pub initial_rate: f64,
    /// Learning rate after the warm-up.
    pub peak_rate: f64,
    /// Learning rate of the last step.
    pub last_rate: f64,
    /// Part of the training in which the learning rate rises.
    pub warmup: f64,
    /// β₁ of AdamW.
    pub beta1: f64,
    /// β₂ of AdamW.
    pub beta2: f64,
    /// ε of AdamW.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradient norm to which gradients are clipped.
    pub clip: f64,
    /// The average of the parameters that is used for scoring.
    pub ema: Ema,
    /// Network evaluations of an inversion.
    pub inversion_steps: usize,
    /// The timestep of an inversion in one evaluation.
    pub single_timestep: usize,
    /// Timesteps of which [`fit`](crate::fit) makes the first the single evaluation's, or a later one at which
    /// synthetic defects stand out more by their scores and by AU-PRO; none to leave it as it is.
    #[serde(default)]
    pub candidates: Vec<usize>,
}

setters!(Recipe {
    name: String,
    parameterisation: Parameterisation,
    whiten: bool,
    prior: bool,
    timesteps: [usize; 2],
    loss_weight: LossWeight,
    batch: usize,
    steps: Steps,
    initial_rate: f64,
    peak_rate: f64,
    last_rate: f64,
    warmup: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    clip: f64,
    ema: Ema,
    inversion_steps: usize,
    single_timestep: usize,
    candidates: Vec<usize>,
});

/// Files say nothing of the schedule that there was before others.
fn is_linear(schedule: &Schedule) -> bool {
    *schedule == Schedule::linear()
}

fn all_timesteps() -> [usize; 2] {
    [0, TIMESTEPS - 1]
}

/// The weight of the loss at a timestep of noise level ᾱ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LossWeight {
    /// 1.
    Uniform,
    /// (4ᾱ(1−ᾱ))²: none where the target cannot be learnt, at either end.
    Middle,
}

impl LossWeight {
    /// The weight at noise level ᾱ.
    pub fn at(self, alpha: f64) -> f64 {
        match self {
            LossWeight::Uniform => 1.0,
            LossWeight::Middle => (4.0 * alpha * (1.0 - alpha)).powi(2),
        }
    }
}

/// The most steps for each image, where steps are for each category.
const STEPS_PER_IMAGE: u64 = 40;

/// How long to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Steps {
    /// This many optimiser steps.
    Fixed(u64),
    /// This many for each category, but at most 40 for each image: few would be learnt by heart.
    PerCategory(u64),
    /// So many passes over the training images, without the last partial batch of each.
    Epochs(u64),
}

/// The decay of the parameters' average after step i (0-based).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Ema {
    /// Always this.
    Constant(f64),
    /// min(limit, (i + 1)/(i + 20)).
    Ramp(f64),
}

impl Ema {
    /// The decay after step i.
    pub fn decay(self, i: u64) -> f64 {
        match self {
            Ema::Constant(decay) => decay,
            Ema::Ramp(limit) => limit.min((i + 1) as f64 / (i + 20) as f64),
        }
    }
}

impl Recipe {
    /// The names of the recipes.
    pub const NAMES: [&str; 2] = ["whitened", "paper"];

    /// Velocity prediction on whitened features: an untrained network already measures the
    /// Mahalanobis distance of a patch, and training adds what is not Gaussian. 600 short steps for each
    /// category do where the paper's recipe takes more than a hundred thousand. The network is evaluated once,
    /// at a noise level that hides what is too fine to be a defect, a low or a high one, and trained around
    /// both; what it finds is held against what it finds at the same place of normal images.
    pub fn whitened() -> Self {
        Self {
            name: "whitened".into(),
            parameterisation: Parameterisation::Velocity,
            whiten: true,
            prior: true,
            steps: Steps::PerCategory(600),
            initial_rate: 0.0,
            peak_rate: 2e-3,
            last_rate: 1e-4,
            warmup: 0.05,
            ema: Ema::Ramp(0.995),
            timesteps: [50, 400],
            inversion_steps: 1,
            single_timestep: 250,
            candidates: vec![250, 100],
            ..Self::paper()
        }
    }

    /// The same by another schedule, trained and inverted over all of its timesteps, a single evaluation at as much of it
    /// as before.
    pub fn with_schedule(self, schedule: Schedule) -> Self {
        let (was, is) = (self.schedule.timesteps(), schedule.timesteps());
        let single_timestep = self.single_timestep * is / was;
        let (timesteps, candidates) = ([0, is - 1], Vec::new());
        Self { schedule, timesteps, single_timestep, candidates, ..self }
    }

    /// The same with a single evaluation of the network, at `timestep`, and trained around it: from a
    /// quarter to twice of it.
    pub fn with_timestep(self, timestep: usize) -> Self {
        let timesteps = [timestep / 4, (2 * timestep).min(self.schedule.timesteps() - 1)];
        let candidates = Vec::new();
        Self { timesteps, inversion_steps: 1, single_timestep: timestep, candidates, ..self }
    }

    /// The same with an inversion of so many evaluations, over all timesteps and trained on all of them: the
    /// velocity, which cannot be learnt at either end, with less weight there.
    pub fn with_evaluations(self, evaluations: usize) -> Self {
        let loss_weight = match self.parameterisation {
            Parameterisation::Velocity => LossWeight::Middle,
            _ => self.loss_weight,
        };
        let (timesteps, candidates) = ([0, self.schedule.timesteps() - 1], Vec::new());
        Self { timesteps, inversion_steps: evaluations, candidates, loss_weight, ..self }
    }

    /// ε-prediction on raw features with the constants of the method's reference implementation.
    pub fn paper() -> Self {
        let AdamW { beta1, beta2, eps, weight_decay, .. } = AdamW::default();
        Self {
            name: "paper".into(),
            parameterisation: Parameterisation::Epsilon,
            schedule: Schedule::linear(),
            whiten: false,
            prior: false,
            timesteps: all_timesteps(),
            loss_weight: LossWeight::Uniform,
            batch: 8,
            steps: Steps::Epochs(300),
            initial_rate: 1e-6,
            peak_rate: 5e-5,
            last_rate: 1e-6,
            warmup: 40.0 / 300.0,
            beta1,
            beta2,
            eps,
            weight_decay,
            clip: 1.0,
            ema: Ema::Constant(0.999),
            inversion_steps: 3,
            single_timestep: 100,
            candidates: Vec::new(),
        }
    }

    /// The recipe of this name.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is none.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "whitened" => Ok(Self::whitened()),
            "paper" => Ok(Self::paper()),
            _ => Err(Error::argument("Recipe", "name", Self::NAMES.join(" or "), name)),
        }
    }

    /// The diffusion process that the network is of.
    pub fn process(&self) -> Process {
        Process { schedule: self.schedule.clone(), parameterisation: self.parameterisation }
    }

    /// The optimiser steps of a training on `images` images of some `categories`.
    pub fn training_steps(&self, images: usize, categories: usize) -> u64 {
        match self.steps {
            Steps::Fixed(steps) => steps,
            Steps::PerCategory(steps) => {
                let all = steps.saturating_mul(categories as u64);
                all.min(STEPS_PER_IMAGE * images.max(1) as u64)
            }
            Steps::Epochs(epochs) => {
                epochs.saturating_mul((images / self.batch.max(1)).max(1) as u64)
            }
        }
    }

    /// What is other in `now`: here and there, and the option of `train` for what is here, if there is one.
    pub(super) fn difference(&self, now: &Self) -> (String, String, Option<String>) {
        if self.name != now.name {
            return (self.name.clone(), now.name.clone(), Some(format!("--recipe {}", self.name)));
        }
        if let (Some((ours, option)), Some((theirs, _))) = (self.evaluated(), now.evaluated()) {
            return (ours, theirs, Some(option));
        }
        let [ours, theirs] = [self, now].map(|recipe| match serde_json::to_value(recipe) {
            Ok(Value::Object(fields)) => fields,
            other => unreachable!("a recipe is a JSON object, got {other:?}"),
        });
        let mut differ: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        differ.retain(|name| ours.get(*name) != theirs.get(*name));
        let text = |fields: &Map<String, Value>, schedule: String| {
            let texts = differ.iter().map(|name| match (&name[..], fields.get(*name)) {
                // As numbers it is long.
                ("schedule", _) | (_, None) => schedule.clone(),
                (name, Some(value)) => format!("{name} {value}"),
            });
            texts.collect::<Vec<_>>().join(", ")
        };
        let ours = text(&ours, format!("{:?}", self.schedule));
        (ours, text(&theirs, "another schedule".into()), None)
    }

    /// How a recipe of this name that differs in nothing else is evaluated, and the option of `train` for it.
    fn evaluated(&self) -> Option<(String, String)> {
        let named = Self::named(&self.name).ok()?;
        let (steps, timestep) = (self.inversion_steps, self.single_timestep);
        if *self == named {
            let option = "without --timestep and --evaluations".into();
            Some(("evaluated as its name has it".into(), option))
        } else if *self == named.clone().with_timestep(timestep) {
            let evaluated = format!("evaluated once at timestep {timestep}");
            Some((evaluated, format!("--timestep {timestep}")))
        } else if *self == named.with_evaluations(steps) {
            Some((format!("evaluated {steps} times"), format!("--evaluations {steps}")))
        } else {
            None
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let e =
            |arg, expected: &str, got: String| Err(Error::argument("Recipe", arg, expected, got));
        if !(1..=4096).contains(&self.batch) {
            return e("batch", "in 1..=4096", self.batch.to_string());
        }
        let timesteps = self.schedule.timesteps();
        if !(1..=timesteps).contains(&self.inversion_steps) {
            let expected = format!("in 1..={timesteps}");
            return e("inversion_steps", &expected, self.inversion_steps.to_string());
        }
        let below = format!("below {timesteps}");
        if self.single_timestep >= timesteps {
            return e("single_timestep", &below, self.single_timestep.to_string());
        }
        if let Some(bad) = self.candidates.iter().find(|t| **t >= timesteps) {
            return e("candidates", &below, bad.to_string());
        }
        let [first, last] = self.timesteps;
        if first > last || last >= timesteps {
            let expected = format!("ascending and {below}");
            return e("timesteps", &expected, format!("{first} to {last}"));
        }
        for (name, value) in [
            ("initial_rate", self.initial_rate),
            ("peak_rate", self.peak_rate),
            ("last_rate", self.last_rate),
            ("warmup", self.warmup),
            ("weight_decay", self.weight_decay),
            ("clip", self.clip),
        ] {
            if !(0.0..=1e9).contains(&value) {
                return e(name, "in 0..=1e9", value.to_string());
            }
        }
        // Parameters without a gradient divide by it.
        if !(1e-20..=1.0).contains(&self.eps) {
            return e("eps", "in 1e-20..=1", self.eps.to_string());
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return e(name, "in 0..1", value.to_string());
            }
        }
        let (Ema::Constant(decay) | Ema::Ramp(decay)) = self.ema;
        if !(0.0..=1.0).contains(&decay) {
            return e("ema", "a decay in 0..=1", decay.to_string());
        }
        Ok(())
    }
}
