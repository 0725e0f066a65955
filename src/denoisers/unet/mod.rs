//! A denoiser that looks at the grid at several scales: the U-Net of Dhariwal & Nichol (2021, "Diffusion Models Beat
//! GANs on Image Synthesis"), in which a timestep's vector is added within residual blocks (Ho et al., 2020).
//!
//! On the way down, residual blocks and attention alternate and convolutions of stride 2 halve the grid; on the way up
//! each residual block reads what its counterpart has returned beside the output of the layer before. A convolution
//! is a matrix product of gathered 3×3 patches; its weight is (O, 3, 3, C).

mod backward;
mod buffers;
mod config;
mod forward;
mod layers;

use std::sync::Arc;

use backward::Pass;
use buffers::{Activations, Gradients};
pub use config::UnetConfig;
use forward::Given;
use layers::{Layer, Layers};

use super::import::{axes, count};
use super::parts::{
    Evaluated, Modulation, ModulationActivations, ModulationGradients, Packing, Source, pack,
    uniform,
};
use super::{
    Denoiser, DenoiserId, FeatureShape, Kind, Layout, Packed, Parameter, Parameters, Recompute,
    Reference, Trainable, Training, Untold, Use,
};
use crate::device::Allocate;
use crate::error::Result;
use crate::ops::{Random, Stream, expect_shape, kernels};
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;
use crate::weights::Weights;

/// U-Nets.
pub(super) const KIND: Kind = Kind {
    name: "unet",
    read: |id| make(id.sizes()?),
    smallest: |features| make(UnetConfig::sized(features, 32, &[1, 2], 1, &[2], 8)),
    presets: &[
        ("small-unet", |features| make(UnetConfig::small(features))),
        ("unet", |features| make(UnetConfig::reference(features))),
    ],
    reference: Some(Reference {
        mark: "input_blocks.0.0.weight",
        unused: &["cls_embed"],
        network: |weights, untold| make(reference(weights, untold)?),
    }),
};

/// The sizes that the tensors of a file tell of.
fn reference(weights: &Weights, untold: &Untold) -> Result<UnetConfig> {
    let [width, channels, _, _] = axes(weights, "input_blocks.0.0.weight")?;
    let (mut channel_mult, mut attention_downsample) = (Vec::new(), Vec::new());
    let (mut level, mut blocks) = (0, 0);
    for i in 1..count(weights, "input_blocks") {
        if weights.entry(&format!("input_blocks.{i}.0.op.weight")).is_some() {
            level += 1;
            continue;
        }
        let [outputs, ..]: [_; 4] =
            axes(weights, &format!("input_blocks.{i}.0.out_layers.3.weight"))?;
        if channel_mult.len() == level {
            channel_mult.push(outputs / width.max(1));
            if weights.entry(&format!("input_blocks.{i}.1.qkv.weight")).is_some() {
                attention_downsample.push(1 << level.min(63));
            }
        }
        blocks += 1;
    }
    let (Untold { grid, head_size, .. }, res_blocks) = (*untold, blocks / (level + 1));
    Ok(UnetConfig {
        channels,
        grid,
        width,
        channel_mult,
        res_blocks,
        attention_downsample,
        head_size,
    })
}

fn make(config: UnetConfig) -> Result<Arc<dyn Denoiser>> {
    Ok(Arc::new(Unet::new(config)?))
}

/// The structure of a U-Net.
#[derive(Clone, Debug)]
pub struct Unet {
    config: UnetConfig,
    parameters: Arc<[Parameter]>,
    layers: Arc<Layers>,
}

impl Unet {
    /// A network of these sizes.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if a size is 0 or out of range, or sizes do not divide as they should.
    pub fn new(config: UnetConfig) -> Result<Self> {
        config.check()?;
        let mut l = Layout::default();
        let layers = Layers::new(&config, &mut l);
        Ok(Self { config, parameters: l.parameters.into(), layers: Arc::new(layers) })
    }

    /// The sizes.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Bytes that the kernels of the backward pass leave to each other on a GPU.
    fn scratch_bytes(&self, batch: usize) -> usize {
        let linear = |cells, n| kernels::linear_backward_scratch(batch * cells, n, DType::F32);
        let norm = |channels| kernels::group_norm_backward_scratch(batch, channels);
        let of_layers = self.layers.steps.iter().map(|step| {
            let (cells, c) = (step.output.cells(), step.output.channels);
            let of_layer = match step.layer {
                Layer::Conv(_) => 0,
                Layer::Res(_) => norm(step.input.channels).max(norm(c)),
                Layer::Attention(attention) => {
                    norm(c).max(linear(cells, 3 * c)).max(kernels::attention_backward_scratch(
                        batch,
                        cells,
                        attention.heads,
                        self.config.head_size,
                    ))
                }
            };
            of_layer.max(linear(cells, c))
        });
        let end = self.layers.end();
        let of_end = norm(end.channels).max(linear(end.cells(), self.config.channels));
        of_layers.fold(of_end.max(self.layers.modulation.scratch_bytes(batch)), usize::max)
    }
}

impl From<UnetConfig> for DenoiserId {
    fn from(config: UnetConfig) -> Self {
        Self::new(KIND.name, &config)
    }
}

impl Denoiser for Unet {
    fn id(&self) -> DenoiserId {
        self.config.clone().into()
    }

    fn features(&self) -> FeatureShape {
        FeatureShape { grid: self.config.grid, channels: self.config.channels }
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// PyTorch's: uniform numbers up to 1/√(numbers that an output is of) for weights and their biases, 1 and 0 for
    /// normalisations; but zero for the last layer of each branch and the last of all, so that a fresh network returns 0.
    fn init_each(
        &self,
        seed: u64,
        each: &mut dyn FnMut(&Parameter, &[f32]) -> Result<()>,
    ) -> Result<()> {
        // Biases follow weights, those of the table all of its weights.
        let mut fan_in = 1;
        let mut values = Vec::new();
        for (i, p) in self.parameters.iter().enumerate() {
            values.clear();
            values.resize(p.len(), 0.0f32);
            fan_in = if p.shape.len() > 1 { p.len() / p.shape[0] } else { fan_in };
            match (layers::is_norm(&p.name), layers::is_zero(&p.name)) {
                (true, _) => values.fill(f32::from(u8::from(p.name.ends_with("weight")))),
                (_, true) => {}
                _ => {
                    let random = Random { seed, stream: Stream::Init, step: i as u64 };
                    uniform(random, (fan_in as f64).sqrt().recip(), &mut values);
                }
            }
            each(p, &values)?;
        }
        Ok(())
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
        let Training { precision, recompute } = how;
        precision.require("Unet", a.device())?;
        let (layers, features) = (&self.layers, self.features());
        let acts = Activations::new(a, layers, features, batch, precision, Some(recompute))?;
        let of_table = layers.modulation.activations(a, batch, precision)?;
        let gradients = Gradients::new(a, layers, features, batch, precision)?;
        let dtable = layers.modulation.gradients(a, batch)?;
        a.scratch(self.scratch_bytes(batch))?;
        Ok(Box::new(InTraining { network: self.clone(), acts, of_table, gradients, dtable }))
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

impl Evaluated for Unet {
    const NAME: &'static str = "Unet";

    type Memory = Activations;

    fn conditioning(&self) -> &Modulation {
        &self.layers.modulation
    }

    fn pack_weights(&self, packing: &mut Packing) -> Result<()> {
        for (i, step) in self.layers.steps.iter().enumerate() {
            packing.tokens = step.output.cells();
            match &step.layer {
                Layer::Conv(conv) if i == 0 => packing.outer_layer(&conv.linear)?,
                Layer::Conv(conv) => packing.layer(&conv.linear)?,
                Layer::Res(res) => {
                    res.norms.iter().try_for_each(|norm| norm.pack(packing))?;
                    let convs = res.convs.iter().map(|conv| &conv.linear);
                    convs.chain(&res.projection).try_for_each(|layer| packing.layer(layer))?;
                }
                Layer::Attention(attention) => {
                    attention.norm.pack(packing)?;
                    packing.layer(&attention.qkv)?;
                    packing.layer(&attention.proj)?;
                }
            }
        }
        self.layers.norm.pack(packing)?;
        packing.outer_layer(&self.layers.out.linear)
    }

    fn memory(
        &self,
        a: &mut dyn Allocate,
        batch: usize,
        precision: Precision,
    ) -> Result<Activations> {
        Activations::new(a, &self.layers, self.features(), batch, precision, None)
    }

    fn evaluate(
        &self,
        acts: &mut Activations,
        source: &Source,
        x: TensorView,
        table: TensorView,
        out: TensorViewMut,
    ) -> Result<()> {
        self.run(acts, Given { source, table }, x, out)
    }
}

/// A network and the memory of its training.
struct InTraining {
    network: Unet,
    acts: Activations,
    of_table: ModulationActivations,
    gradients: Gradients,
    dtable: ModulationGradients,
}

impl Trainable for InTraining {
    fn forward(
        &mut self,
        parameters: Parameters<'_>,
        x: TensorView<'_>,
        t: TensorView<'_>,
        out: TensorViewMut<'_>,
    ) -> Result<()> {
        let Self { network, acts, of_table, .. } = self;
        parameters.check("Unet", network.len())?;
        network.layers.modulation.forward(parameters, t, of_table)?;
        let (source, table) = (&Source::Arena(parameters), of_table.table.view());
        network.run(acts, Given { source, table }, x, out)
    }

    fn backward(
        &mut self,
        parameters: Parameters<'_>,
        dout: TensorView<'_>,
        dp: &mut Tensor,
        dx: Option<TensorViewMut<'_>>,
    ) -> Result<()> {
        let Self { network, acts, of_table, gradients, dtable } = self;
        parameters.check("Unet", network.len())?;
        expect_shape("Unet", "gradients", dp.shape(), &[network.len()])?;
        expect_shape("Unet", "dout", dout.shape(), &network.features().of(acts.batch))?;
        let (source, table) = (&Source::Arena(parameters), of_table.table.view());
        let given = Given { source, table };
        let dtable_of = &mut dtable.dtable;
        let mut pass = Pass { parameters, given, acts, gradients, dtable: dtable_of, dp };
        network.back(&mut pass, dout, dx)?;
        network.layers.modulation.backward(parameters, of_table, dtable, dp)
    }
}
