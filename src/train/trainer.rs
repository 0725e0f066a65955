//! The training loop, a step at a time.

use sha2::{Digest, Sha256};

use super::LearningRate;
use crate::checkpoint::{Calibration, Checkpoint, CheckpointConfig, TrainingConfig, TrainingState};
use crate::cpu;
use crate::diffusion::{Schedule, TIMESTEPS};
use crate::error::{Error, Result};
use crate::nn::{Activations, Dit, Gradients, Whitening};
use crate::ops::{self, AdamW, Random, Stream};
use crate::tensor::{DType, Device, Tensor, TensorView};

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps completed, this one included.
    pub step: u64,
    /// The batch's loss.
    pub loss: f64,
    /// The gradients' norm before clipping.
    pub gradient_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
}

/// Trains a denoiser on features of normal images.
///
/// All random numbers are addressed by seed, purpose and step: the same features, configuration
/// and device give the same bits, in one run or in several with the state saved between.
pub struct Trainer {
    state: TrainingState,
    dit: Dit,
    alphas_cumprod: Vec<f64>,
    /// What the network sees, (n, G, G, C).
    features: Vec<f32>,
    images: usize,
    epoch: Option<(u64, Vec<usize>)>,
    space: Workspace,
}

/// The buffers of a step.
struct Workspace {
    acts: Activations,
    gradients: Gradients,
    x0: Tensor,
    noise: Tensor,
    x: Tensor,
    target: Tensor,
    output: Tensor,
    doutput: Tensor,
    /// One number per image.
    t: Tensor,
    scales: [Tensor; 4],
    weight: Tensor,
    loss: Tensor,
}

impl Trainer {
    /// A training run at its start.
    ///
    /// `features`: (n, G, G, C), n ≥ 1, as the backbone leaves them.
    ///
    /// # Errors
    /// [`Error::Shape`] if the features do not fit the denoiser; [`Error::Argument`] if the
    /// configuration is out of range; [`Error::Unavailable`] if the device cannot be used.
    pub fn new(config: TrainingConfig, features: Tensor, device: Device) -> Result<Self> {
        device.require_training()?;
        check(&config, &features)?;
        let dit = Dit::new(config.denoiser)?;
        let hash = hash(&features)?;
        let whitening = config.recipe.whiten.then(|| Whitening::fit(&features)).transpose()?;
        let parameters = dit.init(config.seed, device)?;
        let zeros = || Tensor::zeros(&[dit.len()], DType::F32, device);
        let state = TrainingState {
            step: 0,
            features: hash,
            ema: parameters.clone(),
            parameters,
            m: zeros()?,
            v: zeros()?,
            whitening,
            config,
        };
        Self::from_state(state, dit, features, device)
    }

    /// A training run that goes on where `state` was saved.
    ///
    /// `config` and `features` must be those of the run.
    ///
    /// # Errors
    /// As [`Trainer::new`]; [`Error::Argument`] if the configuration or the features differ from
    /// those that `state` was saved with.
    pub fn resume(
        state: TrainingState,
        config: &TrainingConfig,
        features: Tensor,
        device: Device,
    ) -> Result<Self> {
        check(config, &features)?;
        if let Some((setting, was, is)) = difference(&state.config, config) {
            let expected = format!("{was}, as when the training state was saved");
            return Err(Error::argument("resume", setting, expected, is));
        }
        if hash(&features)? != state.features {
            let expected = "the images that the training state was saved with";
            return Err(Error::argument("resume", "data", expected, "others"));
        }
        let dit = Dit::new(config.denoiser)?;
        Self::from_state(state, dit, features, device)
    }

    fn from_state(
        state: TrainingState,
        dit: Dit,
        mut features: Tensor,
        device: Device,
    ) -> Result<Self> {
        let images = features.shape()[0];
        if let Some(whitening) = &state.whitening {
            let raw = features;
            features = Tensor::zeros(raw.shape(), DType::F32, raw.device())?;
            whitening.apply(&raw, &mut features)?;
        }
        let batch = state.config.recipe.batch;
        let c = dit.config();
        let grid = || Tensor::zeros(&[batch, c.grid, c.grid, c.channels], DType::F32, device);
        let per_image = || Tensor::zeros(&[batch], DType::F32, device);
        let space = Workspace {
            acts: Activations::for_training(&dit, batch, device)?,
            gradients: Gradients::new(&dit, batch, device)?,
            x0: grid()?,
            noise: grid()?,
            x: grid()?,
            target: grid()?,
            output: grid()?,
            doutput: grid()?,
            t: per_image()?,
            scales: [per_image()?, per_image()?, per_image()?, per_image()?],
            weight: per_image()?,
            loss: per_image()?,
        };
        Ok(Self {
            state,
            dit,
            alphas_cumprod: Schedule::linear().alphas_cumprod,
            features: features.to_vec_f32(),
            images,
            epoch: None,
            space,
        })
    }

    /// What decides the run.
    pub fn config(&self) -> &TrainingConfig {
        &self.state.config
    }

    /// Steps completed.
    pub fn step_count(&self) -> u64 {
        self.state.step
    }

    /// Whether all steps are done.
    pub fn is_done(&self) -> bool {
        self.state.step >= self.state.config.steps
    }

    /// The run between two steps, to be saved.
    pub fn state(&self) -> &TrainingState {
        &self.state
    }

    /// The detector as far as it is trained, without a calibration.
    pub fn into_checkpoint(self) -> Checkpoint {
        let TrainingState { config, step, parameters, ema, whitening, .. } = self.state;
        Checkpoint {
            config: CheckpointConfig {
                recipe: config.recipe,
                denoiser: config.denoiser,
                backbone: config.backbone,
                seed: config.seed,
                steps: step,
                images: self.images,
                categories: config.categories,
            },
            denoiser: parameters,
            ema,
            whitening,
            calibration: Calibration::default(),
        }
    }

    /// One step: noise a batch, predict, and move the parameters against the gradient.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the loss or the gradient is not finite; the parameters are then as
    /// after the step before.
    pub fn step(&mut self) -> Result<StepReport> {
        cpu::in_pool(|| self.update())
    }

    fn update(&mut self) -> Result<StepReport> {
        let k = self.state.step;
        self.load_batch(k)?;
        let TrainingState { config, parameters, ema, m, v, .. } = &mut self.state;
        let recipe = &config.recipe;
        let s = &mut self.space;
        let [signal, noise, target_signal, target_noise] = &s.scales;
        ops::normal(Random { seed: config.seed, stream: Stream::Noise, step: k }, &mut s.noise)?;
        ops::add_noise(&s.x0, &s.noise, signal, noise, &mut s.x)?;
        ops::add_noise(&s.x0, &s.noise, target_signal, target_noise, &mut s.target)?;
        self.dit.forward(parameters, &s.x, &s.t, &mut s.acts, &mut s.output)?;
        ops::mse(&s.output, &s.target, &s.weight, &mut s.loss)?;
        let losses = s.loss.to_vec_f32();
        let loss = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / losses.len() as f64;
        let finite = |what, value: f64| match value.is_finite() {
            true => Ok(()),
            false => Err(Error::NonFinite { step: k, what, last_good: k }),
        };
        finite("the loss", loss)?;
        ops::mse_backward(&s.output, &s.target, &s.weight, &mut s.doutput)?;
        s.gradients.parameters.view_mut().fill(0.0)?;
        self.dit.backward(parameters, &s.acts, &s.doutput, &mut s.gradients, None)?;
        let gradient_norm = ops::global_norm(&s.gradients.parameters)?;
        finite("the gradient", gradient_norm)?;
        let learning_rate = rate(config).at(k);
        let adamw = AdamW {
            learning_rate,
            beta1: recipe.beta1,
            beta2: recipe.beta2,
            eps: recipe.eps,
            weight_decay: recipe.weight_decay,
        };
        let clip = ops::clip_coefficient(gradient_norm, recipe.clip);
        ops::adamw(adamw, k + 1, clip, &mut *parameters, &s.gradients.parameters, m, v)?;
        ops::ema(recipe.ema.decay(k), &*parameters, ema)?;
        self.state.step = k + 1;
        Ok(StepReport { step: k + 1, loss, gradient_norm, learning_rate })
    }

    /// Fills the batch of step k: images in the order of a permutation of each epoch, and their
    /// timesteps with the factors that follow from these.
    fn load_batch(&mut self, k: u64) -> Result<()> {
        let TrainingConfig { recipe, seed, .. } = &self.state.config;
        let batch = recipe.batch as u64;
        let image_len = self.features.len() / self.images;
        let draw = Random { seed: *seed, stream: Stream::Timestep, step: k };
        let mut numbers: [Vec<f32>; 6] = Default::default();
        for j in 0..batch {
            let position = k * batch + j;
            let epoch = position / self.images as u64;
            if self.epoch.as_ref().is_none_or(|(e, _)| *e != epoch) {
                let random = Random { seed: *seed, stream: Stream::Order, step: epoch };
                self.epoch = Some((epoch, random.permutation(self.images)));
            }
            let (_, order) = self.epoch.as_ref().expect("set above");
            let image = order[(position % self.images as u64) as usize];
            let from = &self.features[image * image_len..][..image_len];
            let to = j as usize * image_len;
            self.space.x0.view_mut().part(to, &[image_len])?.copy_from_slice(from)?;

            let t = draw.below(TIMESTEPS as u32, j);
            let alpha = self.alphas_cumprod[t as usize];
            let (p, q) = recipe.parameterisation.target_factors(alpha);
            let row = [
                f64::from(t),
                alpha.sqrt(),
                (1.0 - alpha).sqrt(),
                p,
                q,
                recipe.loss_weight.at(alpha),
            ];
            numbers.iter_mut().zip(row).for_each(|(column, v)| column.push(v as f32));
        }
        let s = &mut self.space;
        let [a, b, c, d] = &mut s.scales;
        for (tensor, numbers) in [&mut s.t, a, b, c, d, &mut s.weight].into_iter().zip(&numbers) {
            tensor.view_mut().copy_from_slice(numbers)?;
        }
        Ok(())
    }
}

fn rate(config: &TrainingConfig) -> LearningRate {
    LearningRate {
        initial: config.recipe.initial_rate,
        peak: config.recipe.peak_rate,
        last: config.recipe.last_rate,
        warmup: (config.recipe.warmup * config.steps as f64).round() as u64,
        total: config.steps,
    }
}

fn check(config: &TrainingConfig, features: &Tensor) -> Result<()> {
    config.check()?;
    let c = &config.denoiser;
    match *features.shape() {
        [n, g, w, channels] if n > 0 && g == c.grid && w == g && channels == c.channels => Ok(()),
        _ => {
            let expected = format!("(n ≥ 1, {0}, {0}, {1})", c.grid, c.channels);
            Err(Error::shape("Trainer", "features", expected, features.shape()))
        }
    }
}

/// The first setting in which two configurations differ, and its values.
fn difference(was: &TrainingConfig, is: &TrainingConfig) -> Option<(&'static str, String, String)> {
    let pairs = [
        ("recipe", format!("{:?}", was.recipe), format!("{:?}", is.recipe)),
        ("preset", format!("{:?}", was.denoiser), format!("{:?}", is.denoiser)),
        ("backbone", was.backbone.name.clone(), is.backbone.name.clone()),
        ("backbone weights", was.backbone.hash.clone(), is.backbone.hash.clone()),
        ("seed", was.seed.to_string(), is.seed.to_string()),
        ("steps", was.steps.to_string(), is.steps.to_string()),
        ("category", was.categories.join(", "), is.categories.join(", ")),
    ];
    pairs.into_iter().find(|(_, a, b)| a != b)
}

fn hash(features: &Tensor) -> Result<String> {
    let view: TensorView = features.into();
    let bytes: &[u8] = bytemuck::cast_slice(view.f32s("Trainer", "features")?);
    Ok(Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect())
}
