//! The MLP over single cells.

use super::denoiser::{Network, Result};

impl Network<'_> {
    /// ε of one image: `x` and what is returned are (C, G, G).
    pub fn mlp(&self, x: &[f32], timestep: usize) -> Result<Vec<f32>> {
        let c = self.config;
        let cells = c.grid * c.grid;
        let condition = self.condition("time_embed", timestep)?;
        let x = self.stored.all(transposed(x, c.channels, cells));
        let mut stream = self.linear("input_proj", &x)?;
        let normed = |stream: &[f32], name: &str| -> Result<Vec<f32>> {
            let weight = self.parameter(&format!("{name}.weight"))?;
            Ok(self.scaled(&self.norm(stream), weight, self.parameter(&format!("{name}.bias"))?))
        };
        for i in 0..c.depth {
            let block = format!("res_blocks.{i}");
            let table = self.linear(&format!("{block}.adaLN_modulation.1"), &condition)?;
            let part = |i: usize| &table[i * c.width..][..c.width];
            let h = normed(&stream, &format!("{block}.in_ln"))?;
            let h = self.modulated(&h, part(0), part(1));
            let hidden = self.silu(&self.linear(&format!("{block}.mlp.0"), &h)?);
            let y = self.linear(&format!("{block}.mlp.2"), &hidden)?;
            stream = self.joined(&stream, &y, part(2));
        }
        let table = self.linear("final_layer.adaLN_modulation.1", &condition)?;
        let (shift, scale) = table.split_at(c.width);
        let h = self.modulated(&normed(&stream, "final_layer.norm_final")?, shift, scale);
        Ok(transposed(&self.linear("final_layer.linear", &h)?, cells, c.channels))
    }
}

/// (R, C) to (C, R).
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect()
}
