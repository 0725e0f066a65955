//! A denoiser of one's own: registered by name, trained and scored with, on the CPU or a GPU.
//!
//! It sees each cell of the grid by itself: F(x) = W₂·gelu(W₁·x + b₁) + b₂.

mod common;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use common::own::{Options, try_out};
use invad::denoisers::*;
use invad::device::{Allocate, Purpose};
use invad::ops::{self, Activation, PatchOrder, Random, Stream};
use invad::tensor::{TensorView, TensorViewMut};
use invad::{Device, FitOptions, Precision, Result, Tensor};

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| {
        let kind = Kind::new("cells", |id| cells(id.sizes()?), cells);
        register(kind.with_presets(&[("cells-512", cells)]))?;
        try_out(&options, FitOptions::default().denoiser("cells-512".into()))?;
        Ok(ExitCode::SUCCESS)
    })
}

const HIDDEN: usize = 512;
#[derive(Clone, Debug)]
struct Cells {
    features: FeatureShape,
    parameters: Vec<Parameter>,
    layers: [Linear; 2],
}

fn cells(features: FeatureShape) -> Result<Arc<dyn Denoiser>> {
    let mut all = Layout::default();
    let c = features.channels;
    let layers = [all.linear("fc1", HIDDEN, c), all.linear("fc2", c, HIDDEN)];
    Ok(Arc::new(Cells { features, parameters: all.parameters, layers }))
}

impl Denoiser for Cells {
    fn id(&self) -> DenoiserId {
        DenoiserId::new("cells", &self.features)
    }

    fn features(&self) -> FeatureShape {
        self.features
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn init_each(
        &self,
        seed: u64,
        each: &mut dyn FnMut(&Parameter, &[f32]) -> Result<()>,
    ) -> Result<()> {
        for (step, p) in (0..).zip(&self.parameters) {
            // A fresh network returns 0: its last layer is 0.
            let std = if p.name == "fc1.weight" { (p.shape[1] as f32).sqrt().recip() } else { 0.0 };
            let mut values = vec![0.0; p.len()];
            let view = TensorViewMut::from_slice(&mut values, &p.shape)?;
            ops::normal(Random { seed, stream: Stream::Init, step }, view)?;
            values.iter_mut().for_each(|v| *v *= std);
            each(p, &values)?;
        }
        Ok(())
    }

    fn trainable(
        &self,
        batch: usize,
        how: Training,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Trainable>> {
        let FeatureShape { grid, channels } = self.features;
        let (cells, dtype) = (grid * grid, how.precision.dtype());
        let mut take = |width| a.zeros(Purpose::Activations, &[batch, cells, width], dtype);
        Ok(Box::new(Passes {
            layers: self.layers,
            x: take(channels)?,
            y: take(channels)?,
            hidden: [take(HIDDEN)?, take(HIDDEN)?, take(HIDDEN)?],
        }))
    }

    fn pack(
        &self,
        parameters: &Tensor,
        timesteps: &[usize],
        device: Device,
        precision: Precision,
    ) -> Result<Arc<dyn Packed>> {
        unpacked(Arc::new(self.clone()), parameters, timesteps, device, precision)
    }
}

struct Passes {
    layers: [Linear; 2],
    x: Tensor,
    y: Tensor,
    /// Before the activation, after it, and its gradient.
    hidden: [Tensor; 3],
}

impl Trainable for Passes {
    fn forward(
        &mut self,
        from: Parameters,
        x: TensorView,
        _t: TensorView,
        out: TensorViewMut,
    ) -> Result<()> {
        let Self { layers: [fc1, fc2], x: cells, y, hidden: [pre, hidden, _] } = self;
        ops::patchify(x, &mut *cells, 1, PatchOrder::ChannelsLast)?;
        let bias = Some(from.bias(fc1, hidden.dtype())?);
        let (weight, pre) = (from.weight(fc1)?, Some(pre.view_mut()));
        ops::linear(&*cells, weight, bias, Activation::Gelu, pre, &mut *hidden)?;
        let bias = Some(from.bias(fc2, y.dtype())?);
        ops::linear(&*hidden, from.weight(fc2)?, bias, Activation::None, None, &mut *y)?;
        ops::unpatchify(&*y, out, 1, PatchOrder::ChannelsLast)
    }

    fn backward(
        &mut self,
        from: Parameters,
        dout: TensorView,
        gradients: &mut Tensor,
        dx: Option<TensorViewMut>,
    ) -> Result<()> {
        let Self { layers: [fc1, fc2], x, y, hidden: [pre, hidden, dhidden] } = self;
        ops::patchify(dout, &mut *y, 1, PatchOrder::ChannelsLast)?;
        let (dw, db) = fc2.parts(gradients)?;
        ops::linear_backward_weight(&*y, &*hidden, dw, Some(db))?;
        ops::linear_backward_input(&*y, from.weight(fc2)?, Some(pre.view()), &mut *dhidden)?;
        let (dw, db) = fc1.parts(gradients)?;
        ops::linear_backward_weight(&*dhidden, &*x, dw, Some(db))?;
        let Some(dx) = dx else { return Ok(()) };
        ops::linear_backward_input(&*dhidden, from.weight(fc1)?, None, &mut *y)?;
        ops::unpatchify(&*y, dx, 1, PatchOrder::ChannelsLast)
    }
}
