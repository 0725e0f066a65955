//! A Diffusion Transformer.

use super::denoiser::{Network, Result};
use crate::parameters::Config;

pub struct Dit<'a> {
    pub network: &'a Network<'a>,
    pub heads: usize,
    pub patch: usize,
}

impl Dit<'_> {
    /// ε of one image: `x` and what is returned are (C, G, G).
    pub fn eps(&self, x: &[f32], timestep: usize) -> Result<Vec<f32>> {
        let n = self.network;
        let (c, stored) = (n.config, n.stored);
        let condition = n.condition("t_embedder", timestep)?;
        let tokens = n.linear("x_embedder.proj", &self.patches(x))?;
        let mut stream = stored.zip(&tokens, n.parameter("pos_embed")?, |x, p| x + p);
        for i in 0..c.depth {
            let block = format!("blocks.{i}");
            let table = n.linear(&format!("{block}.adaLN_modulation.1"), &condition)?;
            let part = |i: usize| &table[i * c.width..][..c.width];
            let h = n.modulated(&n.norm(&stream), part(0), part(1));
            let qkv = n.linear(&format!("{block}.attn.qkv"), &h)?;
            let y = n.linear(
                &format!("{block}.attn.proj"),
                &stored.attention(&qkv, self.heads, c.width),
            )?;
            stream = n.joined(&stream, &y, part(2));
            let h = n.modulated(&n.norm(&stream), part(3), part(4));
            let hidden = stored.map(&n.linear(&format!("{block}.mlp.fc1"), &h)?, gelu);
            let y = n.linear(&format!("{block}.mlp.fc2"), &hidden)?;
            stream = n.joined(&stream, &y, part(5));
        }
        let table = n.linear("final_layer.adaLN_modulation.1", &condition)?;
        let (shift, scale) = table.split_at(c.width);
        let h = n.modulated(&n.norm(&stream), shift, scale);
        Ok(self.image(&n.linear("final_layer.linear", &h)?))
    }

    /// (C, G, G) to (N, C·p·p).
    fn patches(&self, x: &[f32]) -> Vec<f32> {
        let places = (0..x.len()).map(|i| self.place(i, true));
        let x = self.network.stored.all(x.to_vec());
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
        let (&Config { channels, grid, .. }, patch) = (self.network.config, self.patch);
        let (token, at) = (i / (channels * patch * patch), i % (channels * patch * patch));
        let (channel, pixel) = match channels_first {
            true => (at / (patch * patch), at % (patch * patch)),
            false => (at % channels, at / channels),
        };
        let (down, across) = (token / (grid / patch), token % (grid / patch));
        let (row, column) = (down * patch + pixel / patch, across * patch + pixel % patch);
        (channel * grid + row) * grid + column
    }
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (std::f32::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x)).tanh())
}
