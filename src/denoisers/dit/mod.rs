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

use std::sync::Arc;

pub use config::DitConfig;
use config::{MLP_RATIO, PER_BLOCK};

use super::{
    Denoiser, DenoiserId, FeatureShape, Kind, Layout, Linear, Packed, Parameter, Recompute,
    Trainable, Training, Use,
};
use crate::device::Allocate;
use crate::error::Result;
use crate::ops::TIMESTEP_FEATURES;
use crate::tensor::{Device, Tensor};
use crate::types::Precision;
use buffers::{Activations, Gradients};

/// Diffusion Transformers.
pub(super) const KIND: Kind = Kind {
    name: "dit",
    read: |id| make(id.sizes()?),
    smallest: |features| make(DitConfig::sized(features, 16, 2, 2)),
    presets: &[
        ("small", |features| make(DitConfig::small(features))),
        ("base", |features| make(DitConfig::base(features))),
        ("gigant", |features| make(DitConfig::gigant(features))),
    ],
};

fn make(config: DitConfig) -> Result<Arc<dyn Denoiser>> {
    Ok(Arc::new(Dit::new(config)?))
}

#[derive(Clone, Copy, Debug)]
struct Block {
    qkv: Linear,
    proj: Linear,
    fc1: Linear,
    fc2: Linear,
}

/// A Diffusion Transformer's structure.
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
        let position = l.add("pos_embed", &[1, config.tokens(), width]);
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
}

impl From<DitConfig> for DenoiserId {
    fn from(config: DitConfig) -> Self {
        Self::new(KIND.name, &config)
    }
}

impl Denoiser for Dit {
    fn id(&self) -> DenoiserId {
        self.config.into()
    }

    fn features(&self) -> FeatureShape {
        FeatureShape { grid: self.config.grid, channels: self.config.channels }
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Xavier-uniform weights, N(0, 0.02²) for the timestep's layers, sin-cos positions, zero for biases, modulation
    /// and output layer, so that a fresh network returns 0.
    fn init_each(
        &self,
        seed: u64,
        each: &mut dyn FnMut(&Parameter, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.fresh(seed, each)
    }

    fn require(&self, device: Device, purpose: Use, precision: Precision) -> Result<()> {
        self.config.require(device, purpose, precision)
    }

    fn recompute(&self) -> &'static [Recompute] {
        &Recompute::ALL
    }

    fn trainable(
        &self,
        batch: usize,
        how: Training,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Trainable>> {
        how.precision.require("Dit", a.device())?;
        let acts = Activations::of_training(a, &self.config, batch, how)?;
        let gradients = Gradients::new(a, &self.config, batch, how.precision)?;
        a.scratch(self.scratch_bytes(batch))?;
        Ok(Box::new(InTraining { dit: self.clone(), acts, gradients }))
    }

    fn pack(
        &self,
        parameters: &Tensor,
        timesteps: &[usize],
        device: Device,
        precision: Precision,
    ) -> Result<Arc<dyn Packed>> {
        self.require(device, Use::Inference, precision)?;
        Ok(Arc::new(packed::PackedDit::new(self, parameters, timesteps, device, precision)?))
    }
}

/// A network and the memory of its training.
struct InTraining {
    dit: Dit,
    acts: Activations,
    gradients: Gradients,
}
