//! What the denoisers share, and the flows over them.

use std::collections::BTreeMap;

use invad::diffusion::{Parameterisation, Schedule};

use super::Stored;
use super::dit::Dit;
use crate::denoiser::Case;
use crate::diffusion::Inversion;
use crate::library;
use crate::parameters::{Config, Kind};

pub type Result<T> = std::result::Result<T, String>;

pub struct Network<'a> {
    pub config: &'a Config,
    parameters: BTreeMap<String, Vec<f32>>,
    pub stored: Stored,
}

impl<'a> Network<'a> {
    fn new(config: &'a Config, stored: Stored) -> Self {
        let parameters = config.parameters().into_iter();
        let parameters = parameters.map(|(name, values)| (name, stored.all(values))).collect();
        Self { config, parameters, stored }
    }

    pub fn parameter(&self, name: &str) -> Result<&[f32]> {
        let name = format!("net.{name}");
        self.parameters.get(&name).map(Vec::as_slice).ok_or_else(|| format!("no `{name}`"))
    }

    pub fn linear(&self, name: &str, x: &[f32]) -> Result<Vec<f32>> {
        let weight = self.parameter(&format!("{name}.weight"))?;
        let y = library::linear(x, weight, self.parameter(&format!("{name}.bias"))?)?;
        Ok(self.stored.all(y))
    }

    /// ε of one image: `x` and what is returned are (C, G, G).
    fn eps(&self, x: &[f32], timestep: usize) -> Result<Vec<f32>> {
        match &self.config.kind {
            &Kind::Dit { heads, patch } => Dit { network: self, heads, patch }.eps(x, timestep),
            Kind::Mlp => self.mlp(x, timestep),
            Kind::Unet(sizes) => Ok(self.unet(sizes, x, timestep)?.eps),
        }
    }

    pub fn silu(&self, x: &[f32]) -> Vec<f32> {
        self.stored.map(x, |v| v / (1.0 + (-v).exp()))
    }

    /// SiLU of the condition that the layers of this name make of a timestep.
    pub fn condition(&self, name: &str, timestep: usize) -> Result<Vec<f32>> {
        let features = self.stored.all(library::timestep_embedding(&[timestep], 256)?);
        let hidden = self.silu(&self.linear(&format!("{name}.mlp.0"), &features)?);
        Ok(self.silu(&self.linear(&format!("{name}.mlp.2"), &hidden)?))
    }

    /// LayerNorm without weight and bias.
    pub fn norm(&self, x: &[f32]) -> Vec<f32> {
        self.stored.norm(x, self.config.width, 1e-6)
    }

    /// x·factor + shift.
    pub fn scaled(&self, x: &[f32], factor: &[f32], shift: &[f32]) -> Vec<f32> {
        self.stored.zip(&self.stored.zip(x, factor, |x, f| x * f), shift, |x, s| x + s)
    }

    /// x·(1 + scale) + shift.
    pub fn modulated(&self, x: &[f32], shift: &[f32], scale: &[f32]) -> Vec<f32> {
        self.scaled(x, &self.stored.map(scale, |s| 1.0 + s), shift)
    }

    /// x + gate·y.
    pub fn joined(&self, x: &[f32], y: &[f32], gate: &[f32]) -> Vec<f32> {
        let gated = self.stored.zip(y, gate, |y, g| y * g);
        self.stored.zip(x, &gated, |x, y| x + y)
    }
}

/// ε of each image.
pub fn eps(case: &Case, stored: Stored) -> Result<Vec<f32>> {
    let network = Network::new(&case.config, stored);
    let images = case.x.chunks(case.config.elements()).zip(&case.timesteps);
    Ok(images.map(|(x, &t)| network.eps(x, t)).collect::<Result<Vec<_>>>()?.concat())
}

/// What the blocks of a U-Net return, by name: of each those of all images.
pub fn blocks(case: &Case, stored: Stored) -> Result<BTreeMap<String, Vec<f32>>> {
    let Kind::Unet(sizes) = &case.config.kind else { return Err("no U-Net".into()) };
    let network = Network::new(&case.config, stored);
    let mut all: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (x, &t) in case.x.chunks(case.config.elements()).zip(&case.timesteps) {
        for (name, block) in network.unet(sizes, x, t)?.blocks {
            all.entry(name).or_default().extend(block);
        }
    }
    Ok(all)
}

/// Images (C, G, G) inverted in f16.
pub fn inversion(c: &Config, steps: usize, x: &[f32]) -> Result<Inversion> {
    let schedule = Schedule::linear();
    let mut x = x.to_vec();
    // Timestep, and ᾱ before and after.
    let steps: Vec<(usize, f64, f64)> = if steps == 1 {
        let alpha = schedule.alphas_cumprod()[0];
        x = Stored::F16.map(&x, |x| alpha.sqrt() as f32 * x);
        vec![(0, alpha, 0.0)]
    } else {
        let s = schedule.respaced(steps).map_err(|e| e.to_string())?;
        (0..steps).map(|i| (s.timesteps[i], s.alpha(i), s.alpha_next(i))).collect()
    };
    let network = Network::new(c, Stored::F16);
    let (mut states, mut eps) = (Vec::new(), Vec::new());
    for step in steps {
        eps.extend(network.step(&mut x, step)?);
        states.extend_from_slice(&x);
    }
    Ok(Inversion { latent: x, states, eps })
}

/// What `x_t`, at step `k` of `steps`, is denoised to in f16.
pub fn denoised(c: &Config, steps: usize, k: usize, x_t: &[f32]) -> Result<Vec<f32>> {
    let s = Schedule::linear().respaced(steps).map_err(|e| e.to_string())?;
    let (network, mut x) = (Network::new(c, Stored::F16), x_t.to_vec());
    for i in (0..k).rev() {
        network.step(&mut x, (s.timesteps[i], s.alpha(i), s.alpha_prev(i)))?;
    }
    Ok(x)
}

impl Network<'_> {
    /// Moves images from one ᾱ to another by ε at a timestep, which is returned.
    fn step(&self, x: &mut Vec<f32>, (t, from, to): (usize, f64, f64)) -> Result<Vec<f32>> {
        let images = x.chunks(self.config.elements());
        let eps = images.map(|x| self.eps(x, t)).collect::<Result<Vec<_>>>()?.concat();
        let (a, b) = Parameterisation::Epsilon.ddim_factors(from, to);
        *x = self.stored.zip(x, &eps, |x, e| a as f32 * x + b as f32 * e);
        Ok(eps)
    }
}
