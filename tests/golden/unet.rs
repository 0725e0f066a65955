//! The sizes of a U-Net's cases and the parameters that such a network has.

use serde_json::Value;

use crate::golden::whole;
use crate::parameters::Config;

/// What only a U-Net has.
#[derive(Clone, Debug)]
pub struct Sizes {
    pub channel_mult: Vec<usize>,
    pub attention_downsample: Vec<usize>,
    pub head_size: usize,
}

/// A layer within a block, with the channels that it takes and returns.
#[derive(Clone, Copy, Debug)]
pub enum Layer {
    Conv(usize, usize),
    Res(usize, usize),
    Attention(usize),
    Down(usize),
    Up(usize),
}

/// The blocks of a network by name, each with its layers.
pub struct Blocks {
    pub input: Vec<Vec<Layer>>,
    pub middle: Vec<Layer>,
    /// Each takes an input block's output beside that of the block before, from the last on.
    pub output: Vec<Vec<Layer>>,
}

impl Sizes {
    pub fn read(config: &Value) -> Result<Self, String> {
        let list = |key: &str| -> Result<Vec<usize>, String> {
            let numbers = config[key].as_array().into_iter().flatten();
            let numbers = numbers.map(|n| n.as_u64().map(|n| n as usize));
            numbers.collect::<Option<_>>().ok_or_else(|| format!("manifest: `{key}`"))
        };
        Ok(Self {
            channel_mult: list("channel_mult")?,
            attention_downsample: list("attention_downsample")?,
            head_size: whole(config, "head_channels")?,
        })
    }

    pub fn blocks(&self, c: &Config) -> Blocks {
        let attends = |down: usize| self.attention_downsample.contains(&down);
        let attention = |down, channels| attends(down).then_some(Layer::Attention(channels));
        let mut input = vec![vec![Layer::Conv(c.channels, c.width)]];
        let (mut skips, mut now, mut down) = (vec![c.width], c.width, 1);
        for (level, mult) in self.channel_mult.iter().enumerate() {
            for _ in 0..c.depth {
                let before = std::mem::replace(&mut now, mult * c.width);
                input.push(
                    [Layer::Res(before, now)].into_iter().chain(attention(down, now)).collect(),
                );
                skips.push(now);
            }
            if level + 1 < self.channel_mult.len() {
                input.push(vec![Layer::Down(now)]);
                skips.push(now);
                down *= 2;
            }
        }
        let middle = vec![Layer::Res(now, now), Layer::Attention(now), Layer::Res(now, now)];
        let mut output = Vec::new();
        for (level, mult) in self.channel_mult.iter().enumerate().rev() {
            for i in 0..=c.depth {
                let before = now + skips.pop().unwrap_or_default();
                now = mult * c.width;
                let up = level > 0 && i == c.depth;
                let block = [Layer::Res(before, now)].into_iter().chain(attention(down, now));
                output.push(block.chain(up.then_some(Layer::Up(now))).collect());
                if up {
                    down /= 2;
                }
            }
        }
        Blocks { input, middle, output }
    }

    /// The parameters that get a gradient: official name and shape.
    pub fn shapes(&self, c: &Config) -> Vec<(String, Vec<usize>)> {
        let time = 4 * c.width;
        let mut shapes = Vec::new();
        let mut weighted = |name: String, weight: &[usize]| {
            shapes.push((format!("net.{name}.weight"), weight.to_vec()));
            shapes.push((format!("net.{name}.bias"), weight[..1].to_vec()));
        };
        weighted("time_embed.0".into(), &[time, c.width]);
        weighted("time_embed.2".into(), &[time, time]);
        let Blocks { input, middle, output } = self.blocks(c);
        let named = |group: &'static str, blocks: Vec<Vec<Layer>>| {
            let blocks = blocks.into_iter().enumerate();
            blocks.map(move |(i, block)| (format!("{group}.{i}"), block))
        };
        let middle = [("middle_block".to_owned(), middle)];
        for (name, block) in
            named("input_blocks", input).chain(middle).chain(named("output_blocks", output))
        {
            for (j, layer) in block.into_iter().enumerate() {
                let name = format!("{name}.{j}");
                match layer {
                    Layer::Conv(a, b) => weighted(name, &[b, a, 3, 3]),
                    Layer::Down(n) => weighted(format!("{name}.op"), &[n, n, 3, 3]),
                    Layer::Up(n) => weighted(format!("{name}.conv"), &[n, n, 3, 3]),
                    Layer::Attention(n) => {
                        weighted(format!("{name}.norm"), &[n]);
                        weighted(format!("{name}.qkv"), &[3 * n, n, 1]);
                        weighted(format!("{name}.proj_out"), &[n, n, 1]);
                    }
                    Layer::Res(a, b) => {
                        weighted(format!("{name}.in_layers.0"), &[a]);
                        weighted(format!("{name}.in_layers.2"), &[b, a, 3, 3]);
                        weighted(format!("{name}.emb_layers.1"), &[b, time]);
                        weighted(format!("{name}.out_layers.0"), &[b]);
                        weighted(format!("{name}.out_layers.3"), &[b, b, 3, 3]);
                        if a != b {
                            weighted(format!("{name}.skip_connection"), &[b, a, 1, 1]);
                        }
                    }
                }
            }
        }
        let first = self.channel_mult.first().map_or(0, |mult| mult * c.width);
        weighted("out.0".into(), &[first]);
        weighted("out.2".into(), &[c.channels, first, 3, 3]);
        shapes
    }
}
