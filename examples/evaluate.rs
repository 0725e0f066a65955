//! Compares a detector with the labels and masks of a data set.

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use common::background::in_background;
use common::names::{output_names, with_suffix};
use common::options::{Computing, Judging};
use common::pictures::{Pictures, write_json};
use common::progress::Progress;
use common::records::{Jsonl, Judged};
use common::table::tables;
use common::{create_folder, note, say, unless_interrupted};
use invad::data::Dataset;
use invad::{Result, detect};
use serde::Serialize;

/// Measures how well a detector finds the defects of a data set
///
/// The data set is in the layout of MVTec AD: CATEGORY/test/good/*, CATEGORY/test/DEFECT/* and
/// CATEGORY/ground_truth/DEFECT/*_mask.png. Prints a table and writes OUT/metrics.json and, with a line
/// for each image, OUT/images.jsonl. Each category is calibrated with its own held-out images, or with
/// those of all where the detector was not trained on it.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  The bundled photographs:
    cargo run --release --example evaluate -- --detector out/quickstart/detector.safetensors \\
      --data examples/data --out out/evaluation
  One category, with pictures of all its test images:
    cargo run --release --example evaluate -- --detector out/quickstart/detector.safetensors \\
      --data examples/data --category cup --overlays --out out/cup

Exit codes:
  0    all test images are evaluated
  1    failure
  2    wrong usage
  4    an image or mask could not be used; the metrics are those of the others
  130  stopped by Ctrl-C; nothing but overlays is written")]
struct Options {
    /// Detector file, as `train` and `quickstart` write it
    #[arg(long, value_name = "FILE")]
    detector: PathBuf,
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
    /// Write OUT/overlays: the map in colours over each image, with an outline of what is anomalous
    #[arg(long)]
    overlays: bool,
    #[command(flatten)]
    computing: Computing,
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
    common::run(|| evaluate(options))
}

fn evaluate(options: Options) -> Result<ExitCode> {
    options.computing.require()?;
    let dataset = Dataset::open(&options.data, &options.category)?;
    let detector = options.computing.detector(&options.detector)?;
    let out = &options.out;
    create_folder(out)?;
    let mut images = Jsonl::create(&out.join("images.jsonl"))?;
    common::catch_interrupts()?;

    let calibrated = &detector.calibration().categories;
    for category in dataset.categories() {
        if !calibrated.contains_key(&category.name) {
            let name = &category.name;
            note(format!("{name}: calibrated with all categories of the detector pooled"));
        }
    }
    let paths: Vec<&Path> =
        dataset.categories().iter().flat_map(|c| &c.test).map(|t| t.path.as_path()).collect();
    let names: HashMap<&Path, PathBuf> = paths.iter().copied().zip(output_names(&paths)).collect();

    let mut progress = Progress::new("evaluation", paths.len() as u64, "images");
    let (mut done, mut unreadable) = (0, 0);
    let scoring = options.judging.options(None);
    let evaluation = in_background(|background| {
        detect::evaluate(&detector, &dataset, &scoring, |test, result| {
            unless_interrupted()?;
            match result {
                Ok(detect::ImageResult { category, image, scored, .. }) => {
                    let own = calibrated.contains_key(category).then(|| category.to_string());
                    let mut judged = Judged::new(&test.path, image.dimensions(), &scored, own);
                    if options.overlays {
                        let name = &names[test.path.as_path()];
                        let overlay = with_suffix(&Path::new("overlays").join(name), "png");
                        judged.overlay = Some(overlay.to_string_lossy().into_owned());
                        background.spawn(move || {
                            let overlay = out.join(overlay);
                            Pictures { overlay: Some(&overlay), ..Pictures::default() }
                                .write(&image, &scored)
                        })?;
                    }
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
    progress.finish();
    images.commit()?;
    write_json(&out.join("metrics.json"), &evaluation)?;
    say(tables(&evaluation));
    say(format!("\n{done} images, {unreadable} unreadable; see {}", out.display()));
    Ok(match unreadable {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(common::UNREADABLE),
    })
}
