//! Noise levels ᾱ_t and the factors that follow from them, in f64.

use crate::error::{Error, Result};

/// T, the number of timesteps of training.
pub const TIMESTEPS: usize = 1000;

/// What the network F predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parameterisation {
    /// F is the noise: ε̂ = F.
    Epsilon,
    /// F is the velocity v = √ᾱ·ε − √(1−ᾱ)·x₀: ε̂ = √(1−ᾱ)·x + √ᾱ·F.
    Velocity,
}

impl Parameterisation {
    /// (p, q) such that ε̂ = p·x + q·F at noise level ᾱ.
    pub fn epsilon_factors(self, alpha: f64) -> (f64, f64) {
        match self {
            Parameterisation::Epsilon => (0.0, 1.0),
            Parameterisation::Velocity => ((1.0 - alpha).sqrt(), alpha.sqrt()),
        }
    }

    /// (p, q) such that the network's target is p·x₀ + q·ε at noise level ᾱ.
    pub fn target_factors(self, alpha: f64) -> (f64, f64) {
        match self {
            Parameterisation::Epsilon => (0.0, 1.0),
            Parameterisation::Velocity => (-(1.0 - alpha).sqrt(), alpha.sqrt()),
        }
    }

    /// (a, b) of the DDIM step x' = a·x + b·F from noise level ᾱ to ᾱ′ (Song et al., 2021, η = 0):
    /// x̂₀ = (x − √(1−ᾱ)·ε̂)/√ᾱ, x' = √ᾱ′·x̂₀ + √(1−ᾱ′)·ε̂.
    pub fn ddim_factors(self, from: f64, to: f64) -> (f64, f64) {
        let x = (to / from).sqrt();
        let epsilon = (1.0 - to).sqrt() - to.sqrt() * (1.0 / from - 1.0).sqrt();
        let (p, q) = self.epsilon_factors(from);
        (x + epsilon * p, epsilon * q)
    }
}

/// The noise schedule of training: β_t linear from 1e-4 to 0.02 over 1000 timesteps.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// β_t.
    pub betas: Vec<f64>,
    /// ᾱ_t = Π_{s ≤ t} (1 − β_s).
    pub alphas_cumprod: Vec<f64>,
}

impl Schedule {
    /// The linear schedule.
    pub fn linear() -> Self {
        let (first, last) = (1e-4, 0.02);
        let step = (last - first) / (TIMESTEPS - 1) as f64;
        Self::from_betas((0..TIMESTEPS).map(|t| first + step * t as f64).collect())
    }

    fn from_betas(betas: Vec<f64>) -> Self {
        let mut product = 1.0;
        let alphas_cumprod = betas
            .iter()
            .map(|beta| {
                product *= 1.0 - beta;
                product
            })
            .collect();
        Self { betas, alphas_cumprod }
    }

    /// The schedule at `steps` timesteps spread evenly over 0..=999: their distance 999/(steps − 1)
    /// is accumulated in f64 and each sum rounded, halves to even. One step is timestep 0.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ `steps` ≤ 1000.
    pub fn respaced(&self, steps: usize) -> Result<Respaced> {
        if !(1..=TIMESTEPS).contains(&steps) {
            return Err(Error::argument("respaced", "steps", "in 1..=1000", steps));
        }
        let stride = match steps {
            1 => 1.0,
            _ => (TIMESTEPS - 1) as f64 / (steps - 1) as f64,
        };
        let mut current = 0.0f64;
        let timesteps = (0..steps)
            .map(|_| {
                let t = current.round_ties_even() as usize;
                current += stride;
                t
            })
            .collect();
        Ok(self.at(timesteps))
    }

    /// The schedule at the given timesteps, which ascend.
    pub(super) fn at(&self, timesteps: Vec<usize>) -> Respaced {
        let mut last = 1.0;
        let betas = timesteps
            .iter()
            .map(|&t| {
                let alpha = self.alphas_cumprod[t];
                let beta = 1.0 - alpha / last;
                last = alpha;
                beta
            })
            .collect();
        Respaced { timesteps, schedule: Self::from_betas(betas) }
    }
}

/// A schedule at some of the timesteps.
#[derive(Clone, Debug, PartialEq)]
pub struct Respaced {
    /// Which timesteps, ascending.
    pub timesteps: Vec<usize>,
    /// β and ᾱ between and at them.
    pub schedule: Schedule,
}

impl Respaced {
    /// ᾱ at step i.
    pub fn alpha(&self, i: usize) -> f64 {
        self.schedule.alphas_cumprod[i]
    }

    /// ᾱ at step i + 1; 0 after the last, where nothing of the image is left.
    pub fn alpha_next(&self, i: usize) -> f64 {
        self.schedule.alphas_cumprod.get(i + 1).copied().unwrap_or(0.0)
    }

    /// ᾱ at step i − 1; 1 before the first.
    pub fn alpha_prev(&self, i: usize) -> f64 {
        if i == 0 { 1.0 } else { self.schedule.alphas_cumprod[i - 1] }
    }
}
