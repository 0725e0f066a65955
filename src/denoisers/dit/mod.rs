//! The denoiser: a Diffusion Transformer (Peebles & Xie, 2023) over a grid of features.
//!
//! The branches of its sites (see `adaln`) are attention where their number is even and the MLP where
//! it is odd.

mod buffers;
mod chain;
mod config;
mod init;

use std::sync::Arc;

pub use config::DitConfig;
use config::MLP_RATIO;

use super::adaln::{fresh, table_layer, time_layers, trainable};
use super::import::{axes, count};
use super::parts::{Modulation, pack};
use super::{
    Denoiser, DenoiserId, FeatureShape, Kind, Layout, Linear, Order, Packed, Parameter, Recompute,
    Reference, Trainable, Training, Untold, Use,
};
use crate::device::Allocate;
use crate::error::Result;
use crate::tensor::{Device, Tensor};
use crate::types::Precision;
use crate::weights::Weights;

/// Branches of a block: attention, and the MLP.
const BRANCHES: usize = 2;
/// Modulation vectors of a block.
const PER_BLOCK: usize = 3 * BRANCHES;

/// Diffusion Transformers.
pub(super) const KIND: Kind = Kind {
    name: "dit",
    read: |id| make(id.sizes()?),
    smallest: |features| make(DitConfig::sized(features, 16, 2, 2)),
    presets: &[
        ("small", |features| make(DitConfig::small(features))),
        ("medium", |features| make(DitConfig::medium(features))),
        ("base", |features| make(DitConfig::base(features))),
        ("gigant", |features| make(DitConfig::gigant(features))),
    ],
    reference: Some(Reference {
        mark: "x_embedder.proj.weight",
        unused: &["cls_embed", "x_embedder_linear", "y_embedder"],
        network: |weights, untold| make(reference(weights, untold)?),
    }),
};

/// The sizes that the tensors of a file tell of.
fn reference(weights: &Weights, untold: &Untold) -> Result<DitConfig> {
    let [width, channels, patch, _] = axes(weights, "x_embedder.proj.weight")?;
    let [_, tokens, _] = axes(weights, "pos_embed")?;
    let (grid, depth) = (tokens.isqrt().saturating_mul(patch), count(weights, "blocks"));
    Ok(DitConfig { channels, grid, width, depth, heads: untold.heads, patch })
}

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
    embed: Linear,
    position: usize,
    blocks: Vec<Block>,
    modulation: Modulation,
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
        let embed = l.linear_in("x_embedder.proj", &[width, channels, patch, patch], Order::Same);
        let position = l.add("pos_embed", &[1, config.tokens(), width]);
        let time = time_layers(&mut l, "t_embedder", width);
        let blocks = (0..depth)
            .map(|i| Block {
                qkv: l.linear(&format!("blocks.{i}.attn.qkv"), 3 * width, width),
                proj: l.linear(&format!("blocks.{i}.attn.proj"), width, width),
                fc1: l.linear(&format!("blocks.{i}.mlp.fc1"), MLP_RATIO * width, width),
                fc2: l.linear(&format!("blocks.{i}.mlp.fc2"), width, MLP_RATIO * width),
            })
            .collect();
        let owners = (0..depth).map(|i| (format!("blocks.{i}"), PER_BLOCK));
        let table = table_layer(&mut l, width, owners.chain([("final_layer".into(), 2)]));
        let modulation = Modulation { time, table, affine: None };
        let output = l.linear("final_layer.linear", config.token_len(), width);
        Ok(Self { config, parameters: l.parameters, embed, position, blocks, modulation, output })
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
        let across = self.config.grid / self.config.patch;
        let position = |p: &Parameter, out: &mut [f32]| {
            let is_position = p.name == "pos_embed";
            if is_position {
                init::sin_cos_positions(across, self.config.width, out);
            }
            is_position
        };
        fresh(&self.parameters, "t_embedder", seed, position, each)
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
        trainable(self, batch, how, a)
    }

    fn pack(
        &self,
        parameters: &Tensor,
        timesteps: &[usize],
        device: Device,
        precision: Precision,
    ) -> Result<Arc<dyn Packed>> {
        pack(self, parameters, timesteps, device, precision)
    }
}
