//! What a pass through the network keeps, and where the backward pass puts its results.

use super::{DitConfig, MLP_RATIO, Recompute, Training};
use crate::device::{Allocate, Purpose};
use crate::error::Result;
use crate::ops::TIMESTEP_FEATURES;
use crate::tensor::{DType, Tensor};
use crate::types::Precision;

/// Activations on the way from timesteps to modulation vectors.
#[derive(Debug)]
pub(super) struct TimestepActivations {
    pub features: Tensor,
    pub hidden: Tensor,
    pub hidden_silu: Tensor,
    pub c: Tensor,
    pub c_silu: Tensor,
}

impl TimestepActivations {
    pub(super) fn new(
        a: &mut dyn Allocate,
        width: usize,
        batch: usize,
        precision: Precision,
    ) -> Result<Self> {
        let half = precision.dtype();
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
pub(super) struct Activations {
    pub batch: usize,
    pub recompute: Recompute,
    pub patches: Tensor,
    pub patches_out: Tensor,
    /// x after each site.
    pub stream: Vec<Tensor>,
    pub stats: Vec<Tensor>,
    /// What each site hands to its branch.
    pub sites: Vec<Tensor>,
    pub branches: Vec<Tensor>,
    pub qkv: Vec<Tensor>,
    pub lse: Vec<Tensor>,
    pub attended: Vec<Tensor>,
    pub hidden_pre: Vec<Tensor>,
    pub hidden: Vec<Tensor>,
    pub timestep: TimestepActivations,
    pub table: Option<Tensor>,
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
    /// Buffers for evaluations of `batch` images.
    pub fn of_inference(
        a: &mut dyn Allocate,
        c: &DitConfig,
        batch: usize,
        precision: Precision,
    ) -> Result<Self> {
        let counts = Counts { stream: 2, sites: 1, branches: 1, blocks: 1, hidden: 1 };
        Self::new(a, c, batch, counts, precision)
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

    /// Buffers for a forward pass over `batch` images that a backward pass follows.
    pub fn of_training(
        a: &mut dyn Allocate,
        c: &DitConfig,
        batch: usize,
        how: Training,
    ) -> Result<Self> {
        let Training { precision, recompute } = how;
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
        let half = precision.dtype();
        let stats = a.many(sites, Purpose::Activations, &[batch, tokens, 2], DType::F32)?;
        let lse = a.many(counts.blocks, kept, &[batch, c.heads, tokens], DType::F32)?;
        let hidden_pre = a.many(counts.blocks, kept, &mlp, half)?;
        let table = a.zeros(Purpose::Modulation, &[batch, c.chunks() * c.width], DType::F32)?;
        let acts = Self::new(a, c, batch, counts, precision)?;
        Ok(Self { recompute, stats, lse, hidden_pre, table: Some(table), ..acts })
    }

    fn new(
        a: &mut dyn Allocate,
        c: &DitConfig,
        batch: usize,
        counts: Counts,
        precision: Precision,
    ) -> Result<Self> {
        let n = c.tokens();
        let half = precision.dtype();
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
            timestep: TimestepActivations::new(a, c.width, batch, precision)?,
            table: None,
        })
    }
}

#[derive(Debug)]
pub(super) struct TimestepGradients {
    pub d_silu: Tensor,
    pub d: Tensor,
}

/// The buffers of a backward pass.
#[derive(Debug)]
pub(super) struct Gradients {
    pub patches: Tensor,
    pub dh: Tensor,
    pub dstream: Tensor,
    pub dy: Tensor,
    pub dqkv: Tensor,
    pub dattended: Tensor,
    pub dhidden: Tensor,
    pub dtable: Tensor,
    pub time: TimestepGradients,
}

impl Gradients {
    /// Buffers for batches of `batch` images.
    pub fn new(
        a: &mut dyn Allocate,
        c: &DitConfig,
        batch: usize,
        precision: Precision,
    ) -> Result<Self> {
        let n = c.tokens();
        let (half, wide) = (precision.dtype(), [batch, n, c.width]);
        let mut take = |shape: &[usize], dtype| a.zeros(Purpose::ActivationGradients, shape, dtype);
        let patches = take(&[batch, n, c.token_len()], half)?;
        let (dh, dy, dattended) = (take(&wide, half)?, take(&wide, half)?, take(&wide, half)?);
        let dstream = take(&wide, DType::F32)?;
        let dqkv = take(&[batch, n, 3, c.heads, c.width / c.heads], half)?;
        let dhidden = take(&[batch, n, MLP_RATIO * c.width], half)?;
        let mut take = |len| a.zeros(Purpose::Modulation, &[batch, len], DType::F32);
        let dtable = take(c.chunks() * c.width)?;
        let time = TimestepGradients { d_silu: take(c.width)?, d: take(c.width)? };
        Ok(Self { patches, dh, dstream, dy, dqkv, dattended, dhidden, dtable, time })
    }
}
