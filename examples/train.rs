//! Trains a detector on good images.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use common::options::{at_least_one, backbone, steps};
use common::progress::{FitProgress, fetched, mebibytes};
use common::{in_folder, interrupted, note, require_folder, say};
use invad::backbones::Loaded;
use invad::checkpoint::{Recipe, TrainingState};
use invad::data::Dataset;
use invad::denoisers::{self, Recompute};
use invad::device::Plan;
use invad::files::{FolderLock, write_atomic};
use invad::train::{Average, Memory, Resources, StepReport};
use invad::{
    Control, DType, Device, Error, Event, FitOptions, Fitted, Products, Result, fit, fit_on,
};

/// Trains one detector on the good images of all categories
///
/// Writes OUT/detector.safetensors, which `score` and `evaluate` read; OUT/training.safetensors, the
/// state from which an interrupted training goes on; and OUT/training.csv, the log of all steps.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  The bundled photographs:
    cargo run --release --example train -- --data examples/data --out out/demo
  A folder of photographs of good parts:
    cargo run --release --example train -- --data photos/good --out out/parts
  Two categories of a data set in the layout of MVTec AD:
    cargo run --release --example train -- --data mvtec --category bottle cable --out out/two
  A detector of each category, rather than one of all:
    cargo run --release --example train -- --data mvtec --per-category --out out/each
  Going on after Ctrl-C: the same command, with --resume
    cargo run --release --example train -- --data photos/good --out out/parts --resume

Ctrl-C stops after the step and saves the state; pressed again, it aborts.

Exit codes:
  0    the detector is trained
  1    failure
  2    wrong usage
  130  stopped by Ctrl-C")]
struct Options {
    /// A folder of good images, or a data set: CATEGORY/train/good/* or train/good/*
    #[arg(long, value_name = "DIR", required_unless_present = "plan")]
    data: Option<PathBuf>,
    /// Where to write
    #[arg(long, value_name = "DIR", required_unless_present = "plan")]
    out: Option<PathBuf>,
    /// How to train
    #[arg(long, default_value = "whitened", value_parser = recipe())]
    recipe: Recipe,
    /// What makes the features
    ///
    /// All but the first need weights, a file of this name in the folder INVAD_WEIGHTS or in the cache of the Hugging
    /// Face hub; see docs/backbones.md.
    #[arg(long, value_name = "NAME", default_value = "efficientnet-lite0", value_parser = backbone)]
    backbone: String,
    /// The denoiser: a transformer of 0.8, 2.9, 155 or 1223 million parameters, an MLP over single cells of 1.0 or 350, or a
    /// U-Net of 3 or 1433, on the features of efficientnet-lite0
    #[arg(long, default_value = "small", value_parser = PossibleValuesParser::new(denoisers::presets()))]
    preset: String,
    /// Categories to train on [default: all]
    #[arg(long, value_name = "CATEGORY", num_args = 1..)]
    category: Vec<String>,
    /// Train a detector of each category, OUT/CATEGORY/detector.safetensors, one after the other; `evaluate` takes OUT
    /// as its --detector
    #[arg(long)]
    per_category: bool,
    /// How often the network is evaluated for an image: 1, or more for an inversion over all noise levels
    /// [default: the recipe's, whitened 1, paper 3]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    evaluations: Option<u16>,
    /// The timestep of a single evaluation, which the network is then trained around; the higher, the
    /// coarser is what counts [default: 250, or 100 where synthetic defects stand out more]
    #[arg(long, value_name = "T", conflicts_with = "evaluations", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=999))]
    timestep: Option<u16>,
    /// What the network's layers multiply when the detector scores, if it moves no score of a held-out image by more than
    /// 0.1 standard deviations: int8 is faster on a CPU with AMX or AVX-512 VNNI; bf16, for a CPU only, with AMX or AVX-512
    /// BF16 [default: f32 on a CPU, f16 on a GPU]
    #[arg(long, value_parser = precision())]
    precision: Option<Products>,
    /// Optimiser steps [default: the recipe's]
    #[arg(long, value_name = "N", value_parser = steps())]
    steps: Option<u64>,
    /// Seed of all random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where to compute: cpu, cuda, cuda:N or best
    #[arg(long, default_value = "best")]
    device: Device,
    /// Images computed at once, a divisor of the recipe's batch [default: all of it]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    micro_batch: Option<usize>,
    /// What the backward pass computes again, to need less memory [default: as little as fits]
    #[arg(long, value_parser = recompute(), conflicts_with = "memory_limit")]
    recompute: Option<Recompute>,
    /// Bytes of the device's memory that may be used
    #[arg(long, value_name = "BYTES", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    memory_limit: Option<usize>,
    /// The type of the optimiser's moments; bf16 on a GPU only
    #[arg(long, default_value = "f32", value_parser = moments())]
    moments: DType,
    /// Keep the average of the parameters on the host, brought up to date every so many steps
    #[arg(long, value_name = "STEPS", value_parser = steps())]
    average_every: Option<u64>,
    /// Print the memory that the training would take, and stop
    #[arg(long)]
    plan: bool,
    /// Steps after which the state is saved again
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = steps())]
    save_every: u64,
    /// Go on with the interrupted training in OUT, with the same data and options
    #[arg(long)]
    resume: bool,
}

fn recipe() -> impl TypedValueParser<Value = Recipe> {
    PossibleValuesParser::new(Recipe::NAMES).try_map(|name| Recipe::named(&name))
}

fn recompute() -> impl TypedValueParser<Value = Recompute> {
    PossibleValuesParser::new(Recompute::ALL.map(Recompute::name)).map(|name| {
        let found = Recompute::ALL.into_iter().find(|r| r.name() == name);
        found.expect("one of the possible values")
    })
}

fn moments() -> impl TypedValueParser<Value = DType> {
    PossibleValuesParser::new(["f32", "bf16"])
        .map(|name| if name == "bf16" { DType::BF16 } else { DType::F32 })
}

fn precision() -> impl TypedValueParser<Value = Products> {
    let known = [Products::Int8, Products::Bf16];
    PossibleValuesParser::new(known.map(Products::name)).map(move |name| {
        let found = known.into_iter().find(|products| products.name() == name);
        found.expect("one of the possible values")
    })
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(wrong) = disagreement(&options) {
        common::wrong_usage::<Options>(wrong);
    }
    common::run(|| train(options))
}

/// What is wrong with options that are right each by itself.
fn disagreement(options: &Options) -> Option<String> {
    let (batch, name) = (options.recipe.batch, &options.recipe.name);
    let wrong = options.micro_batch.filter(|images| !batch.is_multiple_of(*images));
    wrong.map(|images| {
        format!("--micro-batch {images} does not divide {batch}, the batch of the recipe {name}")
    })
}

/// Where to train and how it fits there.
fn resources(options: &Options) -> Resources {
    Resources::from(options.device)
        .micro_batch(options.micro_batch)
        .memory(match (options.recompute, options.memory_limit) {
            (Some(recompute), _) => Memory::Recompute(recompute),
            (None, Some(bytes)) => Memory::Limit(bytes),
            (None, None) => Memory::Free,
        })
        .moments(options.moments)
        .average(options.average_every.map_or(Average::Device, |every| Average::Host { every }))
}

/// The memory of the training in MiB, by purpose, for each way to compute again.
fn print_plan(options: &Options) -> Result<()> {
    let resources = resources(options);
    let backbone = fetched(&options.backbone)?;
    let denoiser = denoisers::preset(&options.preset, backbone.spec().features())?;
    let ways = denoiser.recompute();
    let plan = |&way| resources.plan(&*denoiser, options.recipe.batch, way);
    let plans = ways.iter().map(plan).collect::<Result<Vec<_>>>()?;
    let purposes: BTreeSet<_> =
        plans.iter().flat_map(|plan| plan.bytes().map(|(purpose, _)| purpose)).collect();
    let line =
        |name: String, cells: Vec<String>| say(format!("| {name} | {} |", cells.join(" | ")));
    line("MiB, recomputing".into(), ways.iter().map(|way| way.name().into()).collect());
    say(format!("|---{}|", "|---".repeat(ways.len())));
    let row = |name, of: &dyn Fn(&Plan) -> usize| {
        line(name, plans.iter().map(|plan| mebibytes(of(plan))).collect());
    };
    for purpose in purposes {
        let bytes = |plan: &Plan| plan.bytes().find(|(p, _)| *p == purpose).map_or(0, |(_, b)| b);
        row(purpose.to_string(), &bytes);
    }
    row("all".into(), &Plan::total);
    Ok(())
}

fn train(options: Options) -> Result<ExitCode> {
    if options.plan {
        print_plan(&options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(data), Some(out)) = (&options.data, &options.out) else {
        unreachable!("both are required without --plan")
    };
    require_folder(out)?;
    let dataset = Dataset::open(data, &options.category)?;
    common::catch_interrupts()?;
    if !options.per_category {
        return in_folder(out, || train_one(&options, &dataset, None, out));
    }
    // Before the weights of a backbone are read.
    options.device.require()?;
    let backbone = Loaded::new(fetched(&options.backbone)?, Device::Cpu)?;
    let total = dataset.categories().len();
    for (i, category) in dataset.categories().iter().enumerate() {
        let (name, out) = (&category.name, out.join(&category.name));
        note(format!("{name}: detector {} of {total}", i + 1));
        if options.resume && is_done(&out)? {
            note(format!("{name}: is trained already"));
            continue;
        }
        let dataset = dataset.only(name)?;
        let code = in_folder(&out, || train_one(&options, &dataset, Some(&backbone), &out))?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How to train.
fn fit_options(options: &Options) -> FitOptions {
    let recipe = options.recipe.clone();
    let recipe = match (options.evaluations, options.timestep) {
        (None, None) => recipe,
        (Some(evaluations), None) if usize::from(evaluations) == recipe.inversion_steps => recipe,
        (Some(evaluations @ 2..), _) => recipe.with_evaluations(evaluations.into()),
        (_, timestep) => {
            let own = recipe.single_timestep;
            recipe.with_timestep(timestep.map_or(own, usize::from))
        }
    };
    FitOptions::default()
        .recipe(recipe)
        .backbone(options.backbone.clone())
        .denoiser(options.preset.clone())
        .steps(options.steps)
        .seed(options.seed)
        .resources(resources(options))
        .save_every(options.save_every)
        .products(options.precision)
}

/// Trains the detector of a folder that is there, with a backbone that is loaded already if there is one.
fn train_one(
    options: &Options,
    dataset: &Dataset,
    backbone: Option<&Loaded>,
    out: &Path,
) -> Result<ExitCode> {
    // A second training would overwrite what the first writes.
    let lock = FolderLock::acquire(out)?;
    let [detector_path, state_path, log_path] = FILES.map(|name| {
        lock.remove_leftovers(name);
        out.join(name)
    });
    // Of many categories some were not begun.
    let resume = options.resume && (!options.per_category || state_path.exists());
    check_state(&state_path, &detector_path, resume)?;
    let mut log = TrainingLog::open(log_path, resume)?;
    let fit_options = fit_options(options).state(Some(state_path.clone())).resume(resume);
    let mut progress = FitProgress::default();
    let mut logged = Ok(());
    let observe = |event: Event| {
        progress.show(&event);
        if let Event::Step { report, .. } = event {
            logged = log.write(&report);
        }
        if interrupted() || logged.is_err() { Control::Stop } else { Control::Continue }
    };
    let fitted = match backbone {
        Some(backbone) => fit_on(dataset, backbone, &fit_options, observe),
        None => fit(dataset, &fit_options, observe),
    };
    progress.finish();
    logged?;
    match fitted? {
        Fitted::Stopped(0) => {
            say("stopped before the first step; the same command begins again");
            Ok(ExitCode::from(common::INTERRUPTED))
        }
        Fitted::Stopped(steps) => {
            say(format!(
                "stopped after {steps} steps; the same command with --resume goes on from {}",
                state_path.display()
            ));
            Ok(ExitCode::from(common::INTERRUPTED))
        }
        Fitted::Detector(detector) => {
            detector.save(&detector_path)?;
            let config = detector.config();
            say(format!(
                "{}: trained on {} images of {} for {} steps, calibrated with {} more{}{}",
                detector_path.display(),
                config.images,
                config.categories.join(", "),
                config.steps,
                detector.calibration().images(None).len(),
                match config.recipe.inversion_steps {
                    1 => format!("; evaluated at timestep {}", config.recipe.single_timestep),
                    n => format!("; evaluated {n} times"),
                },
                format_args!(", in {}", detector.precision())
            ));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The files of a training: the detector, the state and the log.
const FILES: [&str; 3] = ["detector.safetensors", "training.safetensors", "training.csv"];

/// Whether the training of a folder has come to its end.
fn is_done(out: &Path) -> Result<bool> {
    let [detector, state, _] = FILES.map(|name| out.join(name));
    if !detector.exists() || !state.exists() {
        return Ok(false);
    }
    let TrainingState { step, config, .. } = TrainingState::load(&state)?;
    Ok(step == config.steps)
}

/// Makes sure that there is a state to go on from, or none that would be lost.
fn check_state(state: &Path, detector: &Path, resume: bool) -> Result<()> {
    if resume {
        let reason = "there is no training to resume here; leave out --resume to begin one";
        return if state.exists() { Ok(()) } else { Err(Error::file(state, reason)) };
    }
    if !state.exists() {
        return Ok(());
    }
    let TrainingState { step, config, .. } = TrainingState::load(state)?;
    if step == config.steps && detector.exists() {
        return Ok(());
    }
    let reason = format!(
        "an unfinished training is here (step {step} of {}); continue it with --resume, or choose \
         another --out",
        config.steps
    );
    Err(Error::file(state, reason))
}

/// The log of all steps. One that has none is not there.
struct TrainingLog {
    path: PathBuf,
    file: csv::Writer<File>,
    /// Whether steps from before stay.
    resume: bool,
    /// Whether there was a step.
    begun: bool,
}

impl TrainingLog {
    const HEADER: &str = "step,loss,gradient_norm,learning_rate,loss_scale";

    fn open(path: PathBuf, resume: bool) -> Result<Self> {
        Ok(Self { file: Self::append(&path)?, path, resume, begun: false })
    }

    fn append(path: &Path) -> Result<csv::Writer<File>> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|e| Error::io(path, e))?;
        Ok(csv::WriterBuilder::new().has_headers(false).from_writer(file))
    }

    fn write(&mut self, report: &StepReport) -> Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            self.cut(report.step)?;
        }
        let StepReport { step, loss, gradient_norm, learning_rate, loss_scale, .. } = *report;
        let row = (step, loss, gradient_norm, learning_rate, loss_scale);
        let written = self.file.serialize(row).map_err(io::Error::from);
        written.and_then(|()| self.file.flush()).map_err(|e| Error::io(&self.path, e))
    }

    /// Leaves only the head and, of a run that goes on, the steps before `step`: one that was killed may have logged more
    /// than it saved, the last of it in part.
    fn cut(&mut self, step: u64) -> Result<()> {
        let path = &self.path;
        let text = match self.resume {
            true => fs::read_to_string(path).map_err(|e| Error::io(path, e))?,
            false => String::new(),
        };
        write_atomic(path, |file| {
            writeln!(file, "{}", Self::HEADER)?;
            let logged = |line: &str| line.split(',').next().and_then(|n| n.parse::<u64>().ok());
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let kept = whole.filter(|line| logged(line).is_some_and(|n| n < step));
            kept.map(str::as_bytes).try_for_each(|line| file.write_all(line))
        })?;
        self.file = Self::append(path)?;
        Ok(())
    }
}

impl Drop for TrainingLog {
    fn drop(&mut self) {
        if self.file.get_ref().metadata().is_ok_and(|file| file.len() == 0) {
            fs::remove_file(&self.path).ok();
        }
    }
}
