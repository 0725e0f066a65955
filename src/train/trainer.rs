//! The training loop, a step at a time.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::batches::Batches;
use super::space::{Column, Moved, Space, column, images};
use super::{Average, LearningRate, Resources};
use crate::checkpoint::{
    Calibration, Checkpoint, CheckpointConfig, LossScale, TrainingConfig, TrainingState,
};
use crate::cpu;
use crate::denoisers::{self, Denoiser, FeatureShape, Parameters, Recompute, Use};
use crate::device::{Key, Plan, Replay};
use crate::error::{Error, Result};
use crate::gaussian::Whitening;
use crate::ops::{self, AdamW, Random, Stream, Target};
use crate::tensor::{DType, Device, Tensor, TensorView};
use crate::types::Precision;
use crate::weights::hexadecimal;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps completed, this one included.
    pub step: u64,
    /// Images of its batch.
    pub images: usize,
    /// The batch's loss.
    pub loss: f64,
    /// The gradients' norm before clipping.
    pub gradient_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// The factor that the loss had for the gradients; 1 on the CPU.
    pub loss_scale: f64,
    /// Whether the parameters stayed, since a gradient was not finite.
    pub skipped: bool,
}

/// Trains a denoiser on features of normal images.
///
/// All random numbers are addressed by seed, purpose and step: the same features, configuration
/// and resources give the same bits, in one run or in several with the state saved between.
///
/// On a GPU activations and their gradients are f16, all that is summed over steps f32; a step in
/// which a gradient overflows is skipped, and the loss scaled down.
pub struct Trainer {
    /// The work of a step.
    recorded: Replay<()>,
    state: TrainingState,
    /// The parameters in the type that matrix products read, where that is not f32.
    half: Option<Tensor>,
    resources: Resources,
    recompute: Recompute,
    plan: Plan,
    batches: Batches,
    space: Space,
}

impl fmt::Debug for Trainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("step", &self.state.step)
            .field("resources", &self.resources)
            .field("recompute", &self.recompute)
            .finish_non_exhaustive()
    }
}

impl Trainer {
    /// A training run at its start.
    ///
    /// `features`: (n, G, G, C), n ≥ 1, as the backbone leaves them.
    ///
    /// # Errors
    /// [`Error::Shape`] if the features do not fit the denoiser; [`Error::Argument`] if the
    /// configuration or the resources are out of range, or a GPU cannot compute the denoiser
    /// ([`Denoiser::require`]); [`Error::Unavailable`] if the device cannot be used; [`Error::TooLarge`] if it has not
    /// enough memory.
    pub fn new(
        config: TrainingConfig,
        features: Tensor,
        resources: impl Into<Resources>,
    ) -> Result<Self> {
        let resources = resources.into();
        let denoiser = denoisers::read(&config.denoiser)?;
        check(&config, denoiser.features(), &features)?;
        denoiser.require(resources.device, Use::Training, resources.precision_used())?;
        let hash = hash(&features)?;
        let whitening = config.recipe.whiten.then(|| Whitening::fit(&features)).transpose()?;
        let seed = config.seed;
        Self::begin(config, denoiser, whitening, features, resources, |of, moved, average| {
            of.init_each(seed, &mut |p, numbers| {
                let targets =
                    [Some(&mut moved.parameters), moved.half.as_mut(), Some(&mut *average)];
                for target in targets.into_iter().flatten() {
                    target.view_mut().part(p.offset, &[p.len()])?.copy_from_slice(numbers)?;
                }
                Ok(())
            })?;
            Ok((0, hash, None))
        })
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
        resources: impl Into<Resources>,
    ) -> Result<Self> {
        let denoiser = denoisers::read(&config.denoiser)?;
        check(config, denoiser.features(), &features)?;
        state.config.require_same(config)?;
        if hash(&features)? != state.features {
            let expected = "the images that the training state was saved with";
            return Err(Error::argument("resume", "data", expected, "others"));
        }
        let TrainingState { config, step, features: hash, loss_scale, whitening, .. } = state;
        let (parameters, ema, m, v) = (state.parameters, state.ema, state.m, state.v);
        let resources = resources.into();
        Self::begin(config, denoiser, whitening, features, resources, |_, moved, average| {
            // One by one, so that the memory of what is copied is free again.
            if let Some(half) = &mut moved.half {
                copy(&parameters, half)?;
            }
            for (from, to) in [
                (parameters, &mut moved.parameters),
                (ema, average),
                (m, &mut moved.m),
                (v, &mut moved.v),
            ] {
                copy(&from, to)?;
            }
            Ok((step, hash, loss_scale))
        })
    }

    /// Takes the memory, and has `fill` set what is trained and its average, and tell the step, the
    /// features' hash and the loss scale.
    fn begin(
        config: TrainingConfig,
        denoiser: Arc<dyn Denoiser>,
        whitening: Option<Whitening>,
        features: Tensor,
        resources: Resources,
        fill: impl FnOnce(
            &dyn Denoiser,
            &mut Moved,
            &mut Tensor,
        ) -> Result<(u64, String, Option<LossScale>)>,
    ) -> Result<Self> {
        let (mut device, precision) = (resources.device, resources.precision_used());
        denoiser.require(device, Use::Training, precision)?;
        let batch = config.recipe.batch;
        let (recompute, plan) = resources.choose(&*denoiser, batch)?;
        let whitening_of = whitening.as_ref();
        let batches = Batches::new(features, whitening_of, config.seed, batch, device, precision);
        let taken = batches.and_then(|batches| {
            let moved = Moved::new(&mut device, &*denoiser, &resources)?;
            let space = Space::new(&mut device, &*denoiser, batch, &resources, recompute)?;
            Ok((batches, moved, space))
        });
        let (batches, mut moved, space) = taken.map_err(|e| match e {
            Error::OutOfMemory { free, .. } => {
                let more = denoiser.recompute().last() != Some(&recompute);
                resources.too_large(&plan, more, batch, free)
            }
            other => other,
        })?;
        let mut ema = match moved.average.take() {
            Some(average) => average,
            None => Tensor::zeros(&[denoiser.len()], DType::F32, Device::Cpu)?,
        };
        let (step, hash, loss_scale) = fill(&*denoiser, &mut moved, &mut ema)?;
        let fresh = (precision == Precision::F16).then(|| LossScale::new(resources.loss_scale));
        let Moved { parameters, half, m, v, .. } = moved;
        let state = TrainingState {
            config,
            step,
            features: hash,
            loss_scale: loss_scale.or(fresh),
            parameters,
            ema,
            m,
            v,
            whitening,
        };
        Ok(Self {
            recorded: Replay::default(),
            state,
            half,
            resources,
            recompute,
            plan,
            batches,
            space,
        })
    }

    /// What decides the run.
    pub fn config(&self) -> &TrainingConfig {
        &self.state.config
    }

    /// What the backward pass computes again.
    pub fn recompute(&self) -> Recompute {
        self.recompute
    }

    /// The memory that the run takes on its device.
    pub fn plan(&self) -> &Plan {
        &self.plan
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
    ///
    /// # Errors
    /// [`Error::Cuda`] if a GPU fails.
    pub fn into_checkpoint(mut self) -> Result<Checkpoint> {
        if let Average::Host { every } = self.resources.average {
            self.update_average(self.state.step % every)?;
        }
        let TrainingState { config, step, parameters, ema, whitening, .. } = self.state;
        let on_host = |tensor: Tensor| match tensor.device() {
            Device::Cpu => Ok(tensor),
            _ => tensor.view().copied_to(Device::Cpu, DType::F32),
        };
        Ok(Checkpoint {
            config: CheckpointConfig {
                products: None,
                recipe: config.recipe,
                denoiser: config.denoiser,
                backbone: config.backbone,
                seed: config.seed,
                steps: step,
                images: self.batches.images(),
                categories: config.categories,
            },
            denoiser: on_host(parameters)?,
            ema: on_host(ema)?,
            whitening,
            levels: None,
            prior: None,
            calibration: Calibration::default(),
        })
    }

    /// One step: noise a batch, predict, and move the parameters against the gradient.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the loss or the gradient is not finite, on a GPU in many steps in a
    /// row; the parameters are then as after the last step in which they were.
    pub fn step(&mut self) -> Result<StepReport> {
        cpu::in_pool(|| self.update())
    }

    fn update(&mut self) -> Result<StepReport> {
        let k = self.state.step;
        let learning_rate = rate(&self.state.config).at(k);
        self.load_batch(k, learning_rate)?;
        let on_gpu = self.resources.device != Device::Cpu;
        if on_gpu {
            self.compute_on_gpu()?;
        } else {
            self.work().gradients()?;
        }
        self.batches.send(k + 1, self.space.batch)?;
        let s = &self.space;
        let (mut losses, mut norm) = (vec![0.0; s.batch], [0.0; 2]);
        s.loss.view().copy_to_slice(&mut losses)?;
        s.norm.view().copy_to_slice(&mut norm)?;
        let loss = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / losses.len() as f64;
        let gradient_norm = f64::from(norm[0]);
        let what = match (loss.is_finite(), norm[1].is_finite()) {
            (true, true) => None,
            (false, _) => Some("the loss"),
            _ => Some("the gradient"),
        };
        let loss_scale = self.loss_scale();
        match what {
            Some(what) => self.not_finite(k, what)?,
            None if on_gpu => self.state.loss_scale.iter_mut().for_each(LossScale::passed),
            None => self.work().optimise()?,
        }
        self.state.step = k + 1;
        if let Average::Host { every } = self.resources.average
            && (k + 1).is_multiple_of(every)
        {
            self.update_average(every)?;
        }
        let images = self.space.batch;
        let (step, skipped) = (k + 1, what.is_some());
        Ok(StepReport { step, images, loss, gradient_norm, learning_rate, loss_scale, skipped })
    }

    /// A GPU has skipped the step, and takes the next with a smaller loss scale.
    fn not_finite(&mut self, k: u64, what: &'static str) -> Result<()> {
        let scaled = self.resources.precision_used() == Precision::F16;
        let Some(scale) = self.state.loss_scale.as_mut().filter(|_| scaled) else {
            return Err(Error::NonFinite { step: k, what, last_good: k });
        };
        scale.overflowed();
        if scale.streak <= LossScale::LONGEST_STREAK {
            return Ok(());
        }
        let last_good = (k + 1).saturating_sub(scale.streak);
        self.state.step = k + 1;
        Err(Error::NonFinite { step: k, what, last_good })
    }

    fn loss_scale(&self) -> f64 {
        match &self.state.loss_scale {
            Some(scale) if self.resources.precision_used() == Precision::F16 => scale.scale,
            _ => 1.0,
        }
    }

    /// The whole step: recorded the first time, then one call to the driver.
    fn compute_on_gpu(&mut self) -> Result<()> {
        let mut recorded = std::mem::take(&mut self.recorded);
        let key = Key::new((), self.space.x0.view())?;
        let device = self.resources.device;
        let mut work = self.work();
        let ran = recorded.run(device, key, || {
            work.gradients()?;
            work.optimise()
        });
        self.recorded = recorded;
        ran
    }

    fn work(&mut self) -> Work<'_> {
        Work {
            state: &mut self.state,
            half: self.half.as_mut(),
            average_here: self.resources.average == Average::Device,
            space: &mut self.space,
        }
    }

    /// Brings the average on the host up to date after `steps` steps in which it was not.
    fn update_average(&mut self, steps: u64) -> Result<()> {
        /// Parameters copied from a GPU at once.
        const PART: usize = 1 << 22;
        let TrainingState { config, step, parameters, ema, .. } = &mut self.state;
        let decay: f64 = (*step - steps..*step).map(|i| config.recipe.ema.decay(i)).product();
        if steps == 0 {
            return Ok(());
        }
        let mut staged = vec![0.0; PART.min(parameters.len())];
        for start in (0..parameters.len()).step_by(PART) {
            let part = [PART.min(parameters.len() - start)];
            let staged = &mut staged[..part[0]];
            parameters.view().part(start, &part)?.copy_to_slice(staged)?;
            let average = ema.view_mut().part(start, &part)?;
            ops::ema(decay, TensorView::from_slice(staged, &part)?, average)?;
        }
        Ok(())
    }

    /// Brings what step k needs to the device: images, their noise, their timesteps with the factors
    /// that follow from these, and the optimiser's numbers.
    fn load_batch(&mut self, k: u64, learning_rate: f64) -> Result<()> {
        let loss_scale = self.loss_scale();
        let TrainingConfig { recipe, seed, .. } = &self.state.config;
        let s = &mut self.space;
        let batch = s.batch;
        self.batches.load(k, &mut s.x0)?;
        let draw = Random { seed: *seed, stream: Stream::Timestep, step: k };
        let [first, last] = recipe.timesteps;
        let mut columns = vec![0.0; Column::COUNT * batch];
        let elements = s.x0.len() as f64;
        for j in 0..batch {
            let t = first as u32 + draw.below((last - first + 1) as u32, j as u64);
            let alpha = recipe.schedule.alphas_cumprod()[t as usize];
            let (p, q) = recipe.parameterisation.target_factors(alpha);
            let weight = recipe.loss_weight.at(alpha) as f32;
            for (column, number) in [
                (Column::Timestep, f64::from(t)),
                (Column::Signal, alpha.sqrt()),
                (Column::Noise, (1.0 - alpha).sqrt()),
                (Column::TargetSignal, p),
                (Column::TargetNoise, q),
                (Column::Weight, weight.into()),
                (Column::Slope, loss_scale * (2.0 / elements * f64::from(weight))),
            ] {
                columns[column as usize * batch + j] = number as f32;
            }
        }
        s.columns.view_mut().copy_from_slice(&columns)?;
        ops::normal(Random { seed: *seed, stream: Stream::Noise, step: k }, &mut s.noise)?;
        let adamw = AdamW {
            learning_rate,
            beta1: recipe.beta1,
            beta2: recipe.beta2,
            eps: recipe.eps,
            weight_decay: recipe.weight_decay,
        };
        // Moments have seen the steps that were not skipped.
        let skipped = self.state.loss_scale.map_or(0, |scale| scale.skipped);
        let numbers = adamw.numbers(k + 1 - skipped, loss_scale, recipe.ema.decay(k))?;
        s.numbers.view_mut().copy_from_slice(&numbers)
    }
}

/// A step's work on the device, the same at every step.
struct Work<'a> {
    state: &'a mut TrainingState,
    half: Option<&'a mut Tensor>,
    /// Whether the average is brought up to date with the parameters.
    average_here: bool,
    space: &'a mut Space,
}

impl Work<'_> {
    /// The batch's losses, gradients, and their norm.
    fn gradients(&mut self) -> Result<()> {
        let s = &mut *self.space;
        let parameters = Parameters { full: &self.state.parameters, half: self.half.as_deref() };
        s.gradients.view_mut().fill(0.0)?;
        for first in (0..s.batch).step_by(s.micro) {
            let of = |name| column(&s.columns, name, first, s.micro);
            let x0 = images(&s.x0, first, s.micro)?;
            let noise = images(&s.noise, first, s.micro)?;
            ops::add_noise(x0, noise, of(Column::Signal)?, of(Column::Noise)?, &mut s.x)?;
            let t = of(Column::Timestep)?;
            s.network.forward(parameters, s.x.view(), t, s.output.view_mut())?;
            let target = Target {
                x0,
                noise,
                signal_scale: of(Column::TargetSignal)?,
                noise_scale: of(Column::TargetNoise)?,
            };
            let (weight, slope) = (of(Column::Weight)?, of(Column::Slope)?);
            let loss = s.loss.view_mut().part(first, &[s.micro])?;
            let doutput = Some(s.doutput.view_mut());
            ops::denoising_loss(&s.output, target, weight, slope, loss, doutput)?;
            s.network.backward(parameters, s.doutput.view(), &mut s.gradients, None)?;
        }
        let clip = self.state.config.recipe.clip;
        ops::global_norm(&s.gradients, clip, &s.numbers, &mut s.norm)
    }

    /// Moves the parameters, unless the norm of the gradients is not finite.
    fn optimise(&mut self) -> Result<()> {
        let TrainingState { config, parameters, ema, m, v, .. } = &mut *self.state;
        let moved = ops::Moved {
            parameters: parameters.view_mut(),
            m: m.view_mut(),
            v: v.view_mut(),
            average: self.average_here.then(|| ema.view_mut()),
            rounded: self.half.as_deref_mut().map(Tensor::view_mut),
        };
        let s = &*self.space;
        ops::adamw(&s.gradients, &s.numbers, &s.norm, config.seed, moved)
    }
}

/// Copies all numbers of a tensor on the host.
fn copy(from: &Tensor, to: &mut Tensor) -> Result<()> {
    to.view_mut().copy_from_slice(from.view().f32s("resume", "state")?)
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

fn check(config: &TrainingConfig, of: FeatureShape, features: &Tensor) -> Result<()> {
    config.check()?;
    match *features.shape() {
        [n, g, w, channels] if n > 0 && [n, g, w, channels] == of.of(n) => Ok(()),
        _ => {
            let expected = format!("(n ≥ 1, {0}, {0}, {1})", of.grid, of.channels);
            Err(Error::shape("Trainer", "features", expected, features.shape()))
        }
    }
}

fn hash(features: &Tensor) -> Result<String> {
    let view: TensorView = features.into();
    let bytes: &[u8] = bytemuck::cast_slice(view.f32s("Trainer", "features")?);
    Ok(hexadecimal(Sha256::digest(bytes)))
}
