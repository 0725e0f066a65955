//! The denoiser: a Diffusion Transformer (Peebles & Xie, 2023) over a grid of features.
//!
//! The network is a chain of 2·depth + 1 sites. Site k joins the previous branch to the residual
//! stream, normalises and modulates it (one AdaLN-Zero operation); branch k is attention where k is
//! even and the MLP where it is odd; the last site feeds the output layer. All modulation vectors
//! come from one linear layer: chunk 6i + j of its output is vector j of block i (shift, scale,
//! gate for attention, then for the MLP), and the last two are the output layer's shift and scale.

use std::collections::HashMap;

use crate::error::{Error, Result};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

    /// Whether a device can be used and can compute networks of these sizes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be used; [`Error::Argument`] if it is a GPU and there are no
    /// kernels for the sizes: there are for widths that are multiples of 8 up to 8192, head sizes that
    /// are multiples of 8 up to 256, and up to 4096 tokens.
    pub fn require(&self, device: Device) -> Result<()> {
        device.require()?;
        #[cfg(feature = "cuda")]
        if device != Device::Cpu {
            use crate::cuda::ops::{LARGEST_HEAD, MOST_TOKENS, WIDEST};
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
        for (i, p) in self.parameters.iter().enumerate() {
            let out = &mut values[p.offset..][..p.len()];
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
                for (j, x) in out.iter_mut().enumerate() {
                    let word = random.words(j as u64 / 4)[j % 4];
                    let unit = (f64::from(word) + 0.5) / (1u64 << 31) as f64 - 1.0;
                    *x = (bound * unit) as f32;
                }
            }
        }
        Tensor::from_f32(values, &[self.len], device)
    }

    /// The modulation vectors of timesteps `t` (B), as a table (B, (6·depth + 2)·D).
    ///
    /// # Errors
    /// Those of the operations.
    pub fn modulation_table<'a>(
        &self,
        parameters: &Tensor,
        t: impl Into<TensorView<'a>>,
        acts: &mut TimestepActivations,
        table: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        let (t, table) = (t.into(), table.into());
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
    /// `x`, `out`: (B, G, G, C); `t`: (B).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit the network or `acts`.
    pub fn forward<'a>(
        &self,
        parameters: &Tensor,
        x: impl Into<TensorView<'a>>,
        t: impl Into<TensorView<'a>>,
        acts: &mut Activations,
        out: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        ops::expect_shape("Dit", "parameters", parameters.shape(), &[self.len])?;
        let (x, t, out) = (x.into(), t.into(), out.into());
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
        let chunk = |index| Chunk { table, index };
        ops::patchify(x, &mut acts.patches, c.patch, PatchOrder::ChannelsFirst)?;
        // The first site's output is not needed before the site is reached.
        let tokens = slot(&mut acts.sites, 0);
        source.linear(&self.embed, acts.patches.view(), tokens.view_mut())?;
        ops::add_position(&*tokens, source.position(self)?, &mut acts.stream[0])?;
        for k in 0..=2 * c.depth {
            let (shift, scale) = site_chunks(k);
            let h = slot(&mut acts.sites, k);
            let stats = acts.stats.get_mut(k).map(Tensor::view_mut);
            if k == 0 {
                let x = acts.stream[0].view();
                ops::adaln_zero(x, None, chunk(shift), chunk(scale), None, h, stats)?;
            } else {
                let n = acts.stream.len();
                let [x, x_out] = acts
                    .stream
                    .get_disjoint_mut([(k - 1) % n, k % n])
                    .expect("the stream alternates between two tensors at least");
                let y = slot(&mut acts.branches, k - 1).view();
                let residual = Residual { y, gate: chunk(gate_chunk(k)) };
                let (shift, scale) = (chunk(shift), chunk(scale));
                let x_out = Some(x_out.view_mut());
                ops::adaln_zero(x.view(), Some(residual), shift, scale, x_out, &mut *h, stats)?;
            }
            let h = slot(&mut acts.sites, k).view();
            if k == 2 * c.depth {
                source.linear(&self.output, h, acts.patches_out.view_mut())?;
                break;
            }
            let (i, block) = (k / 2, &self.blocks[k / 2]);
            let y = slot(&mut acts.branches, k).view_mut();
            if k.is_multiple_of(2) {
                let qkv = slot(&mut acts.qkv, i);
                let joined = [acts.batch, c.tokens(), 3 * c.width];
                source.linear(&block.qkv, h, qkv.view_mut().part(0, &joined)?)?;
                let lse = acts.lse.get_mut(i).map(Tensor::view_mut);
                let attended = slot(&mut acts.attended, i);
                ops::attention(&*qkv, &mut *attended, lse)?;
                source.linear(&block.proj, attended.view(), y)?;
            } else {
                let hidden = slot(&mut acts.hidden, i);
                let pre = acts.hidden_pre.get_mut(i).map(Tensor::view_mut);
                let (w, b) = source.weights(&block.fc1)?;
                ops::linear(h, w, Some(b), Activation::Gelu, pre, &mut *hidden)?;
                source.linear(&block.fc2, hidden.view(), y)?;
            }
        }
        ops::unpatchify(&acts.patches_out, out.reborrow(), c.patch, PatchOrder::ChannelsLast)
    }

    /// The gradients for the last [`Dit::forward`] with these `acts`: those of the parameters are
    /// accumulated in `gradients.parameters`, that of x is written to `dx` if it is asked for.
    ///
    /// `dout`, `dx`: (B, G, G, C).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit the network or `acts`.
    pub fn backward<'a>(
        &self,
        parameters: &Tensor,
        acts: &Activations,
        dout: impl Into<TensorView<'a>>,
        gradients: &mut Gradients,
        dx: Option<TensorViewMut<'a>>,
    ) -> Result<()> {
        const OP: &str = "Dit::backward";
        let c = &self.config;
        let Some(table) = acts.table.as_ref().map(Tensor::view) else {
            return Err(Error::argument(OP, "acts", "made for training", "made for inference"));
        };
        let dout = dout.into();
        ops::expect_shape(OP, "dout", dout.shape(), &[acts.batch, c.grid, c.grid, c.channels])?;
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
        plain_backward(&self.output, parameters, patches, &acts.sites[last], Some(dh), dp)?;
        dstream.view_mut().fill(0.0)?;
        for k in (0..=last).rev() {
            // dh holds the gradient of site k's output.
            let (shift, scale) = site_chunks(k);
            let residual = match k {
                0 => None,
                _ => Some(ResidualBackward {
                    forward: Residual {
                        y: acts.branches[k - 1].view(),
                        gate: chunk(gate_chunk(k)),
                    },
                    dy: dy.view_mut(),
                }),
            };
            ops::adaln_zero_backward(
                &acts.stream[k],
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
            let (i, block, h) = (k / 2, &self.blocks[k / 2], &acts.sites[k]);
            if k.is_multiple_of(2) {
                let (qkv, attended) = (&acts.qkv[i], &acts.attended[i]);
                plain_backward(&block.proj, parameters, dy, attended, Some(dattended), dp)?;
                ops::attention_backward(qkv, attended, &acts.lse[i], &*dattended, &mut *dqkv)?;
                let dqkv = dqkv.view().part(0, &[acts.batch, c.tokens(), 3 * c.width])?;
                backward(&block.qkv, parameters, dqkv, h.view(), Some(dh.view_mut()), dp)?;
            } else {
                let (dw, db) = block.fc2.parts(dp)?;
                ops::linear_backward_weight(&*dy, &acts.hidden[i], dw, Some(db))?;
                let (w, pre) = (block.fc2.weight(parameters)?, acts.hidden_pre[i].view());
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

/// The tensor of index i, where in inference one or two serve for all.
fn slot(tensors: &mut [Tensor], i: usize) -> &mut Tensor {
    let n = tensors.len();
    &mut tensors[i % n]
}

fn plain(layer: &Linear, arena: &Tensor, x: TensorView, y: TensorViewMut) -> Result<()> {
    let (w, b) = (layer.weight(arena)?, layer.bias(arena)?);
    ops::linear(x, w, Some(b), Activation::None, None, y)
}

fn plain_backward(
    layer: &Linear,
    arena: &Tensor,
    dy: &Tensor,
    x: &Tensor,
    dx: Option<&mut Tensor>,
    gradients: &mut Tensor,
) -> Result<()> {
    backward(layer, arena, dy.view(), x.view(), dx.map(Tensor::view_mut), gradients)
}

fn backward(
    layer: &Linear,
    arena: &Tensor,
    dy: TensorView,
    x: TensorView,
    dx: Option<TensorViewMut>,
    gradients: &mut Tensor,
) -> Result<()> {
    let (dw, db) = layer.parts(gradients)?;
    ops::linear_backward_weight(dy, x, dw, Some(db))?;
    match dx {
        Some(dx) => ops::linear_backward_input(dy, layer.weight(arena)?, None, dx),
        None => Ok(()),
    }
}

/// Where a forward pass takes its weights from.
enum Source<'a> {
    Arena(&'a Tensor),
    Packed(&'a PackedDit),
}

impl Source<'_> {
    fn weights(&self, layer: &Linear) -> Result<(Weight<'_>, TensorView<'_>)> {
        match self {
            Source::Arena(arena) => Ok((layer.weight(arena)?.into(), layer.bias(arena)?)),
            Source::Packed(packed) => {
                let (weight, bias) = &packed.layers[&layer.offset];
                Ok((weight.into(), bias.view()))
            }
        }
    }

    fn linear(&self, layer: &Linear, x: TensorView, y: TensorViewMut) -> Result<()> {
        let (w, b) = self.weights(layer)?;
        ops::linear(x, w, Some(b), Activation::None, None, y)
    }

    fn position(&self, dit: &Dit) -> Result<TensorView<'_>> {
        let shape = [dit.config.tokens(), dit.config.width];
        match self {
            Source::Arena(arena) => arena.view().part(dit.position, &shape),
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
        let mut layers = HashMap::new();
        let blocks = dit.blocks.iter().flat_map(|b| [b.qkv, b.proj, b.fc1, b.fc2]);
        for layer in [dit.embed, dit.output].into_iter().chain(blocks) {
            let weight = PackedWeight::on(device, layer.weight(parameters)?)?;
            let bias = layer.bias(parameters)?.copied_to(device, stored(device))?;
            layers.insert(layer.offset, (weight, bias));
        }
        let mut acts = TimestepActivations::new(c.width, 1, parameters.device())?;
        let mut tables = Vec::new();
        for &t in timesteps {
            let mut table = zeros(&[1, c.chunks() * c.width], parameters.device())?;
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

/// Activations on the way from timesteps to modulation vectors.
#[derive(Debug)]
pub struct TimestepActivations {
    features: Tensor,
    hidden: Tensor,
    hidden_silu: Tensor,
    c: Tensor,
    c_silu: Tensor,
}

impl TimestepActivations {
    fn new(width: usize, batch: usize, device: Device) -> Result<Self> {
        let vectors = || zeros(&[batch, width], device);
        Ok(Self {
            features: zeros(&[batch, TIMESTEP_FEATURES], device)?,
            hidden: vectors()?,
            hidden_silu: vectors()?,
            c: vectors()?,
            c_silu: vectors()?,
        })
    }
}

/// A forward pass's activations: for training all of them, for inference what one block needs.
#[derive(Debug)]
pub struct Activations {
    batch: usize,
    patches: Tensor,
    patches_out: Tensor,
    /// x after each site.
    stream: Vec<Tensor>,
    stats: Vec<Tensor>,
    /// What each site hands to its branch.
    sites: Vec<Tensor>,
    branches: Vec<Tensor>,
    qkv: Vec<Tensor>,
    lse: Vec<Tensor>,
    attended: Vec<Tensor>,
    hidden_pre: Vec<Tensor>,
    hidden: Vec<Tensor>,
    timestep: TimestepActivations,
    table: Option<Tensor>,
}

impl Activations {
    /// Buffers for a forward pass over `batch` images that a backward pass follows.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used; GPUs cannot be trained on yet.
    pub fn for_training(dit: &Dit, batch: usize, device: Device) -> Result<Self> {
        device.require_training()?;
        let c = &dit.config;
        let mut acts = Self::new(c, batch, device, [2 * c.depth + 1, 2 * c.depth, c.depth])?;
        acts.stats = tensors(2 * c.depth + 1, &[batch, c.tokens(), 2], device)?;
        acts.lse = tensors(c.depth, &[batch, c.heads, c.tokens()], device)?;
        acts.hidden_pre = tensors(c.depth, &[batch, c.tokens(), MLP_RATIO * c.width], device)?;
        acts.table = Some(zeros(&[batch, c.chunks() * c.width], device)?);
        Ok(acts)
    }

    /// Buffers for a forward pass over `batch` images.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used.
    pub fn for_inference(dit: &Dit, batch: usize, device: Device) -> Result<Self> {
        let mut acts = Self::new(&dit.config, batch, device, [1, 1, 1])?;
        acts.stream.push(acts.stream[0].try_clone()?);
        Ok(acts)
    }

    /// The number of images.
    pub fn batch(&self) -> usize {
        self.batch
    }

    fn new(
        c: &DitConfig,
        batch: usize,
        device: Device,
        [sites, branches, blocks]: [usize; 3],
    ) -> Result<Self> {
        let n = c.tokens();
        let wide = [batch, n, c.width];
        let between = |shape: &[usize]| Tensor::zeros(shape, stored(device), device);
        let many = |count: usize, shape: &[usize]| -> Result<Vec<Tensor>> {
            (0..count).map(|_| between(shape)).collect()
        };
        Ok(Self {
            batch,
            patches: between(&[batch, n, c.token_len()])?,
            patches_out: between(&[batch, n, c.token_len()])?,
            stream: tensors(sites, &wide, device)?,
            stats: Vec::new(),
            sites: many(sites, &wide)?,
            branches: many(branches, &wide)?,
            qkv: many(blocks, &[batch, n, 3, c.heads, c.width / c.heads])?,
            lse: Vec::new(),
            attended: many(blocks, &wide)?,
            hidden_pre: Vec::new(),
            hidden: many(blocks, &[batch, n, MLP_RATIO * c.width])?,
            timestep: TimestepActivations::new(c.width, batch, device)?,
            table: None,
        })
    }
}

#[derive(Debug)]
struct TimestepGradients {
    d_silu: Tensor,
    d: Tensor,
}

/// The gradients of all parameters, and the buffers of a backward pass.
#[derive(Debug)]
pub struct Gradients {
    /// The parameters' gradients, laid out like the parameters; accumulated.
    pub parameters: Tensor,
    patches: Tensor,
    dh: Tensor,
    dstream: Tensor,
    dy: Tensor,
    dqkv: Tensor,
    dattended: Tensor,
    dhidden: Tensor,
    dtable: Tensor,
    time: TimestepGradients,
}

impl Gradients {
    /// Zero gradients and buffers for batches of `batch` images.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used.
    pub fn new(dit: &Dit, batch: usize, device: Device) -> Result<Self> {
        let c = &dit.config;
        let n = c.tokens();
        let wide = || zeros(&[batch, n, c.width], device);
        Ok(Self {
            parameters: zeros(&[dit.len], device)?,
            patches: zeros(&[batch, n, c.token_len()], device)?,
            dh: wide()?,
            dstream: wide()?,
            dy: wide()?,
            dqkv: zeros(&[batch, n, 3, c.heads, c.width / c.heads], device)?,
            dattended: wide()?,
            dhidden: zeros(&[batch, n, MLP_RATIO * c.width], device)?,
            dtable: zeros(&[batch, c.chunks() * c.width], device)?,
            time: TimestepGradients {
                d_silu: zeros(&[batch, c.width], device)?,
                d: zeros(&[batch, c.width], device)?,
            },
        })
    }
}

/// The type of what lies between operations, but for the residual stream, which is f32.
pub(crate) fn stored(device: Device) -> DType {
    match device {
        Device::Cpu => DType::F32,
        Device::Cuda(_) => DType::F16,
    }
}

fn zeros(shape: &[usize], device: Device) -> Result<Tensor> {
    Tensor::zeros(shape, DType::F32, device)
}

fn tensors(count: usize, shape: &[usize], device: Device) -> Result<Vec<Tensor>> {
    (0..count).map(|_| zeros(shape, device)).collect()
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
