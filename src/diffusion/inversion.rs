//! From features to the latent they are inverted to.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Parameterisation, Respaced, Schedule, TIMESTEPS};
use crate::device::{Key, Replay};
use crate::error::{Error, Result};
use crate::nn::{Activations, Dit, PackedDit, stored};
use crate::ops;
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};

/// A network ready to invert features in a fixed number of steps.
pub struct Inverter {
    network: PackedDit,
    respaced: Respaced,
    parameterisation: Parameterisation,
    device: Device,
    /// √ᾱ_t by which the features are scaled first, where the inversion is a single evaluation.
    single: Option<f64>,
    /// What tells it from all others.
    id: u64,
}

impl fmt::Debug for Inverter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inverter")
            .field("timesteps", &self.timesteps())
            .field("parameterisation", &self.parameterisation)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// The buffers of an inversion of a fixed number of images.
#[derive(Debug)]
pub struct Workspace {
    acts: Activations,
    output: Tensor,
    map: Tensor,
    stats: Tensor,
    recorded: Replay<Work>,
}

/// What tells the recorded work of a workspace from all other.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Work {
    inverter: u64,
    /// Whether it ends with the score.
    scored: bool,
}

impl Inverter {
    /// `steps` evaluations of the network F on a device; its `parameters` are on the CPU. One step is
    /// the single evaluation ε̂(√ᾱ_t·x, t) at t = `single_timestep`; more are the timesteps of
    /// [`Schedule::respaced`].
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ `steps` ≤ 1000 and `single_timestep` < 1000;
    /// [`Error::Shape`] if `parameters` is not of this network; [`Error::OutOfMemory`] if the device has
    /// not enough memory; those of [`DitConfig::require`](crate::nn::DitConfig::require).
    pub fn new(
        dit: &Dit,
        parameters: &Tensor,
        parameterisation: Parameterisation,
        steps: usize,
        single_timestep: usize,
        device: Device,
    ) -> Result<Self> {
        if single_timestep >= TIMESTEPS {
            let expected = format!("below {TIMESTEPS}");
            return Err(Error::argument("Inverter", "single_timestep", expected, single_timestep));
        }
        let schedule = Schedule::linear();
        let (respaced, single) = if steps == 1 {
            let alpha = schedule.alphas_cumprod[single_timestep];
            (schedule.at(vec![single_timestep]), Some(alpha.sqrt()))
        } else {
            (schedule.respaced(steps)?, None)
        };
        let network = PackedDit::new(dit, parameters, &respaced.timesteps, device)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self { network, respaced, parameterisation, device, single, id })
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The timesteps of the evaluations.
    pub fn timesteps(&self) -> &[usize] {
        &self.respaced.timesteps
    }

    /// Buffers for batches of `batch` images, so that inversions need no memory of their own.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used.
    pub fn workspace(&self, batch: usize) -> Result<Workspace> {
        let dit = self.network.dit();
        let c = dit.config();
        let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, self.device);
        Ok(Workspace {
            acts: Activations::for_inference(dit, batch, self.device)?,
            output: zeros(&[batch, c.grid, c.grid, c.channels], stored(self.device))?,
            map: zeros(&[batch, c.grid * c.grid], DType::F32)?,
            stats: zeros(&[batch, ops::SCORE_STATS], DType::F32)?,
            recorded: Replay::default(),
        })
    }

    /// Inverts features to their latent, in place. On a GPU the work is recorded the first time, and
    /// again when it is called with another `x`; else it is one call to the driver.
    ///
    /// `x`: (B, G, G, C), B the workspace's; f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit the network or the workspace; [`Error::Device`] if
    /// they are elsewhere; [`Error::Cuda`] if a GPU fails.
    pub fn invert<'a>(&self, x: impl Into<TensorViewMut<'a>>, space: &mut Workspace) -> Result<()> {
        self.run(x.into(), space, false)
    }

    /// Inverts features and scores the latent, as [`ops::score`] does: its map (B, G²) and stats (B, 5),
    /// f32, in the workspace. On a GPU all of it is recorded the first time, and the latent is not
    /// stored; what is in `x` afterwards is not defined.
    ///
    /// `x`: (B, G, G, C), B the workspace's; f32.
    ///
    /// # Errors
    /// As [`Inverter::invert`].
    pub fn score<'a, 's>(
        &self,
        x: impl Into<TensorViewMut<'a>>,
        space: &'s mut Workspace,
    ) -> Result<(TensorView<'s>, TensorView<'s>)> {
        self.run(x.into(), space, true)?;
        Ok((space.map.view(), space.stats.view()))
    }

    fn run(&self, mut x: TensorViewMut, space: &mut Workspace, scored: bool) -> Result<()> {
        let key = Key::new(Work { inverter: self.id, scored }, x.view())?;
        let mut recorded = std::mem::take(&mut space.recorded);
        let ran = recorded.run(self.device, key, || self.steps(&mut x, space, scored));
        space.recorded = recorded;
        ran
    }

    fn steps(&self, x: &mut TensorViewMut, space: &mut Workspace, scored: bool) -> Result<()> {
        let last = self.respaced.timesteps.len() - 1;
        for i in 0..last {
            self.step(i, x.reborrow(), space)?;
        }
        if !scored {
            return self.step(last, x.reborrow(), space).map(drop);
        }
        let factors = self.evaluate(last, x.reborrow(), space)?;
        let Workspace { output, map, stats, .. } = space;
        let &[images, grid, _, channels] = output.shape() else { unreachable!("it has four axes") };
        let tokens = [images, grid * grid, channels];
        let (x, output) = (x.reborrow().part(0, &tokens)?, output.view().part(0, &tokens)?);
        ops::score_step(x, output, factors, map, stats)
    }

    /// Step i of [`Inverter::invert`]: evaluates F at timestep i and moves `x` to the next noise
    /// level. Returns what F returned.
    ///
    /// # Errors
    /// As [`Inverter::invert`].
    pub fn step<'s>(
        &self,
        i: usize,
        mut x: TensorViewMut,
        space: &'s mut Workspace,
    ) -> Result<TensorView<'s>> {
        let [a, b] = self.evaluate(i, x.reborrow(), space)?;
        ops::inversion_step(x, &space.output, a, b)?;
        Ok(space.output.view())
    }

    /// Evaluates F at timestep i: what it returns is in the workspace. Returns the factors (a, b) of the
    /// step a·x + b·F(x).
    fn evaluate(&self, i: usize, mut x: TensorViewMut, space: &mut Workspace) -> Result<[f32; 2]> {
        let Workspace { acts, output, .. } = space;
        if let Some(scale) = self.single {
            // x ← √ᾱ_t·x; the old output only takes part with the factor 0.
            output.view_mut().fill(0.0)?;
            ops::inversion_step(x.reborrow(), &*output, scale as f32, 0.0)?;
        }
        self.network.forward(x.view(), i, acts, &mut *output)?;
        let (from, to) = (self.respaced.alpha(i), self.respaced.alpha_next(i));
        let (a, b) = self.parameterisation.ddim_factors(from, to);
        Ok([a as f32, b as f32])
    }

    /// The reconstruction that the method is compared with: from x at noise level `noise_step`,
    /// DDIM steps down to the clean features, in place. The number of steps of the inverter is that
    /// of the respaced schedule.
    ///
    /// `x`: (B, G, G, C), noised with [`ops::add_noise`] to ᾱ of step `noise_step`.
    ///
    /// # Errors
    /// As [`Inverter::invert`]; [`Error::Argument`] if there is no such step.
    pub fn reconstruct<'a>(
        &self,
        x: impl Into<TensorViewMut<'a>>,
        noise_step: usize,
        space: &mut Workspace,
    ) -> Result<()> {
        let mut x = x.into();
        let steps = self.respaced.timesteps.len();
        if noise_step > steps {
            let expected = format!("at most {steps}");
            return Err(Error::argument("reconstruct", "noise_step", expected, noise_step));
        }
        for i in (0..noise_step).rev() {
            let Workspace { acts, output, .. } = &mut *space;
            self.network.forward(x.view(), i, acts, &mut *output)?;
            let (from, to) = (self.respaced.alpha(i), self.respaced.alpha_prev(i));
            let (a, b) = self.parameterisation.ddim_factors(from, to);
            ops::inversion_step(x.reborrow(), &*output, a as f32, b as f32)?;
        }
        Ok(())
    }
}
