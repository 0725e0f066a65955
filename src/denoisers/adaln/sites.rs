//! The chain of sites and branches along the residual stream.

use super::chain::{Backward, Chain};
use crate::denoisers::Recompute;
use crate::denoisers::parts::Source;
use crate::device::{Allocate, Purpose};
use crate::error::Result;
use crate::ops::{self, Chunk, Residual, ResidualBackward};
use crate::tensor::{DType, Tensor, TensorView};

/// Of all normalisations.
const EPS: f32 = 1e-6;

/// Takes lists of tensors, one for each place of the network, or fewer, which take turns.
pub(in crate::denoisers) struct Lists<'a> {
    pub a: &'a mut dyn Allocate,
    /// Of a training; evaluations keep nothing.
    pub recompute: Option<Recompute>,
}

impl Lists<'_> {
    /// `count` tensors for `of` places. What takes turns is computed again.
    fn many(
        &mut self,
        count: usize,
        of: usize,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Vec<Tensor>> {
        let purpose = if count < of { Purpose::Recomputed } else { Purpose::Activations };
        self.a.many(count, purpose, shape, dtype)
    }

    /// What a block computes.
    pub fn of_blocks(&mut self, of: usize, shape: &[usize], dtype: DType) -> Result<Vec<Tensor>> {
        let count = match self.recompute {
            Some(Recompute::Nothing | Recompute::Normalisation) => of,
            Some(Recompute::Blocks) | None => 1,
        };
        self.many(count, of, shape, dtype)
    }

    /// What an activation function computes.
    pub fn of_activations(
        &mut self,
        of: usize,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Vec<Tensor>> {
        let count = if self.recompute == Some(Recompute::Nothing) { of } else { 1 };
        self.many(count, of, shape, dtype)
    }

    /// What a block computes for its backward pass alone: nothing in evaluations.
    pub fn for_backward(
        &mut self,
        of: usize,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Vec<Tensor>> {
        match self.recompute {
            Some(_) => self.of_blocks(of, shape, dtype),
            None => Ok(Vec::new()),
        }
    }
}

/// The tensor of index i, where a list may have fewer that take turns.
pub(in crate::denoisers) fn slot(tensors: &[Tensor], i: usize) -> &Tensor {
    &tensors[i % tensors.len()]
}

pub(in crate::denoisers) fn slot_mut(tensors: &mut [Tensor], i: usize) -> &mut Tensor {
    let n = tensors.len();
    &mut tensors[i % n]
}

/// What the sites compute.
#[derive(Debug)]
pub(in crate::denoisers) struct Sites {
    recompute: Recompute,
    blocks: usize,
    /// Branches of a block.
    per_block: usize,
    /// x after each site.
    stream: Vec<Tensor>,
    stats: Vec<Tensor>,
    /// What each site hands to its branch.
    outputs: Vec<Tensor>,
    branches: Vec<Tensor>,
}

/// The gradients that pass along the chain.
#[derive(Debug)]
pub(in crate::denoisers) struct SiteGradients {
    /// Of a site's output.
    pub dh: Tensor,
    /// Of the stream.
    pub dstream: Tensor,
    /// Of a branch's output.
    pub dy: Tensor,
}

impl SiteGradients {
    /// For a stream of `shape`, (B, N, D).
    pub fn new(a: &mut dyn Allocate, shape: &[usize; 3], half: DType) -> Result<Self> {
        let mut take = |dtype| a.zeros(Purpose::ActivationGradients, shape, dtype);
        Ok(Self { dh: take(half)?, dstream: take(DType::F32)?, dy: take(half)? })
    }
}

impl Sites {
    /// Of `blocks` with so many branches each, along a stream of `shape`, (B, N, D).
    pub fn new(
        lists: &mut Lists,
        (blocks, per_block): (usize, usize),
        shape: &[usize; 3],
        half: DType,
    ) -> Result<Self> {
        let recompute = lists.recompute;
        let branches = blocks * per_block;
        let sites = branches + 1;
        let [streams, outputs, kept] = match recompute {
            None => [2, 1, 1],
            Some(Recompute::Nothing) => [sites, sites, branches],
            Some(Recompute::Normalisation) => [sites, 1, branches],
            // The last site's output and those within the last block are there at the same time; the stream is at
            // both ends of a block, and in the middle of one.
            Some(Recompute::Blocks) => [blocks + per_block, per_block + 1, per_block],
        };
        // Gradients need what an evaluation can do without: half of the stream's bytes.
        let of_stream = if recompute.is_some() { DType::F32 } else { half };
        let [batch, tokens, _] = *shape;
        let stats = match recompute {
            Some(_) => {
                lists.a.many(sites, Purpose::Activations, &[batch, tokens, 2], DType::F32)?
            }
            None => Vec::new(),
        };
        Ok(Self {
            recompute: recompute.unwrap_or_default(),
            blocks,
            per_block,
            stream: lists.a.many(streams, Purpose::Activations, shape, of_stream)?,
            stats,
            outputs: lists.many(outputs, sites, shape, half)?,
            branches: lists.many(kept, branches, shape, half)?,
        })
    }

    fn last(&self) -> usize {
        self.blocks * self.per_block
    }

    /// Where the stream begins, and before that something of the same shape and the precision's type.
    pub fn beginning(&mut self) -> (&mut Tensor, &mut Tensor) {
        // The first site's output is not needed before the site is reached.
        (&mut self.outputs[0], &mut self.stream[0])
    }

    /// The last site's output.
    pub fn output(&self) -> &Tensor {
        slot(&self.outputs, self.last())
    }

    /// Which tensor of the stream holds x after site k.
    fn stream_at(&self, k: usize) -> usize {
        let n = self.stream.len();
        match self.recompute {
            // One at each end of a block, and one for the middle of all of them.
            Recompute::Blocks if k.is_multiple_of(self.per_block) => k / self.per_block,
            Recompute::Blocks => n - 1,
            _ => k % n,
        }
    }

    /// All sites and branches, from the beginning of the stream.
    pub fn forward<N: Chain>(
        &mut self,
        network: &N,
        source: &Source,
        table: TensorView,
        acts: &mut N::Activations,
    ) -> Result<()> {
        self.site(0, table, false)?;
        for k in 0..self.last() {
            self.branch(k, network, source, acts)?;
            self.site(k + 1, table, true)?;
        }
        Ok(())
    }

    /// Site k: joins branch k − 1 to the stream before it, or takes the stream as it is after it.
    fn site(&mut self, k: usize, table: TensorView, join: bool) -> Result<()> {
        let [shift, scale, gate] = chunks(k, table);
        let now = self.stream_at(k);
        let before = if join { self.stream_at(k - 1) } else { now };
        let h = slot_mut(&mut self.outputs, k);
        let stats = self.stats.get_mut(k).map(Tensor::view_mut);
        if !join {
            return ops::adaln_zero(&self.stream[now], None, shift, scale, EPS, None, h, stats);
        }
        let [x, x_out] = self
            .stream
            .get_disjoint_mut([before, now])
            .expect("the stream alternates between two tensors at least");
        let residual = Some(Residual { y: slot(&self.branches, k - 1).view(), gate });
        ops::adaln_zero(x.view(), residual, shift, scale, EPS, Some(x_out.view_mut()), h, stats)
    }

    fn branch<N: Chain>(
        &mut self,
        k: usize,
        network: &N,
        source: &Source,
        acts: &mut N::Activations,
    ) -> Result<()> {
        let y = slot_mut(&mut self.branches, k).view_mut();
        network.branch(k, source, slot(&self.outputs, k).view(), acts, y)
    }

    /// The gradients of the stream's beginning (`dstream`), the table and the branches, given that of the last site's
    /// output (`dh`).
    pub fn backward<N: Chain>(
        &mut self,
        network: &N,
        table: TensorView,
        gradients: &mut SiteGradients,
        dtable: &mut Tensor,
        pass: &mut Backward<N>,
    ) -> Result<()> {
        let SiteGradients { dh, dstream, dy } = gradients;
        dstream.view_mut().fill(0.0)?;
        let last = self.last();
        for k in (0..=last).rev() {
            // dh holds the gradient of site k's output.
            let ends_block = k > 0 && k < last && k.is_multiple_of(self.per_block);
            if self.recompute == Recompute::Blocks && ends_block {
                self.block_again(k / self.per_block - 1, network, table, pass)?;
            }
            let [_, scale, gate] = chunks(k, table);
            let residual = (k > 0).then(|| ResidualBackward {
                forward: Residual { y: slot(&self.branches, k - 1).view(), gate },
                dy: dy.view_mut(),
            });
            ops::adaln_zero_backward(
                &self.stream[self.stream_at(k)],
                &self.stats[k],
                scale.index - 1,
                scale,
                &*dh,
                &mut *dstream,
                residual,
                &mut *dtable,
            )?;
            if k == 0 {
                break;
            }
            let k = k - 1;
            if self.recompute == Recompute::Normalisation {
                self.site(k, table, false)?;
                network.branch_again(k, pass.acts)?;
            }
            network.branch_backward(k, slot(&self.outputs, k), dy, dh, pass)?;
        }
        Ok(())
    }

    /// What the forward pass of block i has computed, from the stream before it.
    fn block_again<N: Chain>(
        &mut self,
        i: usize,
        network: &N,
        table: TensorView,
        pass: &mut Backward<N>,
    ) -> Result<()> {
        let source = Source::Arena(pass.parameters);
        for j in 0..self.per_block {
            let k = i * self.per_block + j;
            self.site(k, table, j > 0)?;
            self.branch(k, network, &source, pass.acts)?;
        }
        Ok(())
    }

    /// Bytes that the kernels of the backward pass leave to each other on a GPU.
    pub fn scratch_bytes([batch, tokens, width]: [usize; 3]) -> usize {
        ops::kernels::adaln_zero_backward_scratch(batch, tokens, width)
    }
}

/// Site k's shift and scale, and the gate by which it joins branch k − 1.
fn chunks(k: usize, table: TensorView) -> [Chunk; 3] {
    [3 * k, 3 * k + 1, (3 * k).saturating_sub(1)].map(|index| Chunk { table, index })
}
