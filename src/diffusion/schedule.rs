//! Noise levels ᾱ_t and the factors that follow from them, in f64.

use std::f64::consts::FRAC_PI_2;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// T of [`Schedule::linear`].
pub const TIMESTEPS: usize = 1000;
/// The largest T.
const MOST: usize = 1 << 16;

/// What the network F predicts.
///
/// A network of EDM (Karras et al., 2022) with σ_data = 1 is given √ᾱ times what it was noised to, and predicts −v.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parameterisation {
    /// F is the noise: ε̂ = F.
    Epsilon,
    /// F is the velocity v = √ᾱ·ε − √(1−ᾱ)·x₀ (Salimans & Ho, 2022): ε̂ = √(1−ᾱ)·x + √ᾱ·F.
    Velocity,
    /// F is what was noised, x₀: ε̂ = (x − √ᾱ·F)/√(1−ᾱ).
    Clean,
    /// F is what noising has added, x − x₀: ε̂ = ((1−√ᾱ)·x + √ᾱ·F)/√(1−ᾱ).
    Residual,
}

impl Parameterisation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Epsilon, Self::Velocity, Self::Clean, Self::Residual];

    /// (p, q) such that ε̂ = p·x + q·F at noise level ᾱ. Without noise, ᾱ = 1, those of [`Clean`](Self::Clean) and
    /// [`Residual`](Self::Residual) are not finite.
    pub fn epsilon_factors(self, alpha: f64) -> (f64, f64) {
        let (signal, noise) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        match self {
            Self::Epsilon => (0.0, 1.0),
            Self::Velocity => (noise, signal),
            Self::Clean => (1.0 / noise, -signal / noise),
            Self::Residual => ((1.0 - signal) / noise, signal / noise),
        }
    }

    /// (p, q) such that the network's target is p·x₀ + q·ε at noise level ᾱ.
    pub fn target_factors(self, alpha: f64) -> (f64, f64) {
        let (signal, noise) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        match self {
            Self::Epsilon => (0.0, 1.0),
            Self::Velocity => (-noise, signal),
            Self::Clean => (1.0, 0.0),
            Self::Residual => (signal - 1.0, noise),
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

/// A network's diffusion process: x_t = √ᾱ_t·x₀ + √(1−ᾱ_t)·ε, and what the network predicts of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// ᾱ_t.
    pub schedule: Schedule,
    /// What the network predicts.
    pub parameterisation: Parameterisation,
}

impl From<Parameterisation> for Process {
    /// By the linear schedule.
    fn from(parameterisation: Parameterisation) -> Self {
        Self { schedule: Schedule::linear(), parameterisation }
    }
}

/// A noise schedule: ᾱ_t at timesteps 0..T, each in (0, 1] and less than the one before.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct Schedule {
    alphas_cumprod: Vec<f64>,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = &self.alphas_cumprod;
        write!(f, "Schedule({} timesteps, ᾱ from {} to {})", all.len(), all[0], all[all.len() - 1])
    }
}

impl From<Schedule> for Vec<f64> {
    fn from(schedule: Schedule) -> Self {
        schedule.alphas_cumprod
    }
}

impl TryFrom<Vec<f64>> for Schedule {
    type Error = Error;

    fn try_from(alphas_cumprod: Vec<f64>) -> Result<Self> {
        Self::new(alphas_cumprod)
    }
}

impl Schedule {
    /// Given as numbers ᾱ_t, from little noise to much.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there are 1 to 65536 of them, each in (0, 1] and less than the one before.
    pub fn new(alphas_cumprod: Vec<f64>) -> Result<Self> {
        count(alphas_cumprod.len())?;
        let mut last = f64::INFINITY;
        for (t, &alpha) in alphas_cumprod.iter().enumerate() {
            if !(alpha > 0.0 && alpha <= 1.0 && alpha < last) {
                let expected = "in (0, 1], each less than the one before";
                return Err(refused("alphas_cumprod", expected, format!("{alpha} at {t}")));
            }
            last = alpha;
        }
        Ok(Self { alphas_cumprod })
    }

    /// Given as β_t: ᾱ_t = Π_{s ≤ t} (1 − β_s).
    ///
    /// # Errors
    /// Those of [`Schedule::new`], of ᾱ.
    pub fn from_betas(betas: impl IntoIterator<Item = f64>) -> Result<Self> {
        Self::new(products(betas))
    }

    /// β_t linear from 1e-4 to 0.02 over 1000 timesteps (Ho et al., 2020): the method's own.
    pub fn linear() -> Self {
        Self { alphas_cumprod: products(spaced(1e-4, 0.02, TIMESTEPS)) }
    }

    /// √β_t linear from √`first` to √`last`, as of latent diffusion (Rombach et al., 2022): Stable Diffusion has 0.00085,
    /// 0.012 and 1000 timesteps.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 0 < `first` ≤ `last` < 1; those of [`Schedule::new`].
    pub fn scaled_linear(first: f64, last: f64, timesteps: usize) -> Result<Self> {
        count(timesteps)?;
        if !(0.0 < first && first <= last && last < 1.0) {
            let got = format!("{first} to {last}");
            return Err(refused("betas", "ascending, between 0 and 1", got));
        }
        Self::from_betas(spaced(first.sqrt(), last.sqrt(), timesteps).map(|root| root * root))
    }

    /// ᾱ_t = f(t + 1)/f(0) with f(t) = cos²(π/2·(t/T + 0.008)/1.008), β_t at most 0.999 (Nichol & Dhariwal, 2021).
    ///
    /// # Errors
    /// Those of [`Schedule::new`].
    pub fn cosine(timesteps: usize) -> Result<Self> {
        const OFFSET: f64 = 0.008;
        const LARGEST: f64 = 0.999;
        count(timesteps)?;
        let f = |t: usize| {
            let angle = (t as f64 / timesteps as f64 + OFFSET) / (1.0 + OFFSET) * FRAC_PI_2;
            angle.cos().powi(2)
        };
        Self::from_betas((0..timesteps).map(|t| (1.0 - f(t + 1) / f(t)).min(LARGEST)))
    }

    /// Given as σ_t, where noise is added to what is not scaled, x₀ + σ_t·ε, from little noise to much: ᾱ = 1/(1 + σ²).
    ///
    /// # Errors
    /// [`Error::Argument`] unless each is finite, at least 0 and larger than the one before; those of [`Schedule::new`].
    pub fn from_sigmas(sigmas: &[f64]) -> Result<Self> {
        let mut last = -f64::MIN_POSITIVE;
        for (t, &sigma) in sigmas.iter().enumerate() {
            if !(sigma > last && sigma.is_finite()) {
                let expected = "finite, at least 0, each larger than the one before";
                return Err(refused("sigmas", expected, format!("{sigma} at {t}")));
            }
            last = sigma;
        }
        Self::new(sigmas.iter().map(|sigma| 1.0 / (1.0 + sigma * sigma)).collect())
    }

    /// σ from `least` to `most`, their seventh roots spaced evenly (Karras et al., 2022).
    ///
    /// # Errors
    /// Those of [`Schedule::from_sigmas`].
    pub fn karras(least: f64, most: f64, timesteps: usize) -> Result<Self> {
        const RHO: f64 = 7.0;
        count(timesteps)?;
        let [first, last] = [least, most].map(|sigma| sigma.powf(1.0 / RHO));
        let sigmas = spaced(first, last, timesteps).map(|root| root.powf(RHO));
        Self::from_sigmas(&sigmas.collect::<Vec<_>>())
    }

    /// T, the number of timesteps; at least one.
    pub fn timesteps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// ᾱ_t.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// β_t = 1 − ᾱ_t/ᾱ_{t−1}, ᾱ_{−1} = 1.
    pub fn betas(&self) -> Vec<f64> {
        betas(self.alphas_cumprod.iter().copied())
    }

    /// The schedule at `steps` timesteps spread evenly over 0..=T − 1: their distance (T − 1)/(steps − 1)
    /// is accumulated in f64 and each sum rounded, halves to even. One step is timestep 0.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ `steps` ≤ T.
    pub fn respaced(&self, steps: usize) -> Result<Respaced> {
        let timesteps = self.timesteps();
        if !(1..=timesteps).contains(&steps) {
            return Err(Error::argument("respaced", "steps", format!("in 1..={timesteps}"), steps));
        }
        let stride = match steps {
            1 => 1.0,
            _ => (timesteps - 1) as f64 / (steps - 1) as f64,
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
        let betas = betas(timesteps.iter().map(|&t| self.alphas_cumprod[t]));
        Respaced { timesteps, schedule: Self { alphas_cumprod: products(betas) } }
    }
}

/// T within its bounds.
fn count(timesteps: usize) -> Result<()> {
    match (1..=MOST).contains(&timesteps) {
        true => Ok(()),
        false => Err(refused("timesteps", &format!("in 1..={MOST}"), timesteps.to_string())),
    }
}

fn refused(arg: &'static str, expected: &str, got: String) -> Error {
    Error::argument("Schedule", arg, expected, got)
}

/// So many numbers from `first` to `last`.
fn spaced(first: f64, last: f64, count: usize) -> impl Iterator<Item = f64> {
    let step = (last - first) / (count - 1).max(1) as f64;
    (0..count).map(move |i| first + step * i as f64)
}

/// Π (1 − β) up to each.
fn products(betas: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let step = |product: &mut f64, beta: f64| {
        *product *= 1.0 - beta;
        Some(*product)
    };
    betas.into_iter().scan(1.0, step).collect()
}

/// 1 − ᾱ over the one before, of the first over 1.
fn betas(alphas: impl Iterator<Item = f64>) -> Vec<f64> {
    let step = |last: &mut f64, alpha: f64| Some(1.0 - alpha / std::mem::replace(last, alpha));
    alphas.scan(1.0, step).collect()
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
