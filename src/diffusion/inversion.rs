//! From features to the latent they are inverted to.

use super::{Parameterisation, Respaced, Schedule, TIMESTEPS};
use crate::cpu;
use crate::error::{Error, Result};
use crate::nn::{Activations, Dit, PackedDit};
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
}

/// The buffers of an inversion of a fixed number of images.
pub struct Workspace {
    acts: Activations,
    output: Tensor,
}

impl Inverter {
    /// `steps` evaluations of the network F. One step is the single evaluation ε̂(√ᾱ_t·x, t) at
    /// t = `single_timestep`; more are the timesteps of [`Schedule::respaced`].
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ `steps` ≤ 1000 and `single_timestep` < 1000;
    /// [`Error::Shape`] if `parameters` is not of this network.
    pub fn new(
        dit: &Dit,
        parameters: &Tensor,
        parameterisation: Parameterisation,
        steps: usize,
        single_timestep: usize,
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
        let network = PackedDit::new(dit, parameters, &respaced.timesteps)?;
        Ok(Self { network, respaced, parameterisation, device: parameters.device(), single })
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
        Ok(Workspace {
            acts: Activations::for_inference(dit, batch, self.device)?,
            output: Tensor::zeros(&[batch, c.grid, c.grid, c.channels], DType::F32, self.device)?,
        })
    }

    /// Inverts features to their latent, in place.
    ///
    /// `x`: (B, G, G, C), B the workspace's.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit the network or the workspace.
    pub fn invert<'a>(&self, x: impl Into<TensorViewMut<'a>>, space: &mut Workspace) -> Result<()> {
        let mut x = x.into();
        cpu::in_pool(|| {
            for i in 0..self.respaced.timesteps.len() {
                self.step(i, x.reborrow(), space)?;
            }
            Ok(())
        })
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
        let Workspace { acts, output } = space;
        if let Some(scale) = self.single {
            // x ← √ᾱ_t·x; the old output only takes part with the factor 0.
            output.view_mut().fill(0.0)?;
            ops::inversion_step(x.reborrow(), &*output, scale as f32, 0.0)?;
        }
        self.network.forward(x.view(), i, acts, &mut *output)?;
        let (from, to) = (self.respaced.alpha(i), self.respaced.alpha_next(i));
        let (a, b) = self.parameterisation.ddim_factors(from, to);
        ops::inversion_step(x, &*output, a as f32, b as f32)?;
        Ok(output.view())
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
            let Workspace { acts, output } = &mut *space;
            self.network.forward(x.view(), i, acts, &mut *output)?;
            let (from, to) = (self.respaced.alpha(i), self.respaced.alpha_prev(i));
            let (a, b) = self.parameterisation.ddim_factors(from, to);
            ops::inversion_step(x.reborrow(), &*output, a as f32, b as f32)?;
        }
        Ok(())
    }
}
