//! Scores images with a trained detector.

mod common;

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use common::background::in_background;
use common::names::{output_names, with_suffix};
use common::options::{Computing, Judging};
use common::pictures::Pictures;
use common::progress::Progress;
use common::records::{Judged, Records};
use common::results::{unfamiliar_images, warn_of_thresholds};
use common::{create_folder, note, require_folder, say, unless_interrupted};
use invad::data::collect_inputs;
use invad::detect::Scored;
use invad::{Error, Result};

/// Scores images and shows where they differ from normal ones
///
/// Prints a line for each image and writes OUT/scores.jsonl and OUT/scores.csv, and for each image, at
/// its own size, OUT/overlays/NAME.png (the map in colours over the image, with an outline of what is
/// anomalous), OUT/masks/NAME.png (255 where anomalous, else 0) and OUT/maps/NAME.tiff (32-bit floats).
/// NAME is the image's path below the folder that all images share. An image that cannot be read is
/// recorded with an `error`, and the others are scored. One that is not anomalous, but as a whole unlike all good
/// ones (another part, another view, no light), is called unfamiliar: its score says little.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  All images in a folder and below:
    cargo run --release --example score -- --detector out/quickstart/detector.safetensors \\
      --out out/scores examples/data/brick/test
  A pattern, calibrated for one category, for scripts:
    cargo run --release --example score -- --detector out/quickstart/detector.safetensors \\
      --out out/scores --category cup --fail-on-anomaly 'photos/**/*.jpg'
  More alarms: from 2 instead of 3 standard deviations above normal
    cargo run --release --example score -- --detector out/quickstart/detector.safetensors \\
      --out out/scores --threshold 2 photos

Exit codes:
  0    all images are scored, and, with --fail-on-anomaly, normal
  1    failure
  2    wrong usage
  3    with --fail-on-anomaly: an image is anomalous or unfamiliar
  4    an image could not be read, whatever the others are
  130  stopped by Ctrl-C; the records are not written")]
struct Options {
    /// Detector file, as `train` and `quickstart` write it
    #[arg(long, value_name = "FILE")]
    detector: PathBuf,
    /// Where to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Images, folders of images, or patterns such as 'parts/**/*.png'
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
    /// The category of the images, which calibrates their scores [default: for each image that which it
    /// is likeliest of]
    #[arg(long, value_name = "CATEGORY")]
    category: Option<String>,
    #[command(flatten)]
    judging: Judging,
    /// Exit with code 3 if an image is anomalous or unfamiliar
    #[arg(long)]
    fail_on_anomaly: bool,
    /// Write scores.jsonl and scores.csv only
    #[arg(long)]
    no_pictures: bool,
    #[command(flatten)]
    computing: Computing,
}

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| score(options))
}

fn score(options: Options) -> Result<ExitCode> {
    options.computing.require()?;
    require_folder(&options.out)?;
    let (images, unusable) = inputs(&options)?;
    let detector = options.computing.detector(&options.detector)?;
    let scoring = options.judging.options(options.category.clone());
    let out = &options.out;
    create_folder(out)?;
    let mut records = Records::create(out)?;
    common::catch_interrupts()?;
    let several = detector.config().categories.len() > 1;
    if options.category.is_none() && several {
        let known = detector.config().categories.join(", ");
        let how = match detector.prior() {
            Some(_) => "each image is judged as the category it is likeliest to be",
            None => "calibrated with all categories pooled",
        };
        note(format!("{how}; --category picks one of {known}"));
    }
    warn_of_thresholds(&detector, [options.category.as_deref()]);

    let mut counts = Counts { unreadable: unusable.len(), ..Counts::default() };
    for (path, error) in &unusable {
        log::warn!("{error}");
        records.write_unreadable(path, error)?;
    }
    let mut names = output_names(&images).into_iter();
    let mut progress = Progress::new("scoring", images.len() as u64, "images");
    let mut done = 0;
    in_background(|background| {
        detector.score_files(&images, &scoring, |path, result| {
            unless_interrupted()?;
            let name = names.next().expect("one for each image");
            match result {
                Ok((image, scored)) => {
                    let category = scored.category.clone().or(options.category.clone());
                    let mut judged =
                        Judged::new(path, image.dimensions(), &scored, category.clone());
                    let verdict = counts.verdict(&scored);
                    let as_which = category.filter(|_| options.category.is_none() && several);
                    let as_which = as_which.map_or(String::new(), |name| format!(", {name}"));
                    say(format!(
                        "{verdict:10} {:7.2} (limit {:.2}{as_which})  {}",
                        judged.score,
                        judged.threshold,
                        path.display()
                    ));
                    if !options.no_pictures {
                        let [overlay, mask, map] =
                            [("overlays", "png"), ("masks", "png"), ("maps", "tiff")].map(
                                |(kind, suffix)| with_suffix(&Path::new(kind).join(&name), suffix),
                            );
                        let text = |path: &Path| Some(path.to_string_lossy().into_owned());
                        judged.overlay = text(&overlay);
                        judged.mask = text(&mask);
                        judged.map = text(&map);
                        background.spawn(move || {
                            let [overlay, mask, map] = [overlay, mask, map].map(|p| out.join(p));
                            Pictures { overlay: Some(&overlay), mask: Some(&mask), map: Some(&map) }
                                .write(&image, &scored)
                        })?;
                    }
                    records.write(&judged)?;
                }
                Err(e) => {
                    counts.unreadable += 1;
                    log::warn!("{e}");
                    records.write_unreadable(path, &e)?;
                }
            }
            done += 1;
            progress.set(done, String::new);
            Ok(())
        })
    })?;
    progress.finish();
    records.commit()?;
    let Counts { normal, anomalous, unfamiliar, unreadable } = counts;
    if unfamiliar > 0 {
        log::warn!("{}", unfamiliar_images(unfamiliar));
    }
    say(format!(
        "{normal} normal, {anomalous} anomalous, {unfamiliar} unfamiliar, {unreadable} unreadable; see {}",
        out.display()
    ));
    Ok(match (unreadable, anomalous + unfamiliar) {
        (1.., _) => ExitCode::from(common::UNREADABLE),
        (0, 1..) if options.fail_on_anomaly => ExitCode::from(ANOMALOUS),
        _ => ExitCode::SUCCESS,
    })
}

/// An image is anomalous, or unfamiliar.
const ANOMALOUS: u8 = 3;

#[derive(Default)]
struct Counts {
    normal: usize,
    anomalous: usize,
    unfamiliar: usize,
    unreadable: usize,
}

impl Counts {
    /// What an image is, which is counted.
    fn verdict(&mut self, scored: &Scored) -> &'static str {
        let (one, verdict) = match scored {
            Scored { is_anomalous: true, .. } => (&mut self.anomalous, "anomalous"),
            Scored { is_unfamiliar: true, .. } => (&mut self.unfamiliar, "unfamiliar"),
            _ => (&mut self.normal, "normal"),
        };
        *one += 1;
        verdict
    }
}

type Unusable = Vec<(PathBuf, Error)>;

/// The images that the paths name, each once, and what is wrong with paths that name none.
fn inputs(options: &Options) -> Result<(Vec<PathBuf>, Unusable)> {
    // Pictures of an earlier run may lie below a folder that is given.
    let earlier: Vec<PathBuf> = ["overlays", "masks", "maps"]
        .iter()
        .filter_map(|kind| options.out.join(kind).canonicalize().ok())
        .collect();
    let is_earlier = |path: &Path| match path.canonicalize() {
        Ok(path) => !earlier.is_empty() && earlier.iter().any(|folder| path.starts_with(folder)),
        Err(_) => false,
    };
    let mut seen = HashSet::new();
    let mut images = Vec::new();
    let mut unusable = Vec::new();
    for arg in &options.paths {
        for input in collect_inputs(std::slice::from_ref(arg)) {
            match input {
                Ok(path) => {
                    let path: PathBuf =
                        path.components().filter(|c| *c != Component::CurDir).collect();
                    if !is_earlier(&path) && seen.insert(path.clone()) {
                        images.push(path);
                    }
                }
                Err(e) => unusable.push((arg.into(), e)),
            }
        }
    }
    if images.is_empty() {
        let mut errors = unusable.into_iter().map(|(_, e)| e);
        let last = errors.next_back().unwrap_or_else(|| {
            Error::dataset(&options.out, "all images given are results of an earlier run")
        });
        errors.for_each(|e| log::error!("{e}"));
        return Err(last);
    }
    Ok((images, unusable))
}
