//! A diffusion model that was trained elsewhere, inverted and scored in place of its sampling, as in the paper's Table 5: its
//! structure is registered by name, its schedule and what it predicts are said, its parameters are those of a file
//! (`docs/other-models.md`). This one sees each cell of the grid by itself: F(x) = W₂·gelu(W₁·x + b₁) + b₂. It is trained here
//! first, as any program might: to predict velocities, by a cosine schedule over 500 timesteps.

mod common;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use common::own::{Options, tell};
use invad::backbones::{self, Loaded};
use invad::checkpoint::{Checkpoint, Ema, Recipe, TrainingConfig};
use invad::data::Dataset;
use invad::denoisers::*;
use invad::device::{Allocate, Purpose};
use invad::diffusion::{Parameterisation, Schedule};
use invad::ops::{self, Activation, PatchOrder, Random, Stream};
use invad::tensor::{TensorView, TensorViewMut};
use invad::train::extract_features;
use invad::weights::{self, Weights};
use invad::{Detector, Device, Error, Precision, Result, Tensor, Trainer};

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| {
        register(Kind::new("cells", |id| cells(id.sizes()?), cells))?;
        let dataset = Dataset::open(&options.data, &[])?;
        let folder = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        let file = folder.path().join("cells.safetensors");
        train_elsewhere(&dataset, &options, &file)?;
        tell(&detector(&file, &dataset, options.device)?, &dataset)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What is to be known of it beside. One that is told t is inverted in several evaluations: `with_evaluations(3)`.
fn process() -> Result<Recipe> {
    let recipe = Recipe::paper().parameterisation(Parameterisation::Velocity);
    Ok(recipe.with_schedule(Schedule::cosine(500)?).with_timestep(100))
}

/// A detector of the model in a file. Its scores are calibrated with good images, of which other methods need none.
fn detector(file: &Path, dataset: &Dataset, device: Device) -> Result<Detector> {
    let backbone = backbones::named("efficientnet-lite0")?;
    let network = cells(backbone.spec().features())?;
    let parameters = read_parameters(&*network, &Weights::open(file)?)?;
    let names = dataset.categories().iter().map(|of| of.name.clone()).collect();
    let checkpoint =
        Checkpoint::of_trained(&*network, parameters, process()?, backbone.spec(), names)?;
    let mut detector = Detector::new(checkpoint)?.to_device(device)?;
    for of in dataset.categories() {
        detector.calibrate_files(&of.name, of.good(), vec![], |_, read| read)?;
    }
    Ok(detector)
}

/// Trains a model on features of good images and writes its parameters, and nothing else, to a file.
fn train_elsewhere(dataset: &Dataset, options: &Options, file: &Path) -> Result<()> {
    let backbone = Loaded::new(backbones::named("efficientnet-lite0")?, Device::Cpu)?;
    let good = dataset.categories().iter().flat_map(|of| of.good());
    let good: Vec<_> = good.map(|sample| sample.path.clone()).collect();
    let features = extract_features(&backbone, &good, |_, read| {
        read.unwrap_or_else(|e| log::warn!("{e}"));
        Ok(())
    })?;
    let network = cells(backbone.spec().features())?;
    let config = TrainingConfig {
        denoiser: network.id(),
        backbone: backbone.spec().into(),
        seed: 0,
        steps: options.steps,
        categories: vec!["all".into()],
        recipe: process()?.initial_rate(2e-3).peak_rate(2e-3).ema(Ema::Ramp(0.995)),
    };
    let mut trainer = Trainer::new(config, features, options.device)?;
    (0..options.steps).try_for_each(|_| trainer.step().map(drop))?;
    let (all, of) = (trainer.into_checkpoint()?.ema.to_vec_f32(), network.parameters());
    let tensors: Vec<_> = of.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
    weights::write(file, None, &tensors, |i, put| put(&all[of[i].offset..][..of[i].len()]))
}

const HIDDEN: usize = 512;
#[derive(Clone, Debug)]
struct Cells {
    features: FeatureShape,
    parameters: Vec<Parameter>,
    layers: [Linear; 2],
}

fn cells(features: FeatureShape) -> Result<Arc<dyn Denoiser>> {
    let (mut all, c) = (Layout::default(), features.channels);
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
            let mut values = vec![0.0; p.len()];
            if p.name == "fc1.weight" {
                let view = TensorViewMut::from_slice(&mut values, &p.shape)?;
                ops::normal(Random { seed, stream: Stream::Init, step }, view)?;
                values.iter_mut().for_each(|v| *v /= (p.shape[1] as f32).sqrt());
            }
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
