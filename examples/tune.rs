//! Measures what computes matrix products fastest on this machine, and keeps it.

mod common;

#[cfg(feature = "cuda")]
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use common::say;
use invad::{Device, MeasuredUnit, Result, denoisers, measure_units};
#[cfg(feature = "cuda")]
use {
    common::note,
    image::RgbImage,
    invad::checkpoint::{BackboneId, Recipe, TrainingConfig},
    invad::cuda::{Choice, Choices, measure_products},
    invad::denoisers::{DenoiserId, FeatureShape},
    invad::diffusion::{Inverter, Parameterisation},
    invad::train::Resources,
    invad::{DType, Detector, Tensor, Trainer, ops},
};

/// Those of efficientnet-lite0.
#[cfg(feature = "cuda")]
const FEATURES: FeatureShape = FeatureShape { grid: 16, channels: 272 };

/// Measures what computes matrix products fastest on this machine, and keeps it for all programs
///
/// On a GPU: which of the algorithms that cuBLASLt suggests is the fastest for each product of a detector, or of a
/// network. It is kept beside the compiled kernels, for this GPU and this version of cuBLASLt. On a CPU: which of the
/// processor's units (INVAD_CPU overrides it). Another choice changes the last bits of scores; without a measurement, what
/// is suggested computes, and the widest unit.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  The products of a detector, on a GPU:
    cargo run --release --example tune -- out/demo/detector.safetensors
  Those of scoring and training with the large transformer:
    cargo run --release --example tune -- --preset base --train --batch 64
  The units of the processor:
    cargo run --release --example tune -- --device cpu

Exit codes:
  0    it is measured and kept
  1    failure
  2    wrong usage")]
struct Options {
    /// Detectors that are to score images
    #[arg(value_name = "DETECTOR")]
    detectors: Vec<PathBuf>,
    /// Denoisers, on the features of efficientnet-lite0
    #[arg(long, num_args = 1.., value_parser = PossibleValuesParser::new(denoisers::presets()))]
    preset: Vec<String>,
    /// Steps of training with these denoisers as well, with --batch images at once
    #[arg(long, requires = "preset")]
    train: bool,
    /// Images at once: all powers of two up to so many, as the end of a list is scored in such parts
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Where to compute: cpu, cuda, cuda:N or best
    #[arg(long, default_value = "best")]
    device: Device,
}

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| {
        options.device.require()?;
        match options.device {
            Device::Cpu => units(),
            Device::Cuda(_) => products(&options),
        }?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Which unit of the processor computes.
fn units() -> Result<()> {
    let units = measure_units()?;
    say("unit        GFLOP/s");
    for MeasuredUnit { name, rate } in &units {
        say(format!("{name:10}  {:7.0}", rate / 1e9));
    }
    say(format!("\nmatrix products are computed by {} from now on", units[0].name));
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn products(options: &Options) -> Result<()> {
    options.device.require()
}

/// Which algorithm computes each product.
#[cfg(feature = "cuda")]
fn products(options: &Options) -> Result<()> {
    if options.detectors.is_empty() && options.preset.is_empty() {
        common::wrong_usage::<Options>(
            "name a detector or a --preset, whose products are measured on a GPU".into(),
        );
    }
    let batches: Vec<usize> = (0..)
        .map(|power| 1 << power)
        .take_while(|&batch| batch <= usize::from(options.batch))
        .collect();
    let mut measured = Choices::new();
    let mut measure = |name: &dyn Display, work: &mut dyn FnMut() -> Result<()>| {
        note(format!("measuring {name}"));
        measure_products(options.device, work).map(|choices| measured.extend(choices))
    };
    for path in &options.detectors {
        for &batch in &batches {
            let detector = Detector::load(path)?.to_device(options.device)?;
            let detector = detector.with_batch_size(batch)?;
            let name = format!("{}, {batch} at once", path.display());
            let images = vec![RgbImage::new(256, 256); batch];
            measure(&name, &mut || detector.score(&images).map(drop))?;
        }
    }
    for preset in &options.preset {
        let denoiser = denoisers::preset(preset, FEATURES)?;
        let weights = normal(&[denoiser.len()], 0.02)?;
        let inverter =
            Inverter::new(&*denoiser, &weights, Parameterisation::Epsilon, 1, 250, options.device)?;
        for &batch in &batches {
            let name = format!("{preset}, {batch} at once");
            let mut space = inverter.workspace(batch)?;
            let shape = [batch, FEATURES.grid, FEATURES.grid, FEATURES.channels];
            let mut latent = normal(&shape, 1.0)?.view().copied_to(options.device, DType::F32)?;
            measure(&name, &mut || inverter.invert(&mut latent, &mut space))?;
        }
        drop(inverter);
        if options.train {
            let batch = usize::from(options.batch);
            let mut trainer = trainer(&denoiser.id(), batch, options.device)?;
            let name = format!("training of {preset}, {batch} at once");
            measure(&name, &mut || trainer.step().map(drop))?;
        }
    }
    let width = measured.keys().map(String::len).max().unwrap_or(0);
    say(format!("{:width$}  tried  suggested µs  fastest µs   gain", "product"));
    for (name, Choice { seconds, suggested, tried, .. }) in &measured {
        let gain = 100.0 * (suggested / seconds - 1.0);
        say(format!(
            "{name:width$}  {tried:5}  {:12.1}  {:10.1}  {gain:4.1}%",
            suggested * 1e6,
            seconds * 1e6
        ));
    }
    Ok(())
}

/// Normal numbers: a GPU multiplies zeros at another clock.
#[cfg(feature = "cuda")]
fn normal(shape: &[usize], scale: f32) -> Result<Tensor> {
    let mut numbers = Tensor::zeros(shape, DType::F32, Device::Cpu)?;
    let random = ops::Random { seed: 0, stream: ops::Stream::Noise, step: 0 };
    ops::normal(random, &mut numbers)?;
    let scaled = numbers.to_vec_f32().into_iter().map(|x| scale * x).collect();
    Tensor::from_f32(scaled, shape, Device::Cpu)
}

/// What makes products of training.
#[cfg(feature = "cuda")]
fn trainer(denoiser: &DenoiserId, batch: usize, device: Device) -> Result<Trainer> {
    let FeatureShape { grid, channels } = FEATURES;
    let config = TrainingConfig {
        recipe: Recipe::whitened().batch(batch),
        denoiser: denoiser.clone(),
        backbone: BackboneId { name: "none".into(), hash: String::new(), image_size: 256 },
        seed: 0,
        steps: 1,
        categories: Vec::new(),
    };
    let features = normal(&[batch, grid, grid, channels], 1.0)?;
    Trainer::new(config, features, Resources::from(device))
}
