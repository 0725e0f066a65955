//! Trains a detector on the bundled photographs, scores the test images and shows the results.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use clap::Parser;
use common::background::{in_background, lock};
use common::names::with_suffix;
use common::options::steps;
use common::pictures::Pictures;
use common::progress::{FitProgress, Progress};
use common::results::write_metrics;
use common::table::tables;
use common::{in_folder, require_files, require_folder, say};
use image::RgbImage;
use invad::checkpoint::Recipe;
use invad::data::{Category, Dataset, Mask, Sample, load_sample, write_png};
use invad::detect::panel::{Row, panel};
use invad::detect::{self, Detector, Evaluation, ScoreOptions, Scored};
use invad::files::FolderLock;
use invad::report::{Image, Images, Report};
use invad::{Control, Device, Error, Event, FitOptions, Fitted, Result, fit};

/// From good photographs to a detector and its results, in two minutes
///
/// Trains one detector on the good images of all categories, scores the test images and prints how well
/// that agrees with their labels and masks. Writes OUT/report.html, a page of results,
/// OUT/detector.safetensors, OUT/metrics.json, OUT/overlays/CATEGORY/DEFECT/NAME.png and
/// OUT/quickstart.png, some of the results as a picture.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  The bundled photographs:
    cargo run --release --example quickstart
  A first look at a data set in the layout of MVTec AD, with a shorter training:
    cargo run --release --example quickstart -- --data mvtec --steps 300 --out out/mvtec

Exit codes: 0 done, 1 failure, 2 wrong usage, 4 done but for images that could not be read")]
struct Options {
    /// Where to write
    #[arg(long, value_name = "DIR", default_value = "out/quickstart")]
    out: PathBuf,
    /// A data set: CATEGORY/{train/good,test/good,test/DEFECT,ground_truth/DEFECT}/*
    /// [default: the bundled photographs]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Optimiser steps [default: 2000]
    #[arg(long, value_name = "N", value_parser = steps())]
    steps: Option<u64>,
    /// Seed of all random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where to compute: cpu, cuda, cuda:N or best
    #[arg(long, default_value = "best")]
    device: Device,
}

/// What it writes in its folder, but for overlays.
const RESULTS: [&str; 4] =
    ["detector.safetensors", "metrics.json", "quickstart.png", "report.html"];

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| quickstart(options))
}

fn quickstart(options: Options) -> Result<ExitCode> {
    let start = Instant::now();
    require_folder(&options.out)?;
    require_files(&options.out, &RESULTS)?;
    let data = options.data.clone().map_or_else(bundled, Ok)?;
    let dataset = Dataset::open(&data, &[])?;
    for category in dataset.categories() {
        if category.test().is_empty() {
            let reason = format!(
                "category `{}` has no test images; `train` and `score` do without",
                category.name
            );
            return Err(Error::dataset(&data, reason));
        }
    }
    in_folder(&options.out, || train_and_evaluate(&dataset, &options, start))
}

fn train_and_evaluate(dataset: &Dataset, options: &Options, start: Instant) -> Result<ExitCode> {
    let out = &options.out;
    let _lock = FolderLock::acquire(out)?;

    let fit_options = FitOptions::default()
        .recipe(Recipe::whitened())
        .steps(options.steps)
        .seed(options.seed)
        .resources(options.device.into());
    let mut progress = FitProgress::default();
    let mut losses = Vec::new();
    let fitted = fit(dataset, &fit_options, |event| {
        progress.show(&event);
        if let Event::Step { report, .. } = event {
            losses.push((report.step, report.loss));
        }
        Control::Continue
    })?;
    let mut times = progress.finish();
    let Fitted::Detector(detector) = fitted else {
        unreachable!("training is not asked to stop");
    };
    detector.save(out.join("detector.safetensors"))?;

    let evaluating = Instant::now();
    let Results { evaluation, images, scores, unreadable } = evaluate(&detector, dataset, out)?;
    times.push(("evaluation", evaluating.elapsed()));
    write_metrics(&out.join("metrics.json"), &evaluation, None)?;
    write_page(&detector, &scores, &out.join("quickstart.png"))?;
    say(tables(&evaluation, None));
    times.push(("all", start.elapsed()));
    let times = times.iter().map(|(what, time)| format!("{what} {:.1} s", time.as_secs_f64()));
    let times = times.collect::<Vec<_>>().join(", ");

    let mut report = Report::new("Quickstart", &detector, evaluation, images);
    report.fact("Data", dataset.root().display());
    report.fact("Computed on", format!("{}, in {}", detector.device(), detector.precision()));
    report.fact("Time", &times);
    if unreadable > 0 {
        report
            .warnings
            .push(format!("{unreadable} test images could not be read and are left out."));
    }
    report.training = losses;
    report.write(out.join("report.html"))?;

    say(format!("\nreport      {}", out.join("report.html").display()));
    say(format!("picture     {}", out.join("quickstart.png").display()));
    say(format!("overlays    {}", out.join("overlays").display()));
    say(format!("metrics     {}", out.join("metrics.json").display()));
    say(format!("detector    {}", out.join("detector.safetensors").display()));
    say(format!("time        {times}"));
    Ok(match unreadable {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(common::UNREADABLE),
    })
}

/// The photographs that come with the source code.
fn bundled() -> Result<PathBuf> {
    let places = [Path::new(env!("CARGO_MANIFEST_DIR")), Path::new("")];
    places.iter().map(|root| root.join("examples/data")).find(|p| p.is_dir()).ok_or_else(|| {
        let reason = "the bundled photographs are not here; run from the root of the source code, \
                      or name a data set with --data";
        Error::dataset("examples/data", reason)
    })
}

/// Each category's kinds of test images, good ones under `None`, with their scores.
type Scores<'a> = Vec<(&'a Category, BTreeMap<Option<&'a str>, Vec<(f64, &'a Sample)>>)>;

/// What became of the test images.
struct Results<'a> {
    evaluation: Evaluation,
    images: Images,
    scores: Scores<'a>,
    unreadable: usize,
}

/// Scores the test images and writes their overlays.
fn evaluate<'a>(detector: &Detector, dataset: &'a Dataset, out: &Path) -> Result<Results<'a>> {
    let total = dataset.categories().iter().map(|c| c.test().len()).sum::<usize>();
    let mut progress = Progress::new("evaluation", total as u64, "images");
    let mut scores = BTreeMap::new();
    let (mut done, mut unreadable) = (0, 0);
    let images = Mutex::new(Images::default());
    let evaluation = in_background(|background| {
        detect::evaluate(detector, dataset, &ScoreOptions::default(), |test, result| {
            match result {
                Ok(result) => {
                    scores.insert(test.path.clone(), result.scored.score);
                    let stem = test.path.file_stem().unwrap_or_default();
                    let kind = test.defect.as_deref().unwrap_or("good");
                    let name = out.join("overlays").join(result.category).join(kind).join(stem);
                    let images = &images;
                    background.spawn(move || {
                        let overlay = with_suffix(&name, "png");
                        Pictures { overlay: Some(&overlay), ..Pictures::default() }
                            .write(&result.image, &result.scored)?;
                        let image = Image::new(&result)?;
                        lock(images).add(image);
                        Ok(())
                    })?;
                }
                Err(e) => {
                    unreadable += 1;
                    log::warn!("{e}; the image is left out");
                }
            }
            done += 1;
            progress.set(done, String::new);
            Ok(())
        })
    })?;
    progress.finish();
    let by_kind = dataset.categories().iter().map(|category| {
        let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for test in category.test() {
            if let Some(&score) = scores.get(&test.path) {
                kinds.entry(test.defect.as_deref()).or_default().push((score, test));
            }
        }
        (category, kinds)
    });
    let images = images.into_inner().unwrap_or_else(|e| e.into_inner());
    Ok(Results { evaluation, images, scores: by_kind.collect(), unreadable })
}

/// Rows of the page, as far as categories allow.
const ROWS: usize = 12;

/// Writes a page that shows of each category a good image and some defects: the image of median score
/// of each kind, neither the easiest nor the hardest.
fn write_page(detector: &Detector, scores: &Scores, path: &Path) -> Result<()> {
    let kinds_each = (ROWS / scores.len()).clamp(2, 4);
    let mut rows = Vec::new();
    for (category, kinds) in scores.iter().take(ROWS / 2) {
        let own = detector.calibration().categories.contains_key(&category.name);
        let options = ScoreOptions::default().category(own.then(|| category.name.clone()));
        for images in kinds.values().take(kinds_each) {
            let mut images = images.clone();
            images.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            let (_, test) = images[(images.len() - 1) / 2];
            rows.push(Shown::new(detector, &category.name, test, &options)?);
        }
    }
    write_png(path, &panel(&rows.iter().map(Shown::row).collect::<Vec<_>>())?)
}

/// An image on the page.
struct Shown<'a> {
    category: &'a str,
    defect: Option<&'a str>,
    image: RgbImage,
    mask: Option<Mask>,
    scored: Scored,
    map: Vec<f32>,
    found: Mask,
}

impl<'a> Shown<'a> {
    fn new(
        detector: &Detector,
        category: &'a str,
        test: &'a Sample,
        options: &ScoreOptions,
    ) -> Result<Self> {
        let (image, mask) = load_sample(test)?;
        let scored = detector.score_with(std::slice::from_ref(&image), options)?.remove(0);
        let (width, height) = (image.width() as usize, image.height() as usize);
        let map = scored.map.resize(width, height)?;
        let found = scored.region(&map, width, height)?;
        Ok(Self { category, defect: test.defect.as_deref(), image, mask, scored, map, found })
    }

    fn row(&self) -> Row<'_> {
        Row {
            category: self.category,
            defect: self.defect,
            score: self.scored.score,
            score_threshold: self.scored.threshold,
            image: &self.image,
            map: &self.map,
            range: self.scored.map_range,
            predicted: &self.found,
            truth: self.mask.as_ref(),
        }
    }
}
