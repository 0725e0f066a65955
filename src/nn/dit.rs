//! The denoiser: a Diffusion Transformer (Peebles & Xie, 2023) over a grid of features.
//!
//! The network is a chain of 2·depth + 1 sites. Site k joins the previous branch to the residual
//! stream, normalises and modulates it (one AdaLN-Zero operation); branch k is attention where k is
//! even and the MLP where it is odd; the last site feeds the output layer. All modulation vectors
//! come from one linear layer: chunk 6i + j of its output is vector j of block i (shift, scale,
//! gate for attention, then for the MLP), and the last two are the output layer's shift and scale.

use std::fmt;

mod buffers;

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub(crate) use buffers::stored;
pub use buffers::{Activations, Gradients};
use buffers::{TimestepActivations, TimestepGradients};

use crate::error::{Error, Result};
use crate::ops::kernels::{LARGEST_HEAD, MOST_TOKENS, WIDEST, WIDEST_BACKWARD};
use crate::ops::{
    self, Activation, Chunk, PackedWeight, PatchOrder, Random, Residual, ResidualBackward, Stream,
    TIMESTEP_FEATURES, Weight,
};
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};

/// Modulation vectors of one block.
const PER_BLOCK: usize = 6;
/// Hidden units of the MLP per unit of width.
const MLP_RATIO: usize = 4;

/// The sizes of a [`Dit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DitConfig {
    /// Feature channels C.
    pub channels: usize,
    /// Side G of the feature grid.
    pub grid: usize,
    /// Model width D.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Side of a patch; it divides the grid.
    pub patch: usize,
}

impl DitConfig {
    /// N, the number of tokens.
    pub fn tokens(&self) -> usize {
        (self.grid / self.patch).pow(2)
    }

    /// Numbers of one token: C·p².
    fn token_len(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    fn chunks(&self) -> usize {
        PER_BLOCK * self.depth + 2
    }

    /// Whether a device can be used and can compute networks of these sizes forward.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be used; [`Error::Argument`] if it is a GPU and there are no
    /// kernels for the sizes: there are for widths that are multiples of 8 up to 8192, head sizes that
    /// are multiples of 8 up to 256, and up to 4096 tokens.
    pub fn require(&self, device: Device) -> Result<()> {
        device.require()?;
        if device != Device::Cpu {
            for (arg, got, multiple, most) in [
                ("width", self.width, 8, WIDEST),
                ("head size", self.width / self.heads, 8, LARGEST_HEAD),
                ("tokens", self.tokens(), 1, MOST_TOKENS),
            ] {
                if !got.is_multiple_of(multiple) || got > most {
                    let expected = format!("a multiple of {multiple} up to {most} on a GPU");
                    return Err(Error::argument("Dit", arg, expected, got));
                }
            }
        }
        Ok(())
    }

    /// Whether a device can be used and can train networks of these sizes.
    ///
    /// # Errors
    /// Those of [`DitConfig::require`]; [`Error::Argument`] if the device is a GPU and the width is
    /// above 4096, of which there are no gradients.
    pub fn require_training(&self, device: Device) -> Result<()> {
        self.require(device)?;
        if device != Device::Cpu && self.width > WIDEST_BACKWARD {
            let expected = format!("up to {WIDEST_BACKWARD} for training on a GPU");
            return Err(Error::argument("Dit", "width", expected, self.width));
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let e = |arg, expected: &str, got: usize| Error::argument("Dit", arg, expected, got);
        let sizes = [
            ("channels", self.channels),
            ("grid", self.grid),
            ("width", self.width),
            ("heads", self.heads),
            ("patch", self.patch),
        ];
        for (name, value) in sizes {
            if !(1..=1 << 14).contains(&value) {
                return Err(e(name, "in 1..=16384", value));
            }
        }
        if self.depth > 1024 {
            return Err(e("depth", "at most 1024", self.depth));
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(e("heads", &format!("a divisor of the width {}", self.width), self.heads));
        }
        if !self.grid.is_multiple_of(self.patch) {
            return Err(e("patch", &format!("a divisor of the grid {}", self.grid), self.patch));
        }
        Ok(())
    }
}

/// What a backward pass computes again instead of having it kept, from the fastest to the smallest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Nothing.
    #[default]
    Nothing,
    /// The outputs of normalisations and of GELUs.
    Normalisation,
    /// Everything but the residual stream between blocks: each block's forward pass.
    Blocks,
}

impl Recompute {
    /// All of them, each smaller and slower than the one before.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Normalisation, Self::Blocks];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Normalisation => "normalisation",
            Self::Blocks => "blocks",
        }
    }
}

/// A network's parameters: the flat tensor in f32 and, for computing on a GPU, its copy in f16.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// In f32.
    pub full: &'a Tensor,
    /// In f16, which a GPU's matrix products read.
    pub half: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for Parameters<'a> {
    fn from(full: &'a Tensor) -> Self {
        Self { full, half: None }
    }
}

impl<'a> From<&'a mut Tensor> for Parameters<'a> {
    fn from(full: &'a mut Tensor) -> Self {
        Self { full, half: None }
    }
}

impl<'a> Parameters<'a> {
    fn check(&self, op: &'static str, dit: &Dit) -> Result<()> {
        ops::expect_shape(op, "parameters", self.full.shape(), &[dit.len])?;
        match self.half {
            Some(half) => ops::expect_shape(op, "half", half.shape(), &[dit.len]),
            None => Ok(()),
        }
    }

    fn weight(&self, layer: &Linear) -> Result<TensorView<'a>> {
        layer.weight(self.half.unwrap_or(self.full))
    }

    /// The bias for an output of this type.
    fn bias(&self, layer: &Linear, output: DType) -> Result<TensorView<'a>> {
        match self.half {
            Some(half) if output == DType::F16 => layer.bias(half),
            _ => layer.bias(self.full),
        }
    }
}

/// A named parameter: a part of the flat tensor that holds them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the method's reference implementation, without the prefix `net.`.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Where it starts, in elements.
    pub offset: usize,
}

impl Parameter {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A linear layer's place: the weight (n, k), then the bias (n).
#[derive(Clone, Copy, Debug)]
struct Linear {
    offset: usize,
    n: usize,
    k: usize,
}

impl Linear {
    fn weight<'a>(&self, arena: &'a Tensor) -> Result<TensorView<'a>> {
        arena.view().part(self.offset, &[self.n, self.k])
    }

    fn bias<'a>(&self, arena: &'a Tensor) -> Result<TensorView<'a>> {
        arena.view().part(self.offset + self.n * self.k, &[self.n])
    }

    fn parts<'a>(&self, arena: &'a mut Tensor) -> Result<(TensorViewMut<'a>, TensorViewMut<'a>)> {
        let len = self.n * self.k + self.n;
        arena.view_mut().part(self.offset, &[len])?.split(&[self.n, self.k])
    }
}

#[derive(Clone, Copy, Debug)]
struct Block {
    qkv: Linear,
    proj: Linear,
    fc1: Linear,
    fc2: Linear,
}

/// A Diffusion Transformer's structure. Its parameters are a flat tensor of [`Dit::len`] numbers.
#[derive(Clone, Debug)]
pub struct Dit {
    config: DitConfig,
    parameters: Vec<Parameter>,
    len: usize,
    embed: Linear,
    position: usize,
    time: [Linear; 2],
    blocks: Vec<Block>,
    modulation: Linear,
    output: Linear,
}

impl Dit {
    /// A network of these sizes.
    ///
    /// # Errors
    /// [`Error::Argument`] if a size is 0 or out of range, or sizes do not divide as they should.
    pub fn new(config: DitConfig) -> Result<Self> {
        config.check()?;
        let DitConfig { channels, width, depth, patch, .. } = config;
        let mut l = Layout::default();
        let embed = l.linear_shaped("x_embedder.proj", &[width, channels, patch, patch]);
        let position = l.add("pos_embed".into(), &[1, config.tokens(), width]);
        let time = [
            l.linear("t_embedder.mlp.0", width, TIMESTEP_FEATURES),
            l.linear("t_embedder.mlp.2", width, width),
        ];
        let blocks = (0..depth)
            .map(|i| Block {
                qkv: l.linear(&format!("blocks.{i}.attn.qkv"), 3 * width, width),
                proj: l.linear(&format!("blocks.{i}.attn.proj"), width, width),
                fc1: l.linear(&format!("blocks.{i}.mlp.fc1"), MLP_RATIO * width, width),
                fc2: l.linear(&format!("blocks.{i}.mlp.fc2"), width, MLP_RATIO * width),
            })
            .collect();
        // One layer in memory: all weights, then all biases.
        let parts = (0..depth).map(|i| (format!("blocks.{i}"), PER_BLOCK * width));
        let parts: Vec<_> = parts.chain([("final_layer".into(), 2 * width)]).collect();
        let modulation = Linear { offset: l.len, n: config.chunks() * width, k: width };
        for (owner, rows) in &parts {
            l.add(format!("{owner}.adaLN_modulation.1.weight"), &[*rows, width]);
        }
        for (owner, rows) in &parts {
            l.add(format!("{owner}.adaLN_modulation.1.bias"), &[*rows]);
        }
        let output = l.linear("final_layer.linear", config.token_len(), width);
        Ok(Self {
            config,
            parameters: l.parameters,
            len: l.len,
            embed,
            position,
            time,
            blocks,
            modulation,
            output,
        })
    }

    /// The sizes.
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// The parameters in the order of the flat tensor.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The number of parameters, in elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no parameters; there always are.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fresh parameters: Xavier-uniform weights, N(0, 0.02²) for the timestep's layers, sin-cos
    /// positions, zero for biases, modulation and output layer, so that a fresh network returns 0.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used.
    pub fn init(&self, seed: u64, device: Device) -> Result<Tensor> {
        let mut values = vec![0.0f32; self.len];
        self.init_each(seed, |p, numbers| {
            values[p.offset..][..p.len()].copy_from_slice(numbers);
            Ok(())
        })?;
        Tensor::from_f32(values, &[self.len], device)
    }

    /// Hands over the numbers of [`Dit::init`], parameter by parameter.
    pub(crate) fn init_each(
        &self,
        seed: u64,
        mut each: impl FnMut(&Parameter, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let mut values = Vec::new();
        for (i, p) in self.parameters.iter().enumerate() {
            values.clear();
            values.resize(p.len(), 0.0f32);
            let out = &mut values[..];
            let random = Random { seed, stream: Stream::Init, step: i as u64 };
            let zero = p.name.ends_with("bias")
                || p.name.contains("adaLN_modulation")
                || p.name.starts_with("final_layer");
            if p.name == "pos_embed" {
                sin_cos_positions(self.config.grid / self.config.patch, self.config.width, out);
            } else if p.name.starts_with("t_embedder") && !zero {
                ops::normal(random, TensorViewMut::from_slice(out, &[p.len()])?)?;
                out.iter_mut().for_each(|x| *x *= 0.02);
            } else if !zero {
                let bound = (6.0 / (p.shape[0] + p.len() / p.shape[0]) as f64).sqrt();
                out.par_chunks_mut(4).enumerate().with_min_len(1 << 12).for_each(|(j, out)| {
                    for (x, word) in out.iter_mut().zip(random.words(j as u64)) {
                        let unit = (f64::from(word) + 0.5) / (1u64 << 31) as f64 - 1.0;
                        *x = (bound * unit) as f32;
                    }
                });
            }
            each(p, out)?;
        }
        Ok(())
    }

    /// The modulation vectors of timesteps `t` (B), as a table (B, (6·depth + 2)·D).
    fn modulation_table<'a>(
        &self,
        parameters: impl Into<Parameters<'a>>,
        t: impl Into<TensorView<'a>>,
        acts: &mut TimestepActivations,
        table: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        let (parameters, t, table) = (parameters.into(), t.into(), table.into());
        let [first, second] = &self.time;
        let TimestepActivations { features, hidden, hidden_silu, c, c_silu } = acts;
        ops::timestep_embedding(t, &mut *features)?;
        plain(first, parameters, features.view(), hidden.view_mut())?;
        ops::silu(&*hidden, &mut *hidden_silu)?;
        plain(second, parameters, hidden_silu.view(), c.view_mut())?;
        ops::silu(&*c, &mut *c_silu)?;
        plain(&self.modulation, parameters, c_silu.view(), table)
    }

    /// out = F(x, t), keeping in `acts` what [`Dit::backward`] needs.
    ///
    /// `x`, `out`: (B, G, G, C); `t`: (B). On a GPU `out` holds f16, and the parameters are needed
    /// in f16 as well.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit the network or `acts`.
    pub fn forward<'a>(
        &self,
        parameters: impl Into<Parameters<'a>>,
        x: impl Into<TensorView<'a>>,
        t: impl Into<TensorView<'a>>,
        acts: &mut Activations,
        out: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        let (parameters, x, t, out) = (parameters.into(), x.into(), t.into(), out.into());
        parameters.check("Dit", self)?;
        // Taken out for the time of the pass, which writes to the rest.
        let mut table = acts.table.take().ok_or_else(|| {
            Error::argument("Dit::forward", "acts", "made for training", "made for inference")
        })?;
        let done = self
            .modulation_table(parameters, t, &mut acts.timestep, &mut table)
            .and_then(|()| self.run(&Source::Arena(parameters), x, table.view(), acts, out));
        acts.table = Some(table);
        done
    }

    fn run(
        &self,
        source: &Source,
        x: TensorView,
        table: TensorView,
        acts: &mut Activations,
        mut out: TensorViewMut,
    ) -> Result<()> {
        let c = &self.config;
        let grid = [acts.batch, c.grid, c.grid, c.channels];
        ops::expect_shape("Dit", "x", x.shape(), &grid)?;
        ops::expect_shape("Dit", "out", out.shape(), &grid)?;
        ops::patchify(x, &mut acts.patches, c.patch, PatchOrder::ChannelsFirst)?;
        // The first site's output is not needed before the site is reached.
        let tokens = slot_mut(&mut acts.sites, 0);
        source.linear(&self.embed, acts.patches.view(), tokens.view_mut())?;
        ops::add_position(&*tokens, source.position(self)?, &mut acts.stream[0])?;
        self.site(0, table, acts, false)?;
        for k in 0..2 * c.depth {
            self.branch(k, source, acts)?;
            self.site(k + 1, table, acts, true)?;
        }
        let h = slot(&acts.sites, 2 * c.depth);
        source.linear(&self.output, h.view(), acts.patches_out.view_mut())?;
        ops::unpatchify(&acts.patches_out, out.reborrow(), c.patch, PatchOrder::ChannelsLast)
    }

    /// Site k: joins branch k − 1 to the stream before it, or takes the stream as it is after it.
    fn site(&self, k: usize, table: TensorView, acts: &mut Activations, join: bool) -> Result<()> {
        let chunk = |index| Chunk { table, index };
        let (shift, scale) = site_chunks(k);
        let (shift, scale) = (chunk(shift), chunk(scale));
        let now = acts.stream_at(k);
        let before = if join { acts.stream_at(k - 1) } else { now };
        let h = slot_mut(&mut acts.sites, k);
        let stats = acts.stats.get_mut(k).map(Tensor::view_mut);
        if !join {
            return ops::adaln_zero(&acts.stream[now], None, shift, scale, None, h, stats);
        }
        let [x, x_out] = acts
            .stream
            .get_disjoint_mut([before, now])
            .expect("the stream alternates between two tensors at least");
        let y = slot(&acts.branches, k - 1).view();
        let residual = Some(Residual { y, gate: chunk(gate_chunk(k)) });
        ops::adaln_zero(x.view(), residual, shift, scale, Some(x_out.view_mut()), h, stats)
    }

    /// Branch k: attention, or the MLP, of what site k gives.
    fn branch(&self, k: usize, source: &Source, acts: &mut Activations) -> Result<()> {
        let c = &self.config;
        let (i, block) = (k / 2, &self.blocks[k / 2]);
        let h = slot(&acts.sites, k).view();
        let y = slot_mut(&mut acts.branches, k).view_mut();
        if k.is_multiple_of(2) {
            let qkv = slot_mut(&mut acts.qkv, i);
            let joined = [acts.batch, c.tokens(), 3 * c.width];
            source.linear(&block.qkv, h, qkv.view_mut().part(0, &joined)?)?;
            let lse = (!acts.lse.is_empty()).then(|| slot_mut(&mut acts.lse, i).view_mut());
            let attended = slot_mut(&mut acts.attended, i);
            ops::attention(&*qkv, &mut *attended, lse)?;
            source.linear(&block.proj, attended.view(), y)
        } else {
            let hidden = slot_mut(&mut acts.hidden, i);
            let pre = &mut acts.hidden_pre;
            let pre = (!pre.is_empty()).then(|| slot_mut(pre, i).view_mut());
            let (w, b) = source.weights(&block.fc1, hidden.dtype())?;
            ops::linear(h, w, Some(b), Activation::Gelu, pre, &mut *hidden)?;
            source.linear(&block.fc2, hidden.view(), y)
        }
    }

    /// The gradients for the last [`Dit::forward`] with these `acts`: those of the parameters are
    /// accumulated in `gradients.parameters`, that of x is written to `dx` if it is asked for. It
    /// can be called once for a forward pass: `acts` keep what is computed again.
    ///
    /// `dout`, `dx`: (B, G, G, C); on a GPU `dout` holds f16 or f32 and `dx` f16.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit the network or `acts`.
    pub fn backward<'a>(
        &self,
        parameters: impl Into<Parameters<'a>>,
        acts: &mut Activations,
        dout: impl Into<TensorView<'a>>,
        gradients: &mut Gradients,
        dx: Option<TensorViewMut<'a>>,
    ) -> Result<()> {
        const OP: &str = "Dit::backward";
        let (parameters, dout) = (parameters.into(), dout.into());
        parameters.check(OP, self)?;
        let c = &self.config;
        ops::expect_shape(OP, "dout", dout.shape(), &[acts.batch, c.grid, c.grid, c.channels])?;
        let Some(table) = acts.table.take() else {
            return Err(Error::argument(OP, "acts", "made for training", "made for inference"));
        };
        let done = self.run_backward(parameters, table.view(), acts, dout, gradients, dx);
        acts.table = Some(table);
        done
    }

    fn run_backward(
        &self,
        parameters: Parameters,
        table: TensorView,
        acts: &mut Activations,
        dout: TensorView,
        gradients: &mut Gradients,
        dx: Option<TensorViewMut>,
    ) -> Result<()> {
        let c = &self.config;
        let chunk = |index| Chunk { table, index };
        let Gradients {
            parameters: dp,
            patches,
            dh,
            dstream,
            dy,
            dqkv,
            dattended,
            dhidden,
            dtable,
            time,
        } = gradients;
        ops::patchify(dout, &mut *patches, c.patch, PatchOrder::ChannelsLast)?;
        let last = 2 * c.depth;
        let h = slot(&acts.sites, last);
        plain_backward(&self.output, parameters, patches, h, Some(dh), dp)?;
        dstream.view_mut().fill(0.0)?;
        for k in (0..=last).rev() {
            // dh holds the gradient of site k's output.
            if acts.recompute == Recompute::Blocks && k > 0 && k < last && k.is_multiple_of(2) {
                self.block_again(k / 2 - 1, parameters, table, acts)?;
            }
            let (shift, scale) = site_chunks(k);
            let residual = match k {
                0 => None,
                _ => Some(ResidualBackward {
                    forward: Residual {
                        y: slot(&acts.branches, k - 1).view(),
                        gate: chunk(gate_chunk(k)),
                    },
                    dy: dy.view_mut(),
                }),
            };
            ops::adaln_zero_backward(
                &acts.stream[acts.stream_at(k)],
                &acts.stats[k],
                shift,
                chunk(scale),
                &*dh,
                &mut *dstream,
                residual,
                &mut *dtable,
            )?;
            if k == 0 {
                break;
            }
            let k = k - 1;
            let (i, block) = (k / 2, &self.blocks[k / 2]);
            if acts.recompute == Recompute::Normalisation {
                self.site(k, table, acts, false)?;
                if !k.is_multiple_of(2) {
                    ops::gelu(slot(&acts.hidden_pre, i), slot_mut(&mut acts.hidden, i))?;
                }
            }
            let h = slot(&acts.sites, k);
            if k.is_multiple_of(2) {
                let (qkv, attended) = (slot(&acts.qkv, i), slot(&acts.attended, i));
                plain_backward(&block.proj, parameters, dy, attended, Some(dattended), dp)?;
                let lse = slot(&acts.lse, i);
                ops::attention_backward(qkv, attended, lse, &*dattended, &mut *dqkv)?;
                let dqkv = dqkv.view().part(0, &[acts.batch, c.tokens(), 3 * c.width])?;
                backward(&block.qkv, parameters, dqkv, h.view(), Some(dh.view_mut()), dp)?;
            } else {
                let (dw, db) = block.fc2.parts(dp)?;
                ops::linear_backward_weight(&*dy, slot(&acts.hidden, i), dw, Some(db))?;
                let (w, pre) = (parameters.weight(&block.fc2)?, slot(&acts.hidden_pre, i).view());
                ops::linear_backward_input(&*dy, w, Some(pre), &mut *dhidden)?;
                plain_backward(&block.fc1, parameters, dhidden, h, Some(dh), dp)?;
            }
        }
        let dposition = dp.view_mut().part(self.position, &[c.tokens(), c.width])?;
        ops::add_position_backward(&*dstream, dposition)?;
        let want = dx.is_some();
        plain_backward(
            &self.embed,
            parameters,
            dstream,
            &acts.patches,
            want.then_some(&mut *patches),
            dp,
        )?;
        if let Some(dx) = dx {
            ops::unpatchify(&*patches, dx, c.patch, PatchOrder::ChannelsFirst)?;
        }
        let acts = &acts.timestep;
        let [first, second] = &self.time;
        let TimestepGradients { d_silu, d } = time;
        plain_backward(&self.modulation, parameters, dtable, &acts.c_silu, Some(d_silu), dp)?;
        ops::silu_backward(&acts.c, &*d_silu, &mut *d)?;
        plain_backward(second, parameters, d, &acts.hidden_silu, Some(d_silu), dp)?;
        ops::silu_backward(&acts.hidden, &*d_silu, &mut *d)?;
        plain_backward(first, parameters, d, &acts.features, None, dp)
    }

    /// What the forward pass of block i has computed, from the stream before it.
    fn block_again(
        &self,
        i: usize,
        parameters: Parameters,
        table: TensorView,
        acts: &mut Activations,
    ) -> Result<()> {
        let source = Source::Arena(parameters);
        self.site(2 * i, table, acts, false)?;
        self.branch(2 * i, &source, acts)?;
        self.site(2 * i + 1, table, acts, true)?;
        self.branch(2 * i + 1, &source, acts)
    }
}

impl Dit {
    /// Bytes that the kernels of a training over `batch` images at once leave to each other on a GPU.
    pub(crate) fn scratch_bytes(&self, batch: usize) -> usize {
        use crate::ops::kernels as gpu;
        let c = &self.config;
        let (n, d) = (c.tokens(), c.width);
        let rows = batch * n;
        let half = |layer: &Linear| gpu::linear_backward_scratch(rows, layer.n, DType::F16);
        let full = |layer: &Linear, rows| gpu::linear_backward_scratch(rows, layer.n, DType::F32);
        let blocks = self.blocks.iter().flat_map(|b| [&b.qkv, &b.proj, &b.fc1, &b.fc2]);
        let layers = blocks.chain([&self.output]).map(half).max().unwrap_or(0);
        let [first, second] = &self.time;
        [
            layers,
            full(&self.embed, rows),
            full(&self.modulation, batch),
            full(first, batch),
            full(second, batch),
            gpu::attention_backward_scratch(batch, n, c.heads, d / c.heads),
            gpu::adaln_zero_backward_scratch(batch, n, d),
            gpu::global_norm_scratch(self.len),
        ]
        .into_iter()
        .max()
        .unwrap_or(0)
    }
}

#[derive(Default)]
struct Layout {
    parameters: Vec<Parameter>,
    len: usize,
}

impl Layout {
    fn add(&mut self, name: String, shape: &[usize]) -> usize {
        let offset = self.len;
        self.len += shape.iter().product::<usize>();
        self.parameters.push(Parameter { name, shape: shape.to_vec(), offset });
        offset
    }

    fn linear(&mut self, name: &str, n: usize, k: usize) -> Linear {
        self.linear_shaped(name, &[n, k])
    }

    fn linear_shaped(&mut self, name: &str, shape: &[usize]) -> Linear {
        let offset = self.add(format!("{name}.weight"), shape);
        self.add(format!("{name}.bias"), &shape[..1]);
        Linear { offset, n: shape[0], k: shape[1..].iter().product() }
    }
}

/// Chunks of site k's shift and scale.
fn site_chunks(k: usize) -> (usize, usize) {
    let shift = k / 2 * PER_BLOCK + k % 2 * 3;
    (shift, shift + 1)
}

/// Chunk of the gate by which site k joins branch k − 1.
fn gate_chunk(k: usize) -> usize {
    site_chunks(k - 1).0 + 2
}

/// The tensor of index i, where a list may have fewer that take turns.
fn slot(tensors: &[Tensor], i: usize) -> &Tensor {
    &tensors[i % tensors.len()]
}

fn slot_mut(tensors: &mut [Tensor], i: usize) -> &mut Tensor {
    let n = tensors.len();
    &mut tensors[i % n]
}

fn plain(layer: &Linear, from: Parameters, x: TensorView, y: TensorViewMut) -> Result<()> {
    let (w, b) = (from.weight(layer)?, from.bias(layer, y.dtype())?);
    ops::linear(x, w, Some(b), Activation::None, None, y)
}

fn plain_backward(
    layer: &Linear,
    parameters: Parameters,
    dy: &Tensor,
    x: &Tensor,
    dx: Option<&mut Tensor>,
    gradients: &mut Tensor,
) -> Result<()> {
    backward(layer, parameters, dy.view(), x.view(), dx.map(Tensor::view_mut), gradients)
}

fn backward(
    layer: &Linear,
    parameters: Parameters,
    dy: TensorView,
    x: TensorView,
    dx: Option<TensorViewMut>,
    gradients: &mut Tensor,
) -> Result<()> {
    let (dw, db) = layer.parts(gradients)?;
    ops::linear_backward_weight(dy, x, dw, Some(db))?;
    match dx {
        Some(dx) => ops::linear_backward_input(dy, parameters.weight(layer)?, None, dx),
        None => Ok(()),
    }
}

/// Where a forward pass takes its weights from.
enum Source<'a> {
    Arena(Parameters<'a>),
    Packed(&'a PackedDit),
}

impl Source<'_> {
    /// The weight, and the bias for an output of this type.
    fn weights(&self, layer: &Linear, output: DType) -> Result<(Weight<'_>, TensorView<'_>)> {
        match self {
            Source::Arena(from) => Ok((from.weight(layer)?.into(), from.bias(layer, output)?)),
            Source::Packed(packed) => {
                let (weight, bias) = &packed.layers[&layer.offset];
                Ok((weight.into(), bias.view()))
            }
        }
    }

    fn linear(&self, layer: &Linear, x: TensorView, y: TensorViewMut) -> Result<()> {
        let (w, b) = self.weights(layer, y.dtype())?;
        ops::linear(x, w, Some(b), Activation::None, None, y)
    }

    fn position(&self, dit: &Dit) -> Result<TensorView<'_>> {
        let shape = [dit.config.tokens(), dit.config.width];
        match self {
            Source::Arena(from) => from.full.view().part(dit.position, &shape),
            Source::Packed(packed) => packed.position.view().part(0, &shape),
        }
    }
}

/// A network ready for inference at fixed timesteps: weights in the layout of the device's matrix
/// product, and one row of modulation vectors per timestep in place of the layers that make them.
pub struct PackedDit {
    dit: Dit,
    layers: HashMap<usize, (PackedWeight, Tensor)>,
    position: Tensor,
    tables: Vec<Tensor>,
}

impl fmt::Debug for PackedDit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedDit")
            .field("config", self.dit.config())
            .field("timesteps", &self.tables.len())
            .finish_non_exhaustive()
    }
}

impl PackedDit {
    /// Packs `parameters`, which are on the CPU, for evaluations at `timesteps` on a device.
    ///
    /// # Errors
    /// [`Error::Shape`] if `parameters` is not of this network; [`Error::OutOfMemory`] if the device has
    /// not enough memory; those of [`DitConfig::require`].
    pub fn new(
        dit: &Dit,
        parameters: &Tensor,
        timesteps: &[usize],
        device: Device,
    ) -> Result<Self> {
        ops::expect_shape("PackedDit::new", "parameters", parameters.shape(), &[dit.len])?;
        let c = &dit.config;
        c.require(device)?;
        // An image's rows may be paired only with one another: scores do not depend on the batch.
        let paired = c.tokens().is_multiple_of(2);
        let mut layers = HashMap::new();
        let blocks = dit.blocks.iter().flat_map(|b| [b.qkv, b.proj, b.fc1, b.fc2]);
        for layer in [dit.embed, dit.output].into_iter().chain(blocks) {
            let weight = layer.weight(parameters)?;
            let weight = match paired {
                true => PackedWeight::in_pairs(device, weight)?,
                false => PackedWeight::on(device, weight)?,
            };
            let bias = layer.bias(parameters)?.copied_to(device, stored(device))?;
            layers.insert(layer.offset, (weight, bias));
        }
        let mut acts = TimestepActivations::new(&mut parameters.device(), c.width, 1)?;
        let mut tables = Vec::new();
        for &t in timesteps {
            let shape = [1, c.chunks() * c.width];
            let mut table = Tensor::zeros(&shape, DType::F32, parameters.device())?;
            let t = Tensor::from_f32(vec![t as f32], &[1], parameters.device())?;
            dit.modulation_table(parameters, &t, &mut acts, &mut table)?;
            tables.push(match device {
                Device::Cpu => table,
                gpu => table.view().copied_to(gpu, DType::F32)?,
            });
        }
        let position = parameters.view().part(dit.position, &[c.tokens(), c.width])?;
        let position = position.copied_to(device, DType::F32)?;
        Ok(Self { dit: dit.clone(), layers, position, tables })
    }

    /// The network's structure.
    pub fn dit(&self) -> &Dit {
        &self.dit
    }

    /// out = F(x, t), t the timestep of index `timestep` among those the network was packed for.
    ///
    /// `x`, `out`: (B, G, G, C).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit the network or `acts`; [`Error::Argument`] if
    /// there is no such timestep.
    pub fn forward<'a>(
        &self,
        x: impl Into<TensorView<'a>>,
        timestep: usize,
        acts: &mut Activations,
        out: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        let table = self.tables.get(timestep).ok_or_else(|| {
            let expected = format!("below {}", self.tables.len());
            Error::argument("PackedDit::forward", "timestep", expected, timestep)
        })?;
        self.dit.run(&Source::Packed(self), x.into(), table.view(), acts, out.into())
    }
}

/// Two-dimensional sin-cos positions (N, D), as in MAE (He et al., 2022): the first half of the
/// width encodes the column, the second the row; each half is sines, then cosines, of the
/// coordinate times 10000^(−i/(D/4)).
fn sin_cos_positions(across: usize, width: usize, out: &mut [f32]) {
    let quarter = width / 4;
    for (token, out) in out.chunks_exact_mut(width).enumerate() {
        for (half, coordinate) in [token % across, token / across].into_iter().enumerate() {
            for i in 0..quarter {
                let angle = coordinate as f64 / 10000f64.powf(i as f64 / quarter as f64);
                out[half * 2 * quarter + i] = angle.sin() as f32;
                out[half * 2 * quarter + quarter + i] = angle.cos() as f32;
            }
        }
    }
}
