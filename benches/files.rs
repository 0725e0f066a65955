//! From files to scores: what an image takes to be read, decoded, resized and computed, which of it limits
//! `Detector::score_files`, and what that reaches of what its stages allow.
//!
//! `cargo bench --bench files` prints a table; without `--bench`, as under `cargo test`, all runs once on small sizes.

#[allow(dead_code)] // Of Criterion's measurements.
mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::imageops::{self, FilterType as Kernel};
use image::{DynamicImage, RgbImage};
use invad::backbones::Workspace;
use invad::checkpoint::Recipe;
use invad::data::{decode_image, load_image};
use invad::denoisers::DitConfig;
use invad::detect::ScoreOptions;
use invad::{DType, Detector, Device, Tensor, ops};

use common::is_test;
use support::networks::{Kind, checkpoint_with, held_out, lite0, on_threads};
use support::numbers::Numbers;

/// Images that a detector computes at once.
const BATCH: usize = 32;

/// Files of one kind.
struct Case {
    name: String,
    path: PathBuf,
    image: RgbImage,
}

/// Seconds that an image takes: on the host those of a core.
struct Times {
    read: f64,
    decode: f64,
    resize: f64,
    features: f64,
    inversion: f64,
    /// From file to score, of all that computes.
    whole: f64,
}

fn main() {
    // `cargo bench -- SUBJECT` is for the other benches.
    if env::args().skip(1).any(|arg| !arg.starts_with('-') && arg != "files") {
        return;
    }
    let device = if is_test() { Device::Cpu } else { common::device() };
    let threads = rayon::current_num_threads();
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path());
    let detector = detector(device);
    let [features, inversion] = computing(&detector);
    println!(
        "images/s and core, {threads} cores; features and inversion by {device}: images/s of a GPU, or of a core"
    );
    println!(
        "| file | MB | read | decode | resize | features | inversion | score_files, images/s | limit, images/s | limited by |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for case in cases {
        let times = case.times(&detector, features, inversion);
        println!("{}", case.row(&times, device, threads));
    }
}

/// The sizes (width, height) that are measured.
fn sizes() -> [(u32, u32); 2] {
    if is_test() { [(48, 40), (97, 61)] } else { [(1024, 1024), (4000, 3000)] }
}

/// Photographs of the demo images, enlarged, with the noise of a camera: in colour, and a grey one.
fn cases(folder: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for (width, height) in sizes() {
        for (kind, extension) in
            [("cup", "png"), ("brick", "png"), ("cup", "jpg"), ("brick", "jpg")]
        {
            let small =
                load_image(support::photographs().join(kind).join("train/good/000.png")).unwrap();
            let mut image = imageops::resize(&small, width, height, Kernel::CatmullRom);
            let mut numbers = Numbers::new(u64::from(width));
            for value in image.iter_mut() {
                *value = value.saturating_add_signed(numbers.below(7) as i8 - 3);
            }
            let is_grey = kind == "brick";
            let pixels = DynamicImage::from(image);
            let pixels = if is_grey { pixels.into_luma8().into() } else { pixels };
            let mut bytes = Vec::new();
            if extension == "png" {
                // As zlib compresses by default.
                let (level, filter) = (CompressionType::Default, FilterType::Adaptive);
                pixels
                    .write_with_encoder(PngEncoder::new_with_quality(&mut bytes, level, filter))
                    .unwrap();
            } else {
                pixels.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 90)).unwrap();
            }
            let path = folder.join(format!("{kind}-{width}.{extension}"));
            fs::write(&path, &bytes).unwrap();
            let colours = if is_grey { "grey" } else { "RGB" };
            let name = format!("{extension}, {colours}, {width}×{height}");
            cases.push(Case { name, path, image: pixels.into_rgb8() });
        }
    }
    cases
}

/// A calibrated detector of the preset `small` on EfficientNet-Lite0.
fn detector(device: Device) -> Detector {
    let checkpoint = checkpoint_with(Recipe::whitened(), 1, DitConfig::small);
    let mut detector = Detector::new(checkpoint).unwrap();
    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    detector.to_device(device).unwrap().with_batch_size(if is_test() { 2 } else { BATCH }).unwrap()
}

/// Seconds that features and inversion of an image take, of the device where that is a GPU, else of a core.
fn computing(detector: &Detector) -> [f64; 2] {
    let backbone = lite0(detector.device());
    let (images, side) = (detector.batch_size(), backbone.spec().image_size as u32);
    // As large as the backbone takes them: nothing is left to resize.
    let images =
        vec![
            RgbImage::from_fn(side, side, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
            images
        ];
    let mut features =
        Tensor::zeros(&backbone.spec().features().of(images.len()), DType::F32, detector.device())
            .unwrap();
    let mut space = Workspace::default();
    let shared = if detector.device() == Device::Cpu { rayon::current_num_threads() } else { 1 };
    let of_image = |seconds: f64| seconds * shared as f64 / images.len() as f64;
    let extract = of_image(fastest(|| {
        backbone.extract(&images, &mut features, &mut space).unwrap();
        // What a GPU has computed is there when it can be read.
        black_box(features.view().part(0, &[1]).unwrap().to_vec_f32());
    }));
    let score = of_image(fastest(|| drop(black_box(detector.score(&images).unwrap()))));
    [extract, (score - extract).max(0.0)]
}

impl Case {
    fn times(&self, detector: &Detector, features: f64, inversion: f64) -> Times {
        let bytes = fs::read(&self.path).unwrap();
        let image = &self.image;
        let side = detector.config().backbone.image_size;
        let mut resized = vec![0; 3 * side * side];
        let from = [image.height() as usize, image.width() as usize];
        let [read, decode, resize] = on_threads(1, || {
            [
                fastest(|| drop(black_box(fs::read(&self.path).unwrap()))),
                fastest(|| drop(black_box(decode_image(&self.path, &bytes).unwrap()))),
                fastest(|| ops::resize_antialias(image, from, &mut resized, [side; 2]).unwrap()),
            ]
        });
        let pixels = image.width() as usize * image.height() as usize;
        let files = if is_test() { 3 } else { (128_000_000 / pixels).clamp(2 * BATCH, 4 * BATCH) };
        let paths = vec![&self.path; files];
        let start = Instant::now();
        let each = |_: &&PathBuf, scored: invad::Result<_>| scored.map(drop);
        detector.score_files(&paths, &ScoreOptions::default(), each).unwrap();
        let whole = start.elapsed().as_secs_f64() / files as f64;
        Times { read, decode, resize, features, inversion, whole }
    }

    fn row(&self, times: &Times, device: Device, threads: usize) -> String {
        let Times { read, decode, resize, features, inversion, whole } = *times;
        let cores = threads as f64;
        let stages = [
            ("reading", read / cores),
            ("decoding", decode / cores),
            ("resizing", resize / cores),
            ("features", if device == Device::Cpu { features / cores } else { features }),
            ("inversion", if device == Device::Cpu { inversion / cores } else { inversion }),
        ];
        let sum = |stages: &[(&str, f64)]| stages.iter().map(|(_, seconds)| seconds).sum::<f64>();
        // A GPU computes while the host decodes.
        let (host, gpu) = (sum(&stages[..3]), sum(&stages[3..]));
        let (limit, limiting) = match device {
            Device::Cpu => (host + gpu, &stages[..]),
            Device::Cuda(_) if host > gpu => (host, &stages[..3]),
            Device::Cuda(_) => (gpu, &stages[3..]),
        };
        let (name, most) = limiting.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        let bytes = fs::metadata(&self.path).unwrap().len();
        let rates = [read, decode, resize, features, inversion]
            .map(|s| format!("{:.0}", 1.0 / s))
            .join(" | ");
        format!(
            "| {} | {:.2} | {rates} | {:.1} | {:.1} | {name}, {:.0} % |",
            self.name,
            bytes as f64 / 1e6,
            1.0 / whole,
            1.0 / limit,
            100.0 * most / limit
        )
    }
}

/// The fastest of some runs, in seconds, after one that does not count.
fn fastest(mut run: impl FnMut()) -> f64 {
    let (runs, most) = if is_test() { (1, 0.0) } else { (50, 1.0) };
    run();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    for _ in 0..runs {
        let before = Instant::now();
        run();
        best = best.min(before.elapsed().as_secs_f64());
        if start.elapsed().as_secs_f64() > most {
            break;
        }
    }
    best
}
