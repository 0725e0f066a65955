//! Experiments of `evaluate`: sweeps over detectors.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args};
use invad::checkpoint::Recipe;
use invad::data::Dataset;
use invad::files::FolderLock;
use invad::report::write_sweep;
use invad::sweep::{self, Axes, Event, Method, Setting, Sweep, SweepOptions, Swept};
use invad::train::Resources;
use invad::{Control, Device, Error, Event as FitEvent, Result, denoisers};

use crate::common::options::{backbone, steps};
use crate::common::progress::{FitProgress, Progress};
use crate::common::{
    INTERRUPTED, UNREADABLE, catch_interrupts, create_folder, interrupted, note, require_files, say,
};

/// Which experiment.
#[derive(Args)]
#[group(id = "experiment", multiple = false, conflicts_with_all = [
    "detector", "baselines", "overlays", "score", "threshold", "quantile", "threshold_score",
])]
pub struct Which {
    /// The experiment of a table of the paper, 2 to 9, on this data set
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=9),
          help_heading = "Experiments")]
    pub table: Option<u32>,
    /// The experiment of a figure of the paper, 3 or 4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..=4),
          help_heading = "Experiments")]
    pub figure: Option<u32>,
    /// All combinations of the lists below
    #[arg(long, help_heading = "Experiments")]
    pub sweep: bool,
}

/// An experiment, and what it has in place of the paper's.
#[derive(Args)]
pub struct Experiment {
    #[command(flatten)]
    pub which: Which,
    /// Backbones [default: the experiment's; of a sweep efficientnet-lite0]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', requires = "experiment",
          help_heading = "Experiments", value_parser = backbone)]
    backbones: Vec<String>,
    /// Denoisers [default: the experiment's; of a sweep all that are small]
    #[arg(long, value_name = "PRESET", num_args = 1.., value_delimiter = ',', requires = "experiment",
          help_heading = "Experiments", value_parser = PossibleValuesParser::new(denoisers::presets()))]
    denoisers: Vec<String>,
    /// Recipes [default: the experiment's; of a sweep both]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', requires = "experiment",
          help_heading = "Experiments", value_parser = PossibleValuesParser::new(Recipe::NAMES))]
    recipes: Vec<String>,
    /// Evaluations of the network, S [default: the experiment's; of a sweep 1 2 3 5 10]
    #[arg(long, value_name = "S", num_args = 1.., value_delimiter = ',', requires = "experiment",
          help_heading = "Experiments", value_parser = clap::value_parser!(u16).range(1..=1000))]
    evaluations: Vec<u16>,
    /// Parts of the noise that images are reconstructed from, above 0 to 1 [default: the experiment's; of a sweep
    /// 0.5 1]
    #[arg(long, value_name = "PART", num_args = 1.., value_delimiter = ',', requires = "experiment",
          help_heading = "Experiments", value_parser = part)]
    noise: Vec<f64>,
    /// One detector of each category, in a sweep beside one of all; without an experiment, what a --detector that is
    /// a folder has anyway
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Experiments")]
    pub per_category: bool,
    /// Optimiser steps of each training [default: the recipe's]
    #[arg(long, value_name = "N", requires = "experiment", help_heading = "Experiments",
          value_parser = steps())]
    steps: Option<u64>,
    /// Seed of all random numbers [default: 0]
    #[arg(long, value_name = "N", requires = "experiment", help_heading = "Experiments")]
    seed: Option<u64>,
}

fn part(text: &str) -> std::result::Result<f64, &'static str> {
    let part = text.parse().ok().filter(|part| *part > 0.0 && *part <= 1.0);
    part.ok_or("not above 0 and at most 1")
}

impl Experiment {
    fn sweep(&self) -> Result<Sweep> {
        let Which { table, figure, .. } = self.which;
        let mut axes = if self.which.sweep { Axes::default() } else { Axes::unchanged() };
        let or = |given: &Vec<String>, of: Vec<String>| match given.is_empty() {
            true => of,
            false => given.clone(),
        };
        axes.backbones = or(&self.backbones, axes.backbones);
        axes.denoisers = or(&self.denoisers, axes.denoisers);
        axes.recipes = or(&self.recipes, axes.recipes);
        if !self.evaluations.is_empty() {
            axes.evaluations = self.evaluations.iter().map(|s| usize::from(*s)).collect();
        }
        if !self.noise.is_empty() {
            axes.noise = self.noise.clone();
        }
        if self.per_category {
            axes.per_category = if self.which.sweep { vec![false, true] } else { vec![true] };
        }
        if let Some(number) = table {
            return sweep::table(number, &axes);
        }
        if let Some(number) = figure {
            return sweep::figure(number, &axes);
        }
        let sweep = axes.sweep();
        let inverts = |of: &&Setting| of.method == Method::Inversion;
        if !self.noise.is_empty() && sweep.settings().iter().all(inverts) {
            let expected = "left out, or beside --evaluations of 2 or more: one evaluation reconstructs nothing";
            return Err(Error::argument("sweep", "noise", expected, format!("{:?}", self.noise)));
        }
        Ok(sweep)
    }

    /// What is wrong with options that are right each by itself.
    pub fn disagreement(&self) -> Option<String> {
        let which = &self.which;
        let chosen = which.sweep || which.table.is_some() || which.figure.is_some();
        match chosen.then(|| self.sweep())?.err()? {
            Error::Argument { arg, expected, got, .. } => {
                Some(format!("--{arg} should be {expected}, got {got}").replace('_', "-"))
            }
            e => Some(e.to_string()),
        }
    }

    /// Runs it.
    pub fn run(
        &self,
        dataset: &Dataset,
        out: &Path,
        device: Device,
        batch: usize,
    ) -> Result<ExitCode> {
        let sweep = self.sweep()?;
        let results = ["html", "md", "csv", "json"].map(|kind| format!("{}.{kind}", sweep.name));
        require_files(out, &results)?;
        create_folder(out)?;
        let lock = FolderLock::acquire(out)?;
        sweep.remove_leftovers(&lock);
        catch_interrupts()?;
        let options = SweepOptions::new(out)
            .resources(Resources::from(device))
            .batch(batch)
            .steps(self.steps)
            .seed(self.seed.unwrap_or(0));
        let mut shown = Shown::default();
        let swept = sweep::run(&sweep, dataset, &options, |event| {
            shown.show(&event);
            if interrupted() { Control::Stop } else { Control::Continue }
        });
        shown.end();
        let (results, stopped) = match swept? {
            Swept::Done(results) => (results, false),
            Swept::Stopped(results) => (results, true),
        };
        let (done, total) = results.measured;
        if stopped && done == 0 {
            say("stopped; the same command goes on");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        results.write(out)?;
        write_sweep(&results, out)?;
        let page = out.join(format!("{}.html", results.name));
        if stopped {
            say(format!(
                "stopped: {done} of {total} measurements are there, see {}; the same command goes on",
                page.display()
            ));
            return Ok(ExitCode::from(INTERRUPTED));
        }
        say(results.markdown());
        say(format!("see {}", page.display()));
        for backbone in &shown.missing {
            note(format!("the rows of {backbone} are empty: its weights cannot be had"));
        }
        Ok(match (shown.missing.len(), results.unreadable.len()) {
            (0, 0) => ExitCode::SUCCESS,
            (0, _) => ExitCode::from(UNREADABLE),
            _ => ExitCode::FAILURE,
        })
    }
}

/// How far a sweep is.
#[derive(Default)]
struct Shown {
    training: Option<FitProgress>,
    /// What a detector learns for another number of evaluations, and what is measured.
    counted: Option<(&'static str, Progress)>,
    since: Option<Instant>,
    /// Backbones whose weights cannot be had.
    missing: Vec<String>,
}

impl Shown {
    fn show(&mut self, event: &Event) {
        match event {
            Event::Training { setting, category, number, total } => {
                self.end();
                let of = category.map_or(String::new(), |name| format!("{name}, "));
                note(format!("detector {number}/{total}: {of}{setting}"));
                self.training = Some(FitProgress::default());
            }
            Event::Fit(event) => match event {
                event if self.training.is_some() => {
                    self.training.iter_mut().for_each(|progress| progress.show(event));
                }
                FitEvent::Fetched(_) => self.training.get_or_insert_default().show(event),
                FitEvent::Calibration { done, total } => self.count("calibration", *done, *total),
                FitEvent::Unreadable(error) => log::warn!("{error}; the image is left out"),
                _ => {}
            },
            Event::Measuring { done, total, .. } => self.count("measuring", *done, *total),
            Event::Measured { setting, done, total } => {
                self.end();
                let since = self.since.replace(Instant::now());
                let time = since.map_or(0.0, |since| since.elapsed().as_secs_f64());
                note(format!("{done}/{total}: {setting}; {time:.1} s"));
            }
            Event::Reused(path) => note(format!("{} is there already", path.display())),
            Event::Unreadable(error) => log::warn!("{error}; the image is left out"),
            Event::Discarded { path, reason } => {
                log::warn!("{}: {reason}; it is made again", path.display());
            }
            Event::Warning(warning) => log::warn!("{warning}"),
            Event::Missing { backbone, error } => {
                log::warn!("{backbone} is left out: {error}");
                self.missing.push((*backbone).into());
            }
            _ => {}
        }
        self.since.get_or_insert_with(Instant::now);
    }

    fn count(&mut self, what: &'static str, done: usize, total: usize) {
        if self.training.is_some() || self.counted.as_ref().is_none_or(|(of, _)| *of != what) {
            self.end();
        }
        let new = || (what, Progress::new(what, total as u64, "images"));
        self.counted.get_or_insert_with(new).1.set(done as u64, String::new);
    }

    /// Takes away what is on the screen.
    fn end(&mut self) {
        if let Some(training) = self.training.take() {
            training.finish();
        }
        if let Some((_, counted)) = self.counted.take() {
            counted.end();
        }
    }
}
