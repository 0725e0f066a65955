//! Trains a detector on good images.

mod common;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use common::progress::FitProgress;
use common::{create_folder, interrupted, say};
use invad::checkpoint::{Preset, Recipe, TrainingState};
use invad::data::Dataset;
use invad::files::write_atomic;
use invad::train::StepReport;
use invad::{Control, Device, Error, Event, FitOptions, Fitted, Result, fit};

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
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How to train
    #[arg(long, default_value = "whitened", value_parser = recipe())]
    recipe: Recipe,
    /// The size of the denoiser: 0.8, 155 or 1223 million parameters
    #[arg(long, default_value = "small", value_parser = preset())]
    preset: Preset,
    /// Categories to train on [default: all]
    #[arg(long, value_name = "CATEGORY", num_args = 1..)]
    category: Vec<String>,
    /// Optimiser steps [default: the recipe's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Seed of all random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where to compute: cpu, cuda, cuda:N or best
    #[arg(long, default_value = "best")]
    device: Device,
    /// Go on with the interrupted training in OUT, with the same data and options
    #[arg(long)]
    resume: bool,
}

fn recipe() -> impl TypedValueParser<Value = Recipe> {
    PossibleValuesParser::new(Recipe::NAMES).try_map(|name| Recipe::named(&name))
}

fn preset() -> impl TypedValueParser<Value = Preset> {
    PossibleValuesParser::new(Preset::NAMES).try_map(|name| Preset::named(&name))
}

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| train(options))
}

fn train(options: Options) -> Result<ExitCode> {
    let dataset = Dataset::open(&options.data, &options.category)?;
    create_folder(&options.out)?;
    let [detector_path, state_path, log_path] =
        ["detector.safetensors", "training.safetensors", "training.csv"]
            .map(|name| options.out.join(name));
    check_state(&state_path, &detector_path, options.resume)?;
    let mut log = TrainingLog::open(&log_path, options.resume)?;
    common::catch_interrupts()?;

    let fit_options = FitOptions {
        recipe: options.recipe,
        preset: options.preset,
        steps: options.steps,
        seed: options.seed,
        device: options.device,
        state: Some(state_path.clone()),
        resume: options.resume,
    };
    let mut progress = FitProgress::default();
    let mut logged = Ok(());
    let fitted = fit(&dataset, &fit_options, |event| {
        progress.show(&event);
        match event {
            Event::Step { report, .. } => logged = log.write(&report),
            Event::Features { .. } if interrupted() => {
                common::stop_now("stopped while computing features; no step was taken");
            }
            _ => {}
        }
        if interrupted() || logged.is_err() { Control::Stop } else { Control::Continue }
    });
    progress.finish();
    logged?;
    match fitted? {
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
                "{}: trained on {} images of {} for {} steps",
                detector_path.display(),
                config.images,
                config.categories.join(", "),
                config.steps
            ));
            Ok(ExitCode::SUCCESS)
        }
    }
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

/// The log of all steps.
struct TrainingLog {
    path: PathBuf,
    file: csv::Writer<File>,
    /// Whether there are steps from before.
    resumed: bool,
}

impl TrainingLog {
    const HEADER: [&str; 4] = ["step", "loss", "gradient_norm", "learning_rate"];

    fn open(path: &Path, resume: bool) -> Result<Self> {
        let resumed = resume && path.exists();
        let mut log = Self { path: path.into(), file: Self::append(path)?, resumed };
        if !resumed {
            log.file.get_ref().set_len(0).map_err(|e| Error::io(path, e))?;
            log.row(Self::HEADER)?;
        }
        Ok(log)
    }

    fn append(path: &Path) -> Result<csv::Writer<File>> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|e| Error::io(path, e))?;
        Ok(csv::WriterBuilder::new().has_headers(false).from_writer(file))
    }

    fn write(&mut self, report: &StepReport) -> Result<()> {
        if std::mem::take(&mut self.resumed) {
            self.cut(report.step)?;
        }
        self.row((report.step, report.loss, report.gradient_norm, report.learning_rate))
    }

    /// Leaves only the steps before `step`: a run that was killed may have logged more than it
    /// saved.
    fn cut(&mut self, step: u64) -> Result<()> {
        let path = &self.path;
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        write_atomic(path, |file| {
            for (i, line) in text.split_inclusive('\n').enumerate() {
                let logged = line.split(',').next().and_then(|n| n.parse::<u64>().ok());
                if i == 0 || logged.is_some_and(|n| n < step) {
                    io::Write::write_all(file, line.as_bytes())?;
                }
            }
            Ok(())
        })?;
        self.file = Self::append(path)?;
        Ok(())
    }

    fn row(&mut self, row: impl serde::Serialize) -> Result<()> {
        let written = self.file.serialize(row).map_err(io::Error::from);
        written.and_then(|()| self.file.flush()).map_err(|e| Error::io(&self.path, e))
    }
}
