//! The training state.

use std::fmt::Display;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file;
use super::{BackboneId, LossScale, Recipe};
use crate::denoisers::{self, DenoiserId};
use crate::error::{Error, Result};
use crate::gaussian::Whitening;
use crate::tensor::Tensor;

const FORMAT: &str = "invad-training";
/// From 4 on files have a checksum.
const VERSION: u32 = 4;

/// Everything that decides a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// How to train.
    pub recipe: Recipe,
    /// The denoiser.
    pub denoiser: DenoiserId,
    /// What makes the features.
    pub backbone: BackboneId,
    /// The seed of all random numbers.
    pub seed: u64,
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// The categories trained on, sorted.
    pub categories: Vec<String>,
}

/// Steps are numbered in 31 bits where random numbers and moments are addressed by them.
const MAX_STEPS: u64 = i32::MAX as u64;

impl TrainingConfig {
    pub(crate) fn check(&self) -> Result<()> {
        self.recipe.check()?;
        Self::check_steps(self.steps)
    }

    pub(crate) fn check_steps(steps: u64) -> Result<()> {
        match (1..=MAX_STEPS).contains(&steps) {
            true => Ok(()),
            false => Err(Error::argument("Trainer", "steps", format!("in 1..={MAX_STEPS}"), steps)),
        }
    }

    /// Whether a run that was begun with this may go on with `now`: an error names the first setting that is another, and
    /// the option of `train` for what it was.
    pub(crate) fn require_same(&self, now: &Self) -> Result<()> {
        let (backbone, new) = (&self.backbone, &now.backbone);
        let (recipe, new_recipe, of_recipe) = self.recipe.difference(&now.recipe);
        let [categories, new_categories] = [self, now].map(|config| config.categories.join(", "));
        let option = |name: &str, value: &dyn Display| Some(format!("--{name} {value}"));
        let settings: [(_, [&dyn ToString; 2], _); 8] = [
            // The first, since the denoiser follows.
            ("backbone", [&backbone.name, &new.name], option("backbone", &backbone.name)),
            (
                "backbone weights",
                [&backbone.hash, &new.hash],
                Some("have INVAD_WEIGHTS name the folder with that file".into()),
            ),
            ("image size", [&backbone.image_size, &new.image_size], None),
            ("recipe", [&recipe, &new_recipe], of_recipe),
            (
                "denoiser",
                [&self.denoiser, &now.denoiser],
                self.preset().and_then(|preset| option("preset", &preset)),
            ),
            ("seed", [&self.seed, &now.seed], option("seed", &self.seed)),
            ("steps", [&self.steps, &now.steps], option("steps", &self.steps)),
            (
                "category",
                [&categories, &new_categories],
                option("category", &self.categories.join(" ")),
            ),
        ];
        for (setting, values, option) in settings {
            let [was, is] = values.map(ToString::to_string);
            if was != is {
                let option = option.map(|option| format!(" ({option})")).unwrap_or_default();
                let expected = format!("{was}, as when the training state was saved{option}");
                return Err(Error::argument("resume", setting, expected, is));
            }
        }
        Ok(())
    }

    /// The preset that its denoiser is.
    fn preset(&self) -> Option<&'static str> {
        let features = denoisers::read(&self.denoiser).ok()?.features();
        let is_it = |name: &&str| {
            denoisers::preset(name, features).is_ok_and(|preset| preset.id() == self.denoiser)
        };
        denoisers::presets().into_iter().find(is_it)
    }
}

/// A training run between two steps. The random streams are addressed by the step, so that it is
/// their position as well.
#[derive(Debug)]
pub struct TrainingState {
    /// What decides the run.
    pub config: TrainingConfig,
    /// Steps completed.
    pub step: u64,
    /// SHA-256 of the features, in hexadecimal.
    pub features: String,
    /// The factor of the loss, of a run on a GPU.
    pub loss_scale: Option<LossScale>,
    /// The denoiser's parameters.
    pub parameters: Tensor,
    /// Their average; on the host, if it is brought up to date there now and then.
    pub ema: Tensor,
    /// AdamW's first moment.
    pub m: Tensor,
    /// AdamW's second moment.
    pub v: Tensor,
    /// The whitening, where the recipe has one.
    pub whitening: Option<Whitening>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    config: TrainingConfig,
    step: u64,
    features: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_scale: Option<LossScale>,
}

impl TrainingState {
    /// Writes the file, aside first and then renamed.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let Self { config, step, features, loss_scale, .. } = self;
        let (config, features) = (config.clone(), features.clone());
        let header = Header { config, step: *step, features, loss_scale: *loss_scale };
        let mut tensors = vec![
            ("parameters".into(), self.parameters.view()),
            ("ema".into(), self.ema.view()),
            ("m".into(), self.m.view()),
            ("v".into(), self.v.view()),
        ];
        if let Some(whitening) = &self.whitening {
            let (weight, bias) = whitening.parts();
            tensors.push(("whitening.weight".into(), weight.view()));
            tensors.push(("whitening.bias".into(), bias.view()));
        }
        file::write(path.as_ref(), FORMAT, VERSION, &header, tensors)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if it cannot be read; [`Error::File`](crate::Error::File)
    /// if it is damaged, of another format or version, or does not agree with itself.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let mut file: file::Contents<Header> = file::read(path.as_ref(), FORMAT, VERSION)?;
        let Header { config, step, features, loss_scale } = file.config.clone();
        config.check().map_err(|e| file.fail(e.to_string()))?;
        let network = denoisers::read(&config.denoiser).map_err(|e| file.fail(e.to_string()))?;
        if step > config.steps {
            return Err(file.fail(format!("it is at step {step} of {}", config.steps)));
        }
        if loss_scale.is_some_and(|scale| !scale.fits(step)) {
            return Err(file.fail(format!("its loss scale {loss_scale:?} is out of range")));
        }
        let mut take = |name| file.take(name, &[network.len()]);
        let (parameters, ema) = (take("parameters")?, take("ema")?);
        let (m, v) = (take("m")?, take("v")?);
        let c = network.features().channels;
        let whitening = if config.recipe.whiten {
            let weight = file.take("whitening.weight", &[c, c])?;
            Some(Whitening::from_parts(weight, file.take("whitening.bias", &[c])?)?)
        } else {
            None
        };
        file.finish()?;
        Ok(Self { config, step, features, loss_scale, parameters, ema, m, v, whitening })
    }
}
