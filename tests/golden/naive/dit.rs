//! The denoiser and the flows over it.

use std::collections::BTreeMap;

use invad::diffusion::{Parameterisation, Schedule};

use super::Stored;
use crate::diffusion::Inversion;
use crate::dit::Case;
use crate::library;
use crate::parameters::Config;

type Result<T> = std::result::Result<T, String>;

struct Dit<'a> {
    config: &'a Config,
    parameters: BTreeMap<String, Vec<f32>>,
    stored: Stored,
}

impl<'a> Dit<'a> {
    fn new(config: &'a Config, stored: Stored) -> Self {
        let parameters = config.parameters().into_iter();
        let parameters = parameters.map(|(name, values)| (name, stored.all(values))).collect();
        Self { config, parameters, stored }
    }

    fn parameter(&self, name: &str) -> Result<&[f32]> {
        let name = format!("net.{name}");
        self.parameters.get(&name).map(Vec::as_slice).ok_or_else(|| format!("no `{name}`"))
    }

    fn linear(&self, name: &str, x: &[f32]) -> Result<Vec<f32>> {
        let weight = self.parameter(&format!("{name}.weight"))?;
        let y = library::linear(x, weight, self.parameter(&format!("{name}.bias"))?)?;
        Ok(self.stored.all(y))
    }

    /// ε of one image: `x` and what is returned are (C, G, G).
    fn eps(&self, x: &[f32], timestep: usize) -> Result<Vec<f32>> {
        let (c, stored) = (self.config, self.stored);
        let silu = |v: f32| v / (1.0 + (-v).exp());
        let features = stored.all(library::timestep_embedding(&[timestep])?);
        let hidden = stored.map(&self.linear("t_embedder.mlp.0", &features)?, silu);
        let condition = stored.map(&self.linear("t_embedder.mlp.2", &hidden)?, silu);
        let tokens = self.linear("x_embedder.proj", &self.patches(x))?;
        let mut stream = stored.zip(&tokens, self.parameter("pos_embed")?, |x, p| x + p);
        for i in 0..c.depth {
            let block = format!("blocks.{i}");
            let table = self.linear(&format!("{block}.adaLN_modulation.1"), &condition)?;
            let part = |i: usize| &table[i * c.width..][..c.width];
            let h = self.modulated_norm(&stream, part(0), part(1));
            let qkv = self.linear(&format!("{block}.attn.qkv"), &h)?;
            let y = self
                .linear(&format!("{block}.attn.proj"), &stored.attention(&qkv, c.heads, c.width))?;
            stream = self.joined(&stream, &y, part(2));
            let h = self.modulated_norm(&stream, part(3), part(4));
            let hidden = stored.map(&self.linear(&format!("{block}.mlp.fc1"), &h)?, gelu);
            let y = self.linear(&format!("{block}.mlp.fc2"), &hidden)?;
            stream = self.joined(&stream, &y, part(5));
        }
        let table = self.linear("final_layer.adaLN_modulation.1", &condition)?;
        let (shift, scale) = table.split_at(c.width);
        let h = self.modulated_norm(&stream, shift, scale);
        Ok(self.image(&self.linear("final_layer.linear", &h)?))
    }

    /// (C, G, G) to (N, C·p·p).
    fn patches(&self, x: &[f32]) -> Vec<f32> {
        let places = (0..x.len()).map(|i| self.place(i, true));
        let x = self.stored.all(x.to_vec());
        places.map(|i| x[i]).collect()
    }

    /// (N, p·p·C) to (C, G, G).
    fn image(&self, tokens: &[f32]) -> Vec<f32> {
        let mut x = vec![f32::NAN; tokens.len()];
        tokens.iter().enumerate().for_each(|(i, &v)| x[self.place(i, false)] = v);
        x
    }

    /// Where element `i` of the tokens stands in (C, G, G), channels coming first or last in a token.
    fn place(&self, i: usize, channels_first: bool) -> usize {
        let &Config { channels, grid, patch, .. } = self.config;
        let (token, at) = (i / (channels * patch * patch), i % (channels * patch * patch));
        let (channel, pixel) = match channels_first {
            true => (at / (patch * patch), at % (patch * patch)),
            false => (at % channels, at / channels),
        };
        let (down, across) = (token / (grid / patch), token % (grid / patch));
        let (row, column) = (down * patch + pixel / patch, across * patch + pixel % patch);
        (channel * grid + row) * grid + column
    }

    fn modulated_norm(&self, x: &[f32], shift: &[f32], scale: &[f32]) -> Vec<f32> {
        let stored = self.stored;
        let normed = stored.norm(x, self.config.width, 1e-6);
        let scale = stored.map(scale, |s| 1.0 + s);
        stored.zip(&stored.zip(&normed, &scale, |x, s| x * s), shift, |x, s| x + s)
    }

    /// x + gate·y.
    fn joined(&self, x: &[f32], y: &[f32], gate: &[f32]) -> Vec<f32> {
        let gated = self.stored.zip(y, gate, |y, g| y * g);
        self.stored.zip(x, &gated, |x, y| x + y)
    }
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (std::f32::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

/// ε of each image.
pub fn eps(case: &Case, stored: Stored) -> Result<Vec<f32>> {
    let dit = Dit::new(&case.config, stored);
    let images = case.x.chunks(case.config.elements()).zip(&case.timesteps);
    Ok(images.map(|(x, &t)| dit.eps(x, t)).collect::<Result<Vec<_>>>()?.concat())
}

/// Images (C, G, G) inverted in f16.
pub fn inversion(c: &Config, steps: usize, x: &[f32]) -> Result<Inversion> {
    let schedule = Schedule::linear();
    let mut x = x.to_vec();
    // Timestep, and ᾱ before and after.
    let steps: Vec<(usize, f64, f64)> = if steps == 1 {
        let alpha = schedule.alphas_cumprod[0];
        x = Stored::F16.map(&x, |x| alpha.sqrt() as f32 * x);
        vec![(0, alpha, 0.0)]
    } else {
        let s = schedule.respaced(steps).map_err(|e| e.to_string())?;
        (0..steps).map(|i| (s.timesteps[i], s.alpha(i), s.alpha_next(i))).collect()
    };
    let dit = Dit::new(c, Stored::F16);
    let (mut states, mut eps) = (Vec::new(), Vec::new());
    for step in steps {
        eps.extend(dit.step(&mut x, step)?);
        states.extend_from_slice(&x);
    }
    Ok(Inversion { latent: x, states, eps })
}

/// What `x_t`, at step `k` of `steps`, is denoised to in f16.
pub fn denoised(c: &Config, steps: usize, k: usize, x_t: &[f32]) -> Result<Vec<f32>> {
    let s = Schedule::linear().respaced(steps).map_err(|e| e.to_string())?;
    let (dit, mut x) = (Dit::new(c, Stored::F16), x_t.to_vec());
    for i in (0..k).rev() {
        dit.step(&mut x, (s.timesteps[i], s.alpha(i), s.alpha_prev(i)))?;
    }
    Ok(x)
}

impl Dit<'_> {
    /// Moves images from one ᾱ to another by ε at a timestep, which is returned.
    fn step(&self, x: &mut Vec<f32>, (t, from, to): (usize, f64, f64)) -> Result<Vec<f32>> {
        let images = x.chunks(self.config.elements());
        let eps = images.map(|x| self.eps(x, t)).collect::<Result<Vec<_>>>()?.concat();
        let (a, b) = Parameterisation::Epsilon.ddim_factors(from, to);
        *x = self.stored.zip(x, &eps, |x, e| a as f32 * x + b as f32 * e);
        Ok(eps)
    }
}
