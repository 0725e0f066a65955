//! Compares a detector with the labels and masks of a data set.

mod common;
#[path = "common/sweeping.rs"]
mod sweeping;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Parser;
use common::background::{in_background, lock};
use common::detectors::{Own, detectors};
use common::names::{output_names, with_suffix};
use common::options::{Computing, Judging};
use common::pictures::Pictures;
use common::progress::Progress;
use common::records::{Jsonl, Judged};
use common::results::{unfamiliar_images, warn_of_thresholds, write_metrics};
use common::table::tables;
use common::{create_folder, note, require_files, require_folder, say, unless_interrupted};
use invad::Result;
use invad::baselines::{self, Baselines};
use invad::data::Dataset;
use invad::detect::Evaluated;
use invad::report::{Image, Images};
use serde::Serialize;
use sweeping::Experiment;

/// Measures how well a detector finds the defects of a data set
///
/// The data set lies as one of docs/datasets.md does, as CATEGORY/test/{good,DEFECT}/* and
/// CATEGORY/ground_truth/DEFECT/*_mask.png of MVTec AD, or as good and defective images of one's own. Prints a table
/// and writes OUT/report.html, a page of results, OUT/metrics.json and, with a line for each image, OUT/images.jsonl.
/// Each category is calibrated with its own held-out images; where the detector was not trained on it, each image is
/// judged as the category it is likeliest to be.
///
/// With --table, --figure or --sweep it runs an experiment instead: detectors that differ in one thing or another are
/// trained on the data set and measured by all scores and under both protocols. What is done is kept in OUT, so that
/// the same command goes on after Ctrl-C; the results are OUT/NAME.html, .md, .csv, .json and .svg, with the figures
/// of the method's paper beside them (docs/experiments.md).
#[derive(Parser)]
#[command(after_help = "\
Examples:
  The bundled photographs:
    cargo run --release --example evaluate -- --detector out/quickstart/detector.safetensors \\
      --data examples/data --out out/evaluation
  One category, with pictures of all its test images:
    cargo run --release --example evaluate -- --detector out/quickstart/detector.safetensors \\
      --data examples/data --category cup --overlays --out out/cup
  Beside simpler methods:
    cargo run --release --example evaluate -- --detector out/quickstart/detector.safetensors \\
      --data examples/data --baselines --out out/evaluation
  A detector of each category, as `train --per-category` writes them:
    cargo run --release --example evaluate -- --detector out/each --data examples/data --out out/each
  An experiment of the paper, with a small denoiser and a short training:
    cargo run --release --example evaluate -- --table 9 --data examples/data --out out/table-9 \\
      --backbones efficientnet-lite0 --denoisers small --evaluations 3 5 10 --steps 600
  Denoisers, recipes, numbers of evaluations and the reconstruction, all with all:
    cargo run --release --example evaluate -- --sweep --data examples/data --out out/sweep --steps 600

Exit codes:
  0    all test images are evaluated
  1    failure; also of an experiment that is done but for the rows of a backbone whose weights cannot be had
  2    wrong usage
  4    an image or mask could not be used; the metrics are those of the others
  130  stopped by Ctrl-C; nothing but overlays is written, and of an experiment the results of what is done")]
struct Options {
    /// Detector file, as `train` and `quickstart` write it, or a folder of CATEGORY/detector.safetensors
    #[arg(long, value_name = "FILE", required_unless_present = "experiment")]
    detector: Option<PathBuf>,
    /// The data set
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Categories to evaluate [default: all]
    #[arg(long, value_name = "CATEGORY", num_args = 1..)]
    category: Vec<String>,
    #[command(flatten)]
    judging: Judging,
    /// Compare with simpler methods on the same features, PaDiM and nearest neighbour, fitted to the images
    /// of CATEGORY/train/good that a detector is trained on; the others give the threshold
    #[arg(long)]
    baselines: bool,
    /// Write OUT/overlays: the map in colours over each image, with an outline of what is anomalous
    #[arg(long)]
    overlays: bool,
    #[command(flatten)]
    computing: Computing,
    #[command(flatten)]
    experiment: Experiment,
}

/// A line of `images.jsonl`.
#[derive(Serialize)]
struct Tested<'a> {
    category: &'a str,
    defect: Option<&'a str>,
    #[serde(flatten)]
    judged: Judged,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(wrong) = options.experiment.disagreement() {
        common::wrong_usage::<Options>(wrong);
    }
    common::run(|| evaluate(options))
}

fn evaluate(options: Options) -> Result<ExitCode> {
    options.computing.require()?;
    require_folder(&options.out)?;
    let dataset = Dataset::open(&options.data, &options.category)?;
    let out = &options.out;
    let Some(path) = &options.detector else {
        let (device, batch) = options.computing.place();
        return options.experiment.run(&dataset, out, device, batch);
    };
    require_files(out, &["report.html", "metrics.json", "images.jsonl"])?;
    let detectors = detectors(path, &dataset, &options.computing, options.experiment.per_category)?;
    create_folder(out)?;
    let mut images = Jsonl::create(&out.join("images.jsonl"))?;
    common::catch_interrupts()?;

    for Own { detector, dataset } in &detectors {
        let calibrated = &detector.calibration().categories;
        for category in dataset.categories() {
            if !calibrated.contains_key(&category.name) {
                let name = &category.name;
                note(match detector.prior() {
                    Some(_) => format!(
                        "{name}: the detector was not trained on it; each image is judged as the \
                         category it is likeliest to be"
                    ),
                    None => {
                        format!("{name}: calibrated with all categories of the detector pooled")
                    }
                });
            }
        }
        let names = dataset.categories().iter().map(|c| calibrated.get_key_value(&c.name));
        warn_of_thresholds(detector, names.map(|known| known.map(|(name, _)| &**name)));
    }
    let paths: Vec<&Path> =
        dataset.categories().iter().flat_map(|c| c.test()).map(|t| t.path.as_path()).collect();
    let names: HashMap<&Path, PathBuf> = paths.iter().copied().zip(output_names(&paths)).collect();

    // First, since they end the program where a category has no images to be fitted to.
    let baselines = options.baselines.then(|| compare(&dataset, &detectors)).transpose()?;
    let good: usize = dataset.categories().iter().map(|category| category.good().len()).sum();
    let known = |Own { detector, .. }: &Own| {
        detector.config().images + detector.calibration().images(None).len()
    };
    let own: usize = detectors.iter().map(known).sum();
    if baselines.is_some() && good != own {
        note(format!(
            "simpler methods are fitted to {good} good images of {}, the detector to {own}",
            options.data.display()
        ));
    }
    let mut progress = Progress::new("evaluation", paths.len() as u64, "images");
    let (mut done, mut unreadable, mut unfamiliar) = (0, 0, 0);
    let scoring = options.judging.options(None);
    let shown = Mutex::new(Images::default());
    let evaluation = in_background(|background| {
        Own::evaluate(&detectors, &scoring, |detector, test, result| {
            unless_interrupted()?;
            let calibrated = &detector.calibration().categories;
            match result {
                Ok(result) => {
                    let category = result.category;
                    let known = || calibrated.contains_key(category).then(|| category.to_string());
                    let own = result.scored.category.clone().or_else(known);
                    let size = result.image.dimensions();
                    let mut judged = Judged::new(&test.path, size, &result.scored, own);
                    unfamiliar += usize::from(judged.unfamiliar && !judged.anomalous);
                    if options.overlays {
                        let name = &names[test.path.as_path()];
                        let overlay = with_suffix(&Path::new("overlays").join(name), "png");
                        judged.overlay = Some(overlay.to_string_lossy().into_owned());
                    }
                    let overlay = judged.overlay.as_ref().map(|overlay| out.join(overlay));
                    let shown = &shown;
                    background.spawn(move || {
                        Pictures { overlay: overlay.as_deref(), ..Pictures::default() }
                            .write(&result.image, &result.scored)?;
                        let image = Image::new(&result)?;
                        lock(shown).add(image);
                        Ok(())
                    })?;
                    let defect = test.defect.as_deref();
                    images.write(&Tested { category, defect, judged })?;
                }
                Err(e) => {
                    unreadable += 1;
                    log::warn!("{e}; the image is left out");
                    images.write_unreadable(&test.path, &e)?;
                }
            }
            done += 1;
            progress.set(done, String::new);
            Ok(())
        })
    })?;
    let time = progress.finish();
    images.commit()?;
    write_metrics(&out.join("metrics.json"), &evaluation, baselines.as_ref())?;
    say(tables(&evaluation, baselines.as_ref()));
    for advice in evaluation.advice() {
        log::warn!("{advice}");
    }
    let unfamiliar = (unfamiliar > 0).then(|| unfamiliar_images(unfamiliar));
    if let Some(warning) = &unfamiliar {
        log::warn!("{warning}");
    }

    let shown = shown.into_inner().unwrap_or_else(|e| e.into_inner());
    let mut report = Own::report(&detectors, evaluation, shown);
    report.fact("Detector", path.display());
    report.fact("Data", options.data.display());
    let detector = &detectors[0].detector;
    report.fact("Computed on", format!("{}, in {}", detector.device(), detector.precision()));
    report.fact("Time", format!("{:.1} s for {done} images", time.as_secs_f64()));
    report.warnings.extend(unfamiliar);
    if unreadable > 0 {
        report.warnings.push(format!("{unreadable} images could not be read and are left out."));
    }
    report.baselines = baselines;
    report.write(out.join("report.html"))?;
    say(format!(
        "\n{done} images, {unreadable} unreadable; see {}",
        out.join("report.html").display()
    ));
    Ok(match unreadable {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(common::UNREADABLE),
    })
}

/// The metrics of simpler methods.
fn compare(dataset: &Dataset, detectors: &[Own]) -> Result<Baselines> {
    let total = dataset.categories().iter().map(|c| c.good().len() + c.test().len()).sum::<usize>();
    let mut progress = Progress::new("baselines", total as u64, "images");
    let mut done = 0;
    let (mut padim, mut nearest_neighbour) = (BTreeMap::new(), BTreeMap::new());
    for Own { detector, dataset } in detectors {
        let baselines = baselines::evaluate(dataset, detector.config(), |result| {
            unless_interrupted()?;
            if let Err(e) = result {
                log::warn!("{e}; the image is left out");
            }
            done += 1;
            progress.set(done, String::new);
            Ok(())
        })?;
        padim.extend(baselines.padim.categories);
        nearest_neighbour.extend(baselines.nearest_neighbour.categories);
    }
    progress.finish();
    let [padim, nearest_neighbour] = [padim, nearest_neighbour].map(Evaluated::new);
    Ok(Baselines { padim, nearest_neighbour })
}
