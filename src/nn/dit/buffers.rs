//! What a pass through the network keeps, and where the backward pass puts its results.

use super::{Dit, DitConfig, MLP_RATIO, Recompute};
use crate::device::{Allocate, Purpose};
use crate::error::Result;
use crate::ops::TIMESTEP_FEATURES;
use crate::tensor::{DType, Device, Tensor};

/// Activations on the way from timesteps to modulation vectors.
#[derive(Debug)]
pub(super) struct TimestepActivations {
    pub(super) features: Tensor,
    pub(super) hidden: Tensor,
    pub(super) hidden_silu: Tensor,
    pub(super) c: Tensor,
    pub(super) c_silu: Tensor,
}

impl TimestepActivations {
    pub(super) fn new(a: &mut dyn Allocate, width: usize, batch: usize) -> Result<Self> {
        let half = stored(a.device());
        let mut take = |len, dtype| a.zeros(Purpose::Modulation, &[batch, len], dtype);
        Ok(Self {
            features: take(TIMESTEP_FEATURES, half)?,
            hidden: take(width, DType::F32)?,
            hidden_silu: take(width, half)?,
            c: take(width, DType::F32)?,
            c_silu: take(width, half)?,
        })
    }
}

/// A forward pass's activations: for training what the backward pass reads or computes again, for
/// inference what one block needs.
///
/// Where a list has fewer tensors than the network has places, they take turns.
#[derive(Debug)]
pub struct Activations {
    pub(super) batch: usize,
    pub(super) recompute: Recompute,
    pub(super) patches: Tensor,
    pub(super) patches_out: Tensor,
    /// x after each site.
    pub(super) stream: Vec<Tensor>,
    pub(super) stats: Vec<Tensor>,
    /// What each site hands to its branch.
    pub(super) sites: Vec<Tensor>,
    pub(super) branches: Vec<Tensor>,
    pub(super) qkv: Vec<Tensor>,
    pub(super) lse: Vec<Tensor>,
    pub(super) attended: Vec<Tensor>,
    pub(super) hidden_pre: Vec<Tensor>,
    pub(super) hidden: Vec<Tensor>,
    pub(super) timestep: TimestepActivations,
    pub(super) table: Option<Tensor>,
}

/// How many tensors the lists have.
struct Counts {
    stream: usize,
    sites: usize,
    branches: usize,
    /// Of what attention and the MLP keep.
    blocks: usize,
    hidden: usize,
}

impl Activations {
    /// Buffers for a forward pass over `batch` images that a backward pass follows.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) if the device cannot be used;
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) if it has not enough memory.
    pub fn for_training(
        dit: &Dit,
        batch: usize,
        recompute: Recompute,
        mut device: Device,
    ) -> Result<Self> {
        Self::of_training(&mut device, &dit.config, batch, recompute)
    }

    /// Buffers for a forward pass over `batch` images.
    ///
    /// # Errors
    /// As [`Activations::for_training`].
    pub fn for_inference(dit: &Dit, batch: usize, mut device: Device) -> Result<Self> {
        let counts = Counts { stream: 2, sites: 1, branches: 1, blocks: 1, hidden: 1 };
        Self::new(&mut device, &dit.config, batch, counts)
    }

    /// The number of images.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Which tensor of the stream holds x after site k.
    pub(super) fn stream_at(&self, k: usize) -> usize {
        let n = self.stream.len();
        match self.recompute {
            // One at each end of a block, and one for the middle of all of them.
            Recompute::Blocks if k.is_multiple_of(2) => k / 2,
            Recompute::Blocks => n - 1,
            _ => k % n,
        }
    }

    pub(crate) fn of_training(
        a: &mut dyn Allocate,
        c: &DitConfig,
        batch: usize,
        recompute: Recompute,
    ) -> Result<Self> {
        let (sites, branches) = (2 * c.depth + 1, 2 * c.depth);
        let counts = match recompute {
            Recompute::Nothing => {
                Counts { stream: sites, sites, branches, blocks: c.depth, hidden: c.depth }
            }
            Recompute::Normalisation => {
                Counts { stream: sites, sites: 1, branches, blocks: c.depth, hidden: 1 }
            }
            // The last site's output and those within the last block are there at the same time.
            Recompute::Blocks => {
                Counts { stream: c.depth + 2, sites: 3, branches: 2, blocks: 1, hidden: 1 }
            }
        };
        let tokens = c.tokens();
        let kept =
            if recompute == Recompute::Blocks { Purpose::Recomputed } else { Purpose::Activations };
        let mlp = [batch, tokens, MLP_RATIO * c.width];
        let half = stored(a.device());
        let stats = a.many(sites, Purpose::Activations, &[batch, tokens, 2], DType::F32)?;
        let lse = a.many(counts.blocks, kept, &[batch, c.heads, tokens], DType::F32)?;
        let hidden_pre = a.many(counts.blocks, kept, &mlp, half)?;
        let table = a.zeros(Purpose::Modulation, &[batch, c.chunks() * c.width], DType::F32)?;
        let acts = Self::new(a, c, batch, counts)?;
        Ok(Self { recompute, stats, lse, hidden_pre, table: Some(table), ..acts })
    }

    fn new(a: &mut dyn Allocate, c: &DitConfig, batch: usize, counts: Counts) -> Result<Self> {
        let n = c.tokens();
        let half = stored(a.device());
        let wide = [batch, n, c.width];
        // What takes turns is computed again.
        let mut many = |count: usize, of: usize, shape: &[usize]| {
            let purpose = if count < of { Purpose::Recomputed } else { Purpose::Activations };
            a.many(count, purpose, shape, half)
        };
        let (depth, places) = (c.depth, 2 * c.depth);
        let sites = many(counts.sites, places + 1, &wide)?;
        let branches = many(counts.branches, places, &wide)?;
        let qkv = many(counts.blocks, depth, &[batch, n, 3, c.heads, c.width / c.heads])?;
        let attended = many(counts.blocks, depth, &wide)?;
        let hidden = many(counts.hidden, depth, &[batch, n, MLP_RATIO * c.width])?;
        Ok(Self {
            batch,
            recompute: Recompute::Nothing,
            patches: a.zeros(Purpose::Activations, &[batch, n, c.token_len()], half)?,
            patches_out: a.zeros(Purpose::Activations, &[batch, n, c.token_len()], half)?,
            stream: a.many(counts.stream, Purpose::Activations, &wide, DType::F32)?,
            stats: Vec::new(),
            sites,
            branches,
            qkv,
            lse: Vec::new(),
            attended,
            hidden_pre: Vec::new(),
            hidden,
            timestep: TimestepActivations::new(a, c.width, batch)?,
            table: None,
        })
    }
}

#[derive(Debug)]
pub(super) struct TimestepGradients {
    pub d_silu: Tensor,
    pub d: Tensor,
}

/// The gradients of all parameters, and the buffers of a backward pass.
#[derive(Debug)]
pub struct Gradients {
    /// The parameters' gradients, laid out like the parameters; accumulated.
    pub parameters: Tensor,
    pub(super) patches: Tensor,
    pub(super) dh: Tensor,
    pub(super) dstream: Tensor,
    pub(super) dy: Tensor,
    pub(super) dqkv: Tensor,
    pub(super) dattended: Tensor,
    pub(super) dhidden: Tensor,
    pub(super) dtable: Tensor,
    pub(super) time: TimestepGradients,
}

impl Gradients {
    /// Zero gradients and buffers for batches of `batch` images.
    ///
    /// # Errors
    /// As [`Activations::for_training`].
    pub fn new(dit: &Dit, batch: usize, mut device: Device) -> Result<Self> {
        Self::of_training(&mut device, dit, batch)
    }

    pub(crate) fn of_training(a: &mut dyn Allocate, dit: &Dit, batch: usize) -> Result<Self> {
        let c = &dit.config;
        let n = c.tokens();
        let (half, wide) = (stored(a.device()), [batch, n, c.width]);
        let parameters = a.zeros(Purpose::Gradients, &[dit.len], DType::F32)?;
        let mut take = |shape: &[usize], dtype| a.zeros(Purpose::ActivationGradients, shape, dtype);
        let patches = take(&[batch, n, c.token_len()], half)?;
        let (dh, dy, dattended) = (take(&wide, half)?, take(&wide, half)?, take(&wide, half)?);
        let dstream = take(&wide, DType::F32)?;
        let dqkv = take(&[batch, n, 3, c.heads, c.width / c.heads], half)?;
        let dhidden = take(&[batch, n, MLP_RATIO * c.width], half)?;
        let mut take = |len| a.zeros(Purpose::Modulation, &[batch, len], DType::F32);
        let dtable = take(c.chunks() * c.width)?;
        let time = TimestepGradients { d_silu: take(c.width)?, d: take(c.width)? };
        Ok(Self { parameters, patches, dh, dstream, dy, dqkv, dattended, dhidden, dtable, time })
    }
}

/// The type of what lies between operations, but for the residual stream, which is f32.
pub(crate) fn stored(device: Device) -> DType {
    match device {
        Device::Cpu => DType::F32,
        Device::Cuda(_) => DType::F16,
    }
}
