//! The layers of a network in the order in which they compute, and where their parameters are.

use super::config::{Grid, TIME_RATIO, UnetConfig};
use crate::denoisers::parts::{Modulation, Packing};
use crate::denoisers::{Layout, Linear, Order};
use crate::error::Result;
use crate::ops::Resample;

/// A group normalisation: its weight (C), then its bias (C).
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub offset: usize,
    pub channels: usize,
    /// Its number among all of the network.
    pub site: usize,
}

impl Norm {
    /// What evaluations read of it.
    pub fn pack(&self, packing: &mut Packing) -> Result<()> {
        packing.tensor(self.offset, &[2, self.channels])
    }
}

/// A 3×3 convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conv {
    pub linear: Linear,
    pub resample: Resample,
}

/// A residual block: conv(SiLU(norm(conv(SiLU(norm(x))) + shift))), added to x or to a projection of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Res {
    pub norms: [Norm; 2],
    pub convs: [Conv; 2],
    pub projection: Option<Linear>,
    /// The first column of its shift in the table of timesteps' vectors.
    pub shift: usize,
    /// Its number among the residual blocks.
    pub index: usize,
}

/// Attention over all cells, added to its input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    pub norm: Norm,
    pub qkv: Linear,
    pub proj: Linear,
    pub heads: usize,
    /// Its number among those of the network.
    pub index: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Layer {
    Conv(Conv),
    Res(Res),
    Attention(Attention),
}

/// A layer in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub layer: Layer,
    pub input: Grid,
    pub output: Grid,
    pub join: Option<Join>,
}

/// An earlier layer's output, which is put beside that of the layer before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Join {
    /// The earlier layer.
    pub from: usize,
    /// Its number among those of the network.
    pub index: usize,
}

/// All of a network's layers.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    pub steps: Vec<Step>,
    pub norm: Norm,
    pub out: Conv,
    pub modulation: Modulation,
}

impl Layers {
    /// Those of a configuration that has been checked; adds their parameters.
    pub fn new(c: &UnetConfig, l: &mut Layout) -> Self {
        let time = TIME_RATIO * c.width;
        let mut b = Builder { l, steps: Vec::new(), sites: 0, shifts: Vec::new(), joins: 0 };
        let time_layers = [("time_embed.0", c.width), ("time_embed.2", time)]
            .map(|(name, k)| b.l.linear(name, time, k));
        let top = c.level(0);
        let mut now = b.conv("input_blocks.0.0", top.with(c.channels), c.width, Resample::Same);
        let mut skips = vec![b.last()];
        let mut block = 1;
        for level in 0..c.levels() {
            for _ in 0..c.res_blocks {
                let name = format!("input_blocks.{block}");
                now = b.res(&format!("{name}.0"), now, c.level(level).channels, None);
                if c.attends(level) {
                    b.attention(&format!("{name}.1"), now, c.head_size);
                }
                skips.push(b.last());
                block += 1;
            }
            if level + 1 < c.levels() {
                let name = format!("input_blocks.{block}.0.op");
                now = b.conv(&name, now, now.channels, Resample::Halve);
                skips.push(b.last());
                block += 1;
            }
        }
        now = b.res("middle_block.0", now, now.channels, None);
        b.attention("middle_block.1", now, c.head_size);
        now = b.res("middle_block.2", now, now.channels, None);
        let mut block = 0;
        for level in (0..c.levels()).rev() {
            for i in 0..=c.res_blocks {
                let name = format!("output_blocks.{block}");
                let skip = skips.pop();
                now = b.res(&format!("{name}.0"), now, c.level(level).channels, skip);
                if c.attends(level) {
                    b.attention(&format!("{name}.1"), now, c.head_size);
                }
                if level > 0 && i == c.res_blocks {
                    let layer = 1 + usize::from(c.attends(level));
                    let name = format!("{name}.{layer}.conv");
                    now = b.conv(&name, now, now.channels, Resample::Double);
                }
                block += 1;
            }
        }
        let norm = b.norm("out.0", now.channels);
        let out = b.kernel("out.2", now.channels, c.channels, Resample::Same);
        let table = b.table(time);
        let modulation = Modulation { time: time_layers, table, affine: None };
        Self { steps: b.steps, norm, out, modulation }
    }

    /// The grid that the last layers are of.
    pub fn end(&self) -> Grid {
        self.steps.last().map_or(Grid { side: 0, channels: 0 }, |step| step.output)
    }
}

struct Builder<'a> {
    l: &'a mut Layout,
    steps: Vec<Step>,
    sites: usize,
    /// Names of residual blocks, and their channels.
    shifts: Vec<(String, usize)>,
    joins: usize,
}

impl Builder<'_> {
    fn last(&self) -> usize {
        self.steps.len() - 1
    }

    fn push(&mut self, layer: Layer, input: Grid, output: Grid, join: Option<Join>) -> Grid {
        self.steps.push(Step { layer, input, output, join });
        output
    }

    fn norm(&mut self, name: &str, channels: usize) -> Norm {
        let offset = self.l.add(format!("{name}.weight"), &[channels]);
        self.l.add(format!("{name}.bias"), &[channels]);
        self.sites += 1;
        Norm { offset, channels, site: self.sites - 1 }
    }

    fn kernel(&mut self, name: &str, from: usize, to: usize, resample: Resample) -> Conv {
        Conv { linear: self.l.linear_in(name, &[to, 3, 3, from], Order::Kernel), resample }
    }

    fn conv(&mut self, name: &str, input: Grid, channels: usize, resample: Resample) -> Grid {
        let conv = self.kernel(name, input.channels, channels, resample);
        let [side, _] = resample.output([input.side; 2]);
        self.push(Layer::Conv(conv), input, Grid { side, channels }, None)
    }

    /// After `skip`, an earlier layer, is put beside the one before, where there is one.
    fn res(&mut self, name: &str, before: Grid, channels: usize, skip: Option<usize>) -> Grid {
        let join = skip.map(|from| Join { from, index: self.joins });
        self.joins += usize::from(join.is_some());
        let beside = skip.map_or(0, |from| self.steps[from].output.channels);
        let input = before.with(before.channels + beside);
        let (a, b) = (input.channels, channels);
        let norms = [("in_layers.0", a), ("out_layers.0", b)]
            .map(|(part, n)| self.norm(&format!("{name}.{part}"), n));
        let convs = [("in_layers.2", a), ("out_layers.3", b)]
            .map(|(part, n)| self.kernel(&format!("{name}.{part}"), n, b, Resample::Same));
        let projection = (a != b).then(|| {
            self.l.linear_in(&format!("{name}.skip_connection"), &[b, a, 1, 1], Order::Same)
        });
        let shift = self.shifts.iter().map(|(_, n)| n).sum();
        let res = Res { norms, convs, projection, shift, index: self.shifts.len() };
        self.shifts.push((name.into(), b));
        self.push(Layer::Res(res), input, before.with(b), join)
    }

    fn attention(&mut self, name: &str, grid: Grid, head_size: usize) {
        let c = grid.channels;
        let norm = self.norm(&format!("{name}.norm"), c);
        let heads = Order::Heads { size: head_size };
        let qkv = self.l.linear_in(&format!("{name}.qkv"), &[3 * c, c, 1], heads);
        let proj = self.l.linear_in(&format!("{name}.proj_out"), &[c, c, 1], Order::Same);
        let of_attention = |step: &&Step| matches!(step.layer, Layer::Attention(_));
        let index = self.steps.iter().filter(of_attention).count();
        let attention = Attention { norm, qkv, proj, heads: c / head_size, index };
        self.push(Layer::Attention(attention), grid, grid, None);
    }

    /// The layer of all shifts, one behind the other: all weights, then all biases.
    fn table(&mut self, time: usize) -> Linear {
        let n = self.shifts.iter().map(|(_, n)| n).sum();
        let layer = Linear { offset: self.l.len, n, k: time };
        for (name, n) in &self.shifts {
            self.l.add(format!("{name}.emb_layers.1.weight"), &[*n, time]);
        }
        for (name, n) in &self.shifts {
            self.l.add(format!("{name}.emb_layers.1.bias"), &[*n]);
        }
        layer
    }
}

/// Whether a parameter is zero in a fresh network: of the last layer of each branch and of the network.
pub(super) fn is_zero(name: &str) -> bool {
    let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
    layer.ends_with("out_layers.3") || layer.ends_with("proj_out") || layer == "out.2"
}

/// Whether a parameter belongs to a group normalisation.
pub(super) fn is_norm(name: &str) -> bool {
    let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
    [".in_layers.0", ".out_layers.0", ".norm"].iter().any(|end| layer.ends_with(end))
        || layer == "out.0"
}
