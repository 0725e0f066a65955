//! The denoiser: a Diffusion Transformer (Peebles & Xie, 2023) over a grid of features.
//!
//! The network is a chain of 2·depth + 1 sites. Site k joins the previous branch to the residual
//! stream, normalises and modulates it (one AdaLN-Zero operation); branch k is attention where k is
//! even and the MLP where it is odd; the last site feeds the output layer. All modulation vectors
//! come from one linear layer: chunk 6i + j of its output is vector j of block i (shift, scale,
//! gate for attention, then for the MLP), and the last two are the output layer's shift and scale.

mod backward;
mod buffers;
mod config;
mod forward;
mod init;
mod packed;
mod parameters;

pub(crate) use buffers::stored;
pub use buffers::{Activations, Gradients};
pub use config::{DitConfig, Recompute};
use config::{MLP_RATIO, PER_BLOCK};
pub use packed::PackedDit;
use parameters::{Layout, Linear};
pub use parameters::{Parameter, Parameters};

use crate::error::Result;
use crate::ops::TIMESTEP_FEATURES;

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
    /// [`Error::Argument`](crate::Error::Argument) if a size is 0 or out of range, or sizes do not divide as they should.
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
}
