//! The U-Net, in the reference's layouts: grids are (C, S, S), weights (O, C, K, K).

use super::denoiser::{Network, Result};
use crate::library;
use crate::unet::{Blocks, Layer, Sizes};

/// What a network makes of one image.
pub struct Traced {
    pub eps: Vec<f32>,
    /// The output of each block, by name.
    pub blocks: Vec<(String, Vec<f32>)>,
}

/// Of all normalisations.
const GROUPS: usize = 32;

impl Network<'_> {
    /// ε and the outputs of all blocks of one image: `x` and what is returned are (C, G, G).
    pub fn unet(&self, sizes: &Sizes, x: &[f32], timestep: usize) -> Result<Traced> {
        let features = library::timestep_embedding(&[timestep], self.config.width)?;
        let features = self.stored.all(features);
        let hidden = self.silu(&self.conv("time_embed.0", &features, 1, 1)?);
        let condition = self.silu(&self.conv("time_embed.2", &hidden, 1, 1)?);
        let Blocks { input, middle, output } = sizes.blocks(self.config);
        let mut pass = Pass { network: self, sizes, condition, side: self.config.grid };
        let (mut skips, mut blocks) = (Vec::new(), Vec::new());
        let mut x = self.stored.all(x.to_vec());
        for (i, layers) in input.iter().enumerate() {
            let name = format!("input_blocks.{i}");
            x = pass.block(&name, layers, x)?;
            skips.push(x.clone());
            blocks.push((name, x.clone()));
        }
        x = pass.block("middle_block", &middle, x)?;
        blocks.push(("middle_block".into(), x.clone()));
        for (i, layers) in output.iter().enumerate() {
            let name = format!("output_blocks.{i}");
            x.extend(skips.pop().ok_or("more blocks than skips")?);
            x = pass.block(&name, layers, x)?;
            blocks.push((name, x.clone()));
        }
        let normed = self.silu(&self.group_norm("out.0", &x)?);
        Ok(Traced { eps: self.conv("out.2", &normed, self.config.grid, 1)?, blocks })
    }

    /// A convolution whose padding keeps the size, of every `stride`-th cell.
    fn conv(&self, name: &str, x: &[f32], side: usize, stride: usize) -> Result<Vec<f32>> {
        let weight = self.parameter(&format!("{name}.weight"))?;
        let bias = self.parameter(&format!("{name}.bias"))?;
        let channels = x.len() / (side * side);
        let kernel = (weight.len() / (bias.len() * channels)).isqrt();
        let (pad, to) = (kernel / 2, side.div_ceil(stride));
        let mut y = Vec::with_capacity(bias.len() * to * to);
        for (weight, &bias) in weight.chunks(channels * kernel * kernel).zip(bias) {
            let mut sums = vec![f64::from(bias); to * to];
            for (weight, x) in weight.chunks(kernel * kernel).zip(x.chunks(side * side)) {
                for (tap, &w) in weight.iter().enumerate() {
                    let (down, across) = (tap / kernel, tap % kernel);
                    for row in 0..to {
                        let Some(from) = (row * stride + down).checked_sub(pad) else { continue };
                        let Some(x) = x.chunks(side).nth(from) else { continue };
                        for (column, sum) in sums[row * to..][..to].iter_mut().enumerate() {
                            let at = (column * stride + across).checked_sub(pad);
                            let at = at.and_then(|at| x.get(at));
                            *sum += at.map_or(0.0, |&x| f64::from(w) * f64::from(x));
                        }
                    }
                }
            }
            y.extend(sums.into_iter().map(|sum| sum as f32));
        }
        Ok(self.stored.all(y))
    }

    fn group_norm(&self, name: &str, x: &[f32]) -> Result<Vec<f32>> {
        let weight = self.parameter(&format!("{name}.weight"))?;
        let bias = self.parameter(&format!("{name}.bias"))?;
        let cells = x.len() / weight.len();
        let each = |values: &[f32]| -> Vec<f32> {
            values.iter().flat_map(|&v| std::iter::repeat_n(v, cells)).collect()
        };
        let normed = self.stored.norm(x, x.len() / GROUPS, 1e-5);
        Ok(self.scaled(&normed, &each(weight), &each(bias)))
    }
}

struct Pass<'a> {
    network: &'a Network<'a>,
    sizes: &'a Sizes,
    condition: Vec<f32>,
    /// Of the grid at hand.
    side: usize,
}

impl Pass<'_> {
    fn block(&mut self, name: &str, layers: &[Layer], mut x: Vec<f32>) -> Result<Vec<f32>> {
        let (n, stored) = (self.network, self.network.stored);
        for (j, layer) in layers.iter().enumerate() {
            let name = format!("{name}.{j}");
            x = match *layer {
                Layer::Conv(..) => n.conv(&name, &x, self.side, 1)?,
                Layer::Res(a, b) => self.res(&name, a != b, &x)?,
                Layer::Attention(width) => {
                    let y = self.attention(&name, width, &x)?;
                    stored.zip(&x, &y, |x, y| x + y)
                }
                Layer::Down(_) => {
                    let y = n.conv(&format!("{name}.op"), &x, self.side, 2)?;
                    self.side = self.side.div_ceil(2);
                    y
                }
                Layer::Up(_) => {
                    let rows = x.chunks(self.side).flat_map(|row| {
                        let row: Vec<f32> = row.iter().flat_map(|&v| [v, v]).collect();
                        [row.clone(), row].concat()
                    });
                    let doubled: Vec<f32> = rows.collect();
                    self.side *= 2;
                    n.conv(&format!("{name}.conv"), &doubled, self.side, 1)?
                }
            };
        }
        Ok(x)
    }

    fn res(&self, name: &str, projected: bool, x: &[f32]) -> Result<Vec<f32>> {
        let (n, stored) = (self.network, self.network.stored);
        let h = n.silu(&n.group_norm(&format!("{name}.in_layers.0"), x)?);
        let h = n.conv(&format!("{name}.in_layers.2"), &h, self.side, 1)?;
        let shift = n.conv(&format!("{name}.emb_layers.1"), &self.condition, 1, 1)?;
        let cells = self.side * self.side;
        let shift: Vec<f32> = shift.iter().flat_map(|&v| std::iter::repeat_n(v, cells)).collect();
        let h = stored.zip(&h, &shift, |h, s| h + s);
        let h = n.silu(&n.group_norm(&format!("{name}.out_layers.0"), &h)?);
        let h = n.conv(&format!("{name}.out_layers.3"), &h, self.side, 1)?;
        if projected {
            let x = n.conv(&format!("{name}.skip_connection"), x, self.side, 1)?;
            return Ok(stored.zip(&x, &h, |x, h| x + h));
        }
        Ok(stored.zip(x, &h, |x, h| x + h))
    }

    fn attention(&self, name: &str, width: usize, x: &[f32]) -> Result<Vec<f32>> {
        let (n, d, cells) = (self.network, self.sizes.head_size, self.side * self.side);
        let y = n.group_norm(&format!("{name}.norm"), x)?;
        let qkv = n.conv(&format!("{name}.qkv"), &y, self.side, 1)?;
        // Of each head q, k and v; to (N, 3, H, d).
        let heads = width / d;
        let places = (0..qkv.len()).map(|i| {
            let (cell, part, head, k) = (i / (3 * width), i / width % 3, i / d % heads, i % d);
            qkv[((head * 3 + part) * d + k) * cells + cell]
        });
        let attended = n.stored.attention(&places.collect::<Vec<_>>(), heads, width);
        let back = (0..attended.len()).map(|i| attended[i % cells * width + i / cells]);
        n.conv(&format!("{name}.proj_out"), &back.collect::<Vec<_>>(), self.side, 1)
    }
}
