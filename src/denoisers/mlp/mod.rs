//! A denoiser that looks at each cell of the grid by itself: an MLP with AdaLN-Zero, as Li et al. (2024,
//! "Autoregressive Image Generation without Vector Quantization") put on top of each token.
//!
//! Its sites (see `adaln`) have LayerNorms with weights and biases, which are folded into the
//! modulation; branch k is W₂·SiLU(W₁·h), both of the network's width. Nothing mixes tokens, and nothing tells where
//! they are.

mod chain;
mod config;

use std::sync::Arc;

pub use config::MlpConfig;

use super::adaln::{self, fresh, table_layer, time_layers, trainable};
use super::import::{axes, count};
use super::parts::{Modulation, pack};
use super::{
    Denoiser, DenoiserId, FeatureShape, Kind, Layout, Linear, Packed, Parameter, Recompute,
    Reference, Trainable, Training, Use,
};
use crate::device::Allocate;
use crate::error::Result;
use crate::tensor::{Device, Tensor};
use crate::types::Precision;

/// MLPs over single tokens.
pub(super) const KIND: Kind = Kind {
    name: "mlp",
    read: |id| make(id.sizes()?),
    smallest: |features| make(MlpConfig::sized(features, 16, 2)),
    presets: &[
        ("small-mlp", |features| make(MlpConfig::small(features))),
        ("mlp", |features| make(MlpConfig::reference(features))),
    ],
    reference: Some(Reference {
        mark: "input_proj.weight",
        unused: &["cls_embed", "cond_embed"],
        network: |weights, untold| {
            let [width, channels] = axes(weights, "input_proj.weight")?;
            let depth = count(weights, "res_blocks");
            make(MlpConfig { channels, grid: untold.grid, width, depth })
        },
    }),
};

fn make(config: MlpConfig) -> Result<Arc<dyn Denoiser>> {
    Ok(Arc::new(Mlp::new(config)?))
}

/// The structure of an MLP over single tokens.
#[derive(Clone, Debug)]
pub struct Mlp {
    config: MlpConfig,
    parameters: Vec<Parameter>,
    input: Linear,
    blocks: Vec<[Linear; 2]>,
    modulation: Modulation,
    output: Linear,
}

impl Mlp {
    /// A network of these sizes.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if a size is 0 or out of range.
    pub fn new(config: MlpConfig) -> Result<Self> {
        config.check()?;
        let MlpConfig { channels, width, depth, .. } = config;
        let mut l = Layout::default();
        let input = l.linear("input_proj", width, channels);
        let time = time_layers(&mut l, "time_embed", width);
        let block = |i| format!("res_blocks.{i}");
        let blocks = (0..depth).map(|i| {
            ["mlp.0", "mlp.2"].map(|name| l.linear(&format!("{}.{name}", block(i)), width, width))
        });
        let blocks = blocks.collect();
        let affine = l.len;
        let norms = (0..depth).map(|i| format!("{}.in_ln", block(i)));
        for norm in norms.chain(["final_layer.norm_final".into()]) {
            l.add(format!("{norm}.weight"), &[width]);
            l.add(format!("{norm}.bias"), &[width]);
        }
        let owners = (0..depth).map(|i| (block(i), 3));
        let table = table_layer(&mut l, width, owners.chain([("final_layer".into(), 2)]));
        let affine = Some((affine, [depth + 1, 2, width]));
        let modulation = Modulation { time, table, affine };
        let output = l.linear("final_layer.linear", channels, width);
        let parameters = l.parameters;
        Ok(Self { config, parameters, input, blocks, modulation, output })
    }

    /// The sizes.
    pub fn config(&self) -> &MlpConfig {
        &self.config
    }
}

impl From<MlpConfig> for DenoiserId {
    fn from(config: MlpConfig) -> Self {
        Self::new(KIND.name, &config)
    }
}

impl Denoiser for Mlp {
    fn id(&self) -> DenoiserId {
        self.config.into()
    }

    fn features(&self) -> FeatureShape {
        FeatureShape { grid: self.config.grid, channels: self.config.channels }
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Xavier-uniform weights, N(0, 0.02²) for the timestep's layers, 1 for LayerNorms, zero for biases, modulation
    /// and output layer, so that a fresh network returns 0.
    fn init_each(
        &self,
        seed: u64,
        each: &mut dyn FnMut(&Parameter, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let norm = |p: &Parameter, out: &mut [f32]| {
            let is_norm = ["in_ln.weight", "norm_final.weight"].iter().any(|n| p.name.ends_with(n));
            if is_norm {
                out.fill(1.0);
            }
            is_norm
        };
        fresh(&self.parameters, "time_embed", seed, norm, each)
    }

    /// On a GPU there are kernels for widths that are multiples of 8 up to 8192, gradients up to 4096.
    fn require(&self, device: Device, purpose: Use, precision: Precision) -> Result<()> {
        adaln::require("Mlp", self.config.width, (device, purpose, precision), || Ok(()))
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
