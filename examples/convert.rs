//! Turns what other programs have trained into files of this one.

mod common;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser};
use common::options::{Computing, at_least_one, backbone};
use common::progress::{Progress, fetched};
use common::{in_folder, note, say, unless_interrupted};
use invad::backbones;
use invad::checkpoint::{Checkpoint, Recipe};
use invad::data::Dataset;
use invad::denoisers::{Imported, Untold, import};
use invad::files::FolderLock;
use invad::weights::Weights;
use invad::{Detector, Result};

/// Turns weights of backbones, and checkpoints of the method's reference implementation, into files of these programs
///
/// With --weights, published weights of a backbone become OUT/BACKBONE.safetensors, which `train --backbone BACKBONE` and
/// every program that loads its detector find in the folder INVAD_WEIGHTS. With --denoiser, a DiT, an MLP or a UNet
/// that the reference implementation (github.com/SkyShunsuke/InversionAD) has trained becomes OUT/detector.safetensors,
/// calibrated with good images, which `score` and `evaluate` read. Files are of safetensors or of PyTorch, and nothing in
/// them is executed.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  DINOv2 as facebookresearch publishes it:
    cargo run --release --example convert -- --weights dinov2_vits14_pretrain.pth \\
      --backbone dinov2-vits14 --out weights
  The teacher among the weights of a training of DINO:
    cargo run --release --example convert -- --weights dino_vitbase16_pretrain_full_checkpoint.pth \\
      --below teacher --backbone dino-vit-b16 --out weights
  A detector of the reference implementation, and good images that it has not seen:
    cargo run --release --example convert -- --denoiser results/model_ema_latest.pth \\
      --backbone efficientnet-b4-reference --data photos/good --out out/reference

Exit codes:
  0    the file is written
  1    failure
  2    wrong usage
  4    a good image could not be read; the others are enough
  130  stopped by Ctrl-C; nothing is written")]
struct Options {
    #[command(flatten)]
    from: From,
    /// Take the tensors of this dictionary in the file alone
    #[arg(long, value_name = "KEY")]
    below: Option<String>,
    /// The backbone that the weights are of, or whose features the denoiser was trained on
    ///
    /// docs/backbones.md has them all.
    #[arg(long, value_name = "NAME", value_parser = backbone)]
    backbone: String,
    /// Good images to calibrate a denoiser with: a folder of them, or a data set
    ///
    /// Images that it was trained on score too low, and so would the threshold be. Of a data set that has images for
    /// validation, those are taken.
    #[arg(long, value_name = "DIR", conflicts_with = "weights")]
    data: Option<PathBuf>,
    /// Categories of the data set [default: all]
    #[arg(long, value_name = "CATEGORY", num_args = 1.., requires = "data")]
    category: Vec<String>,
    /// Attention heads of a DiT, which its file does not tell
    #[arg(long, value_name = "N", default_value_t = Untold::default().heads, value_parser = at_least_one())]
    heads: usize,
    /// Channels of an attention head of a UNet
    #[arg(long, value_name = "N", default_value_t = Untold::default().head_size, value_parser = at_least_one())]
    head_size: usize,
    /// How often the denoiser is evaluated for an image
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    evaluations: u16,
    /// Where to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    computing: Computing,
}

/// What is converted.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct From {
    /// Weights of a backbone
    ///
    /// By the names of timm, transformers, facebookresearch or the PyTorch ports.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// A checkpoint of the reference implementation
    ///
    /// It keeps two: model_ema_latest.pth is the average of training.
    #[arg(long, value_name = "FILE", requires = "data")]
    denoiser: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| match (&options.from, &options.data) {
        (From { weights: Some(file), .. }, _) => {
            written(&options.out, &format!("{}.safetensors", options.backbone), |to| {
                weights(file, to, &options)
            })
        }
        (From { denoiser: Some(file), .. }, Some(data)) => {
            options.computing.require()?;
            written(&options.out, "detector.safetensors", |to| detector(file, data, to, &options))
        }
        _ => unreachable!("one of both is required, and data with the second"),
    })
}

/// Has `write` write a file in a folder that no other process writes in, where killed ones may have left theirs.
fn written(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&Path) -> Result<ExitCode>,
) -> Result<ExitCode> {
    in_folder(folder, || {
        let lock = FolderLock::acquire(folder)?;
        lock.remove_leftovers(name);
        write(&folder.join(name))
    })
}

/// The tensors of a file that were asked for.
fn open(file: &Path, options: &Options) -> Result<Weights> {
    let weights = Weights::open(file)?;
    match &options.below {
        Some(key) => weights.below(key),
        None => Ok(weights),
    }
}

fn weights(file: &Path, to: &Path, options: &Options) -> Result<ExitCode> {
    let left = backbones::convert(&options.backbone, open(file, options)?, to)?;
    left_out(&left, "are not needed");
    say(format!("{}: set INVAD_WEIGHTS={}", to.display(), options.out.display()));
    Ok(ExitCode::SUCCESS)
}

fn detector(file: &Path, data: &Path, to: &Path, options: &Options) -> Result<ExitCode> {
    let dataset = Dataset::open(data, &options.category)?;
    common::catch_interrupts()?;
    let backbone = fetched(&options.backbone)?;
    let spec = backbone.spec();
    let untold =
        Untold::default().grid(spec.grid).heads(options.heads).head_size(options.head_size);
    let Imported { denoiser, parameters, unused } = import(open(file, options)?, &untold)?;
    left_out(&unused, "never get a gradient and are left out");
    note(format!("{}: {} parameters", denoiser.id(), denoiser.len()));

    let recipe = Recipe::paper().with_evaluations(options.evaluations.into());
    let categories = dataset.categories().iter().map(|category| category.name.clone()).collect();
    let checkpoint = Checkpoint::of_trained(&*denoiser, parameters, recipe, spec, categories)?;
    let mut detector = options.computing.ready(Detector::new(checkpoint)?)?;
    let good = dataset.categories().iter().map(|category| match category.validation() {
        [] => (&category.name, category.good()),
        unseen => (&category.name, unseen),
    });
    let total: usize = good.clone().map(|(_, images)| images.len()).sum();
    let mut progress = Progress::new("calibration", total as u64, "images");
    let (mut done, mut unreadable) = (0, 0);
    for (name, images) in good {
        detector.calibrate_files(name, images, Vec::new(), |_, read| {
            unless_interrupted()?;
            if let Err(e) = read {
                unreadable += 1;
                log::warn!("{e}; the image is left out");
            }
            done += 1;
            progress.set(done, String::new);
            Ok(())
        })?;
        detector.doubts(Some(name)).iter().for_each(|doubt| log::warn!("{doubt}"));
    }
    progress.finish();
    detector.save(to)?;
    say(format!(
        "{}: evaluated {} times, calibrated with {} images of {}",
        to.display(),
        options.evaluations,
        detector.calibration().images(None).len(),
        detector.config().categories.join(", ")
    ));
    Ok(if unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::from(common::UNREADABLE) })
}

/// Says which tensors are not in what is written.
fn left_out(names: &[String], why: &str) {
    const SHOWN: usize = 3;
    if !names.is_empty() {
        let more = match names.len() {
            n if n > SHOWN => format!(" and {} more", n - SHOWN),
            _ => String::new(),
        };
        let first = names.iter().take(SHOWN).map(|name| format!("`{name}`"));
        note(format!("{}{more} {why}", first.collect::<Vec<_>>().join(", ")));
    }
}
