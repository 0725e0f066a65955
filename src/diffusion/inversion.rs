//! From features to the latent they are inverted to.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Parameterisation, Process, Respaced};
use crate::denoisers::{Denoiser, Evaluator, FeatureShape, Packed};
use crate::device::{Allocate, Key, Purpose, Replay};
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;

/// A network ready to invert features in a fixed number of steps.
pub struct Inverter {
    network: Arc<dyn Packed>,
    features: FeatureShape,
    respaced: Respaced,
    parameterisation: Parameterisation,
    device: Device,
    precision: Precision,
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
pub struct Workspace {
    /// Of which inverter they are.
    inverter: u64,
    network: Box<dyn Evaluator>,
    output: Tensor,
    map: Tensor,
    stats: Tensor,
    /// What work it is: whether it ends with the score.
    recorded: Replay<bool>,
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace").field("output", &self.output).finish_non_exhaustive()
    }
}

impl Workspace {
    /// Map and statistics of the last latent that was scored, as [`Inverter::score`] returns them.
    pub(crate) fn scores(&self) -> (TensorView<'_>, TensorView<'_>) {
        (self.map.view(), self.stats.view())
    }
}

impl Inverter {
    /// `steps` evaluations of the network F on a device, with the precision that it has all operations for; its
    /// `parameters` are on the CPU. One step is the single evaluation ε̂(√ᾱ_t·x, t) at t = `single_timestep`; more are
    /// the timesteps of [`Schedule::respaced`](super::Schedule::respaced). `process`: what F predicts, or with another
    /// schedule than the linear one a [`Process`].
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ `steps` ≤ T and `single_timestep` < T, or at a timestep without noise what F
    /// predicts does not tell of any;
    /// [`Error::Shape`] if `parameters` is not of this network; [`Error::OutOfMemory`] if the device has
    /// not enough memory; those of [`Denoiser::require`].
    pub fn new(
        denoiser: &dyn Denoiser,
        parameters: &Tensor,
        process: impl Into<Process>,
        steps: usize,
        single_timestep: usize,
        device: Device,
    ) -> Result<Self> {
        let process = process.into();
        let precision = Precision::of(device);
        Self::in_precision(
            denoiser,
            parameters,
            process,
            (steps, single_timestep),
            device,
            precision,
        )
    }

    /// The same with another precision that the device has operations for; `evaluations`: `steps` and
    /// `single_timestep`.
    ///
    /// # Errors
    /// As [`Inverter::new`].
    pub fn in_precision(
        denoiser: &dyn Denoiser,
        parameters: &Tensor,
        process: impl Into<Process>,
        evaluations: (usize, usize),
        device: Device,
        precision: Precision,
    ) -> Result<Self> {
        let (steps, single_timestep) = evaluations;
        let Process { schedule, parameterisation } = process.into();
        if single_timestep >= schedule.timesteps() {
            let expected = format!("below {}", schedule.timesteps());
            return Err(Error::argument("Inverter", "single_timestep", expected, single_timestep));
        }
        let (respaced, single) = if steps == 1 {
            let alpha = schedule.alphas_cumprod()[single_timestep];
            (schedule.at(vec![single_timestep]), Some(alpha.sqrt()))
        } else {
            (schedule.respaced(steps)?, None)
        };
        let noiseless = |&i: &usize| {
            let (p, q) = parameterisation.epsilon_factors(respaced.alpha(i));
            !(p.is_finite() && q.is_finite())
        };
        if let Some(i) = (0..respaced.timesteps.len()).find(noiseless) {
            let expected =
                format!("with noise at every timestep that {parameterisation:?} is predicted at");
            let got = format!("none at {}", respaced.timesteps[i]);
            return Err(Error::argument("Inverter", "schedule", expected, got));
        }
        let network = denoiser.pack(parameters, &respaced.timesteps, device, precision)?;
        let (features, id) = (denoiser.features(), NEXT_ID.fetch_add(1, Ordering::Relaxed));
        Ok(Self { network, features, respaced, parameterisation, device, precision, single, id })
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// What it computes with.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The timesteps of the evaluations.
    pub fn timesteps(&self) -> &[usize] {
        &self.respaced.timesteps
    }

    /// The noise levels at the timesteps.
    pub(super) fn respaced(&self) -> &Respaced {
        &self.respaced
    }

    /// Buffers for batches of `batch` images, so that inversions need no memory of their own.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used.
    pub fn workspace(&self, batch: usize) -> Result<Workspace> {
        let mut a = self.device;
        let cells = self.features.grid.pow(2);
        let mut take = |shape: &[usize], dtype| a.zeros(Purpose::Batch, shape, dtype);
        Ok(Workspace {
            inverter: self.id,
            output: take(&self.features.of(batch), self.precision.dtype())?,
            map: take(&[batch, cells], DType::F32)?,
            stats: take(&[batch, ops::SCORE_STATS], DType::F32)?,
            network: self.network.clone().evaluator(batch, &mut a)?,
            recorded: Replay::default(),
        })
    }

    /// Inverts features to their latent, in place. On a GPU the work is recorded the first time, and
    /// again when it is called with another `x`; else it is one call to the driver.
    ///
    /// `x`: (B, G, G, C), B the workspace's; f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit the network or the workspace; [`Error::Argument`] if the workspace
    /// is another inverter's; [`Error::Device`] if `x` is elsewhere; [`Error::Cuda`] if a GPU fails.
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
        Ok(space.scores())
    }

    fn run(&self, mut x: TensorViewMut, space: &mut Workspace, scored: bool) -> Result<()> {
        // What is recorded is of this inverter alone.
        self.require_own(space)?;
        let key = Key::new(scored, x.view())?;
        let mut recorded = std::mem::take(&mut space.recorded);
        let ran = recorded.run(self.device, key, || self.queue(x.reborrow(), space, scored));
        space.recorded = recorded;
        ran
    }

    /// [`Inverter::invert`], or `scored` [`Inverter::score`], as a part of work that is recorded as a whole.
    pub(crate) fn queue(
        &self,
        mut x: TensorViewMut,
        space: &mut Workspace,
        scored: bool,
    ) -> Result<()> {
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
        self.require_own(space)?;
        let Workspace { network, output, .. } = space;
        if let Some(scale) = self.single {
            // x ← √ᾱ_t·x; the old output only takes part with the factor 0.
            output.view_mut().fill(0.0)?;
            ops::inversion_step(x.reborrow(), &*output, scale as f32, 0.0)?;
        }
        network.evaluate(i, x.view(), output.view_mut())?;
        let (from, to) = (self.respaced.alpha(i), self.respaced.alpha_next(i));
        let (a, b) = self.parameterisation.ddim_factors(from, to);
        Ok([a as f32, b as f32])
    }

    /// A workspace evaluates the network that it was made for.
    fn require_own(&self, space: &Workspace) -> Result<()> {
        match space.inverter == self.id {
            true => Ok(()),
            false => {
                let expected = "one that Inverter::workspace of this inverter has made";
                Err(Error::argument("Inverter", "space", expected, "another inverter's"))
            }
        }
    }

    /// Evaluates F at timestep i and moves `x` from its noise level to that of timestep i − 1, as
    /// [`Reconstructor`](super::Reconstructor) does.
    pub(super) fn denoise(
        &self,
        i: usize,
        x: TensorViewMut<'_>,
        space: &mut Workspace,
    ) -> Result<()> {
        self.require_own(space)?;
        let steps = self.respaced.timesteps.len();
        if i >= steps {
            return Err(Error::argument("denoise", "step", format!("below {steps}"), i));
        }
        let Workspace { network, output, .. } = space;
        network.evaluate(i, x.view(), output.view_mut())?;
        let (from, to) = (self.respaced.alpha(i), self.respaced.alpha_prev(i));
        let (a, b) = self.parameterisation.ddim_factors(from, to);
        ops::inversion_step(x, &*output, a as f32, b as f32)
    }
}
