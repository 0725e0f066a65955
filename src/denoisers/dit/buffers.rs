//! What a pass through the network keeps, and where the backward pass puts its results.

use super::{DitConfig, MLP_RATIO};
use crate::denoisers::adaln::Lists;
use crate::device::{Allocate, Purpose};
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use crate::types::Precision;

/// A forward pass's activations beside those of its sites: for training what the backward pass reads or computes
/// again, for inference what one block needs.
///
/// Where a list has fewer tensors than the network has places, they take turns.
#[derive(Debug)]
pub(in crate::denoisers) struct Activations {
    pub patches: Tensor,
    pub patches_out: Tensor,
    pub qkv: Vec<Tensor>,
    pub lse: Vec<Tensor>,
    pub attended: Vec<Tensor>,
    pub hidden_pre: Vec<Tensor>,
    pub hidden: Vec<Tensor>,
}

impl Activations {
    /// Buffers for a forward pass over `batch` images.
    pub fn new(
        lists: &mut Lists,
        c: &DitConfig,
        batch: usize,
        precision: Precision,
    ) -> Result<Self> {
        let (n, half) = (c.tokens(), precision.dtype());
        let mlp = [batch, n, MLP_RATIO * c.width];
        let qkv = [batch, n, 3, c.heads, c.width / c.heads];
        let mut patches = || lists.a.zeros(Purpose::Activations, &[batch, n, c.token_len()], half);
        Ok(Self {
            patches: patches()?,
            patches_out: patches()?,
            qkv: lists.of_blocks(c.depth, &qkv, half)?,
            lse: lists.for_backward(c.depth, &[batch, c.heads, n], DType::F32)?,
            attended: lists.of_blocks(c.depth, &[batch, n, c.width], half)?,
            hidden_pre: lists.for_backward(c.depth, &mlp, half)?,
            hidden: lists.of_activations(c.depth, &mlp, half)?,
        })
    }
}

/// The buffers of a backward pass.
#[derive(Debug)]
pub(in crate::denoisers) struct Gradients {
    pub patches: Tensor,
    pub dqkv: Tensor,
    pub dattended: Tensor,
    pub dhidden: Tensor,
}

impl Gradients {
    /// Buffers for batches of `batch` images.
    pub fn new(
        a: &mut dyn Allocate,
        c: &DitConfig,
        batch: usize,
        precision: Precision,
    ) -> Result<Self> {
        let (n, half) = (c.tokens(), precision.dtype());
        let mut take = |shape: &[usize]| a.zeros(Purpose::ActivationGradients, shape, half);
        Ok(Self {
            patches: take(&[batch, n, c.token_len()])?,
            dqkv: take(&[batch, n, 3, c.heads, c.width / c.heads])?,
            dattended: take(&[batch, n, c.width])?,
            dhidden: take(&[batch, n, MLP_RATIO * c.width])?,
        })
    }
}
