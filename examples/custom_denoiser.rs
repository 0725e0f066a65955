//! A denoiser of one's own: registered by name, trained, kept in a file and scored with, on the CPU or a GPU.
//!
//! It sees each cell of the grid by itself: F(x) = W₂·gelu(W₁·x + b₁) + b₂.

use std::sync::Arc;

use clap::Parser;
use invad::data::Dataset;
use invad::denoisers::*;
use invad::detect::{ScoreOptions, evaluate};
use invad::device::{Allocate, Purpose};
use invad::ops::{self, Activation, PatchOrder, Random, Stream};
use invad::tensor::{TensorView, TensorViewMut};
use invad::{Control, Device, Error, FitOptions, Fitted, Precision, Result, Tensor, fit};

/// Trains a denoiser of one's own on the bundled photographs, and says how well it tells their defects
#[derive(Parser)]
struct Options {
    /// Where to compute: cpu, cuda, cuda:N or best
    #[arg(long, default_value = "best")]
    device: Device,
    /// Optimiser steps
    #[arg(long, default_value_t = 600)]
    steps: u64,
    /// Categories [default: all]
    #[arg(long, num_args = 1..)]
    category: Vec<String>,
}

fn main() -> Result<()> {
    let Options { device, steps, category } = Options::parse();
    register(Kind {
        name: "cells",
        read: |id| cells(id.sizes()?),
        presets: &[("cells-512", cells)],
    })?;
    let photographs = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data");
    let dataset = Dataset::open(photographs, &category)?;
    let options = FitOptions {
        denoiser: "cells-512".into(),
        steps: Some(steps),
        resources: device.into(),
        ..Default::default()
    };
    let Fitted::Detector(detector) = fit(&dataset, &options, |_| Control::Continue)? else {
        unreachable!("nothing stops the training")
    };
    let found = evaluate(&detector, &dataset, &ScoreOptions::default(), |_, _| Ok(()))?;
    for (category, metrics) in &found.calibrated.categories {
        let [images, regions] =
            [metrics.image_auroc, metrics.au_pro].map(Option::unwrap_or_default);
        println!("{category}: image AUROC {images:.1} %, AU-PRO {regions:.1} %");
    }
    Ok(())
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
    let layers = [
        all.linear("fc1", HIDDEN, features.channels),
        all.linear("fc2", features.channels, HIDDEN),
    ];
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
            let mut values = vec![0.0; p.len()];
            // A fresh network returns 0: its last layer is 0.
            if p.name == "fc1.weight" {
                let random = Random { seed, stream: Stream::Init, step };
                ops::normal(random, TensorViewMut::from_slice(&mut values, &p.shape)?)?;
                values.iter_mut().for_each(|v| *v /= (p.shape[1] as f32).sqrt());
            }
            each(p, &values)?;
        }
        Ok(())
    }

    fn require(&self, device: Device, _: Use, _: Precision) -> Result<()> {
        device.require()
    }

    fn trainable(
        &self,
        batch: usize,
        how: Training,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Trainable>> {
        let FeatureShape { grid, channels } = self.features;
        let mut take = |width| {
            a.zeros(Purpose::Activations, &[batch, grid * grid, width], how.precision.dtype())
        };
        Ok(Box::new(Passes {
            layers: self.layers,
            x: take(channels)?,
            y: take(channels)?,
            pre: take(HIDDEN)?,
            hidden: take(HIDDEN)?,
            dhidden: take(HIDDEN)?,
        }))
    }

    fn pack(
        &self,
        parameters: &Tensor,
        timesteps: &[usize],
        device: Device,
        precision: Precision,
    ) -> Result<Arc<dyn Packed>> {
        denoisers::unpacked(Arc::new(self.clone()), parameters, timesteps, device, precision)
    }
}

struct Passes {
    layers: [Linear; 2],
    x: Tensor,
    y: Tensor,
    pre: Tensor,
    hidden: Tensor,
    dhidden: Tensor,
}

impl Trainable for Passes {
    fn forward(
        &mut self,
        from: Parameters,
        x: TensorView,
        _t: TensorView,
        out: TensorViewMut,
    ) -> Result<()> {
        let ([fc1, fc2], dtype) = (&self.layers, self.x.dtype());
        ops::patchify(x, &mut self.x, 1, PatchOrder::ChannelsLast)?;
        let (w, b) = (from.weight(fc1)?, from.bias(fc1, dtype)?);
        let pre = Some(self.pre.view_mut());
        ops::linear(&self.x, w, Some(b), Activation::Gelu, pre, &mut self.hidden)?;
        let (w, b) = (from.weight(fc2)?, from.bias(fc2, dtype)?);
        ops::linear(&self.hidden, w, Some(b), Activation::None, None, &mut self.y)?;
        ops::unpatchify(&self.y, out, 1, PatchOrder::ChannelsLast)
    }

    fn backward(
        &mut self,
        from: Parameters,
        dout: TensorView,
        gradients: &mut Tensor,
        dx: Option<TensorViewMut>,
    ) -> Result<()> {
        let [fc1, fc2] = &self.layers;
        ops::patchify(dout, &mut self.y, 1, PatchOrder::ChannelsLast)?;
        let (dw, db) = fc2.parts(gradients)?;
        ops::linear_backward_weight(&self.y, &self.hidden, dw, Some(db))?;
        let pre = Some(self.pre.view());
        ops::linear_backward_input(&self.y, from.weight(fc2)?, pre, &mut self.dhidden)?;
        let (dw, db) = fc1.parts(gradients)?;
        ops::linear_backward_weight(&self.dhidden, &self.x, dw, Some(db))?;
        let Some(dx) = dx else { return Ok(()) };
        ops::linear_backward_input(&self.dhidden, from.weight(fc1)?, None, &mut self.y)?;
        ops::unpatchify(&self.y, dx, 1, PatchOrder::ChannelsLast)
    }
}
