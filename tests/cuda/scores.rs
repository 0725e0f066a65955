//! The quickstart's kind of detector scores the bundled photographs on a GPU as on the CPU.
//!
//! `INVAD_TEST_DETECTOR` names the file of a detector to use in place of one that is trained for a
//! moment.

use std::env;
use std::path::{Path, PathBuf};

use image::RgbImage;
use invad::data::{Dataset, load_image};
use invad::detect::ScoreOptions;
use invad::{Control, Detector, Device, FitOptions, Fitted, fit, metrics};

use crate::support::emulator::gpu;
use crate::support::photographs;

/// Of a whole training of 2000.
const STEPS: u64 = 100;

/// The file of a detector of the photographs; in `folder`, if it has to be made.
fn detector(photographs: &Dataset, folder: &Path) -> PathBuf {
    if let Some(file) = env::var_os("INVAD_TEST_DETECTOR") {
        return file.into();
    }
    let options = FitOptions::default().steps(Some(STEPS));
    let Ok(Fitted::Detector(detector)) = fit(photographs, &options, |_| Control::Continue) else {
        panic!("training failed");
    };
    let file = folder.join("detector.safetensors");
    detector.save(&file).unwrap();
    file
}

/// The calibrated scores of all test images, each with its category's calibration.
fn scores(detector: &Path, device: Device, images: &[(String, Vec<RgbImage>)]) -> Vec<f64> {
    let detector = Detector::load(detector).unwrap().to_device(device).unwrap();
    assert_eq!(detector.device(), device);
    let of = |(category, images): &(String, Vec<RgbImage>)| {
        let options = ScoreOptions::default().category(Some(category.clone()));
        detector.score_with(images, &options).unwrap()
    };
    images.iter().flat_map(of).map(|scored| scored.score).collect()
}

/// Kendall's τ: the share of pairs in the same order less that of pairs in the opposite one.
fn kendall(a: &[f64], b: &[f64]) -> f64 {
    let sign = |x: f64| if x == 0.0 { 0.0 } else { x.signum() };
    let pairs = (0..a.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    let (sum, n) = pairs.fold((0.0, 0.0), |(sum, n), (i, j)| {
        (sum + sign(a[i] - a[j]) * sign(b[i] - b[j]), n + 1.0)
    });
    sum / n
}

#[test]
fn kendalls_tau_is_that_of_small_examples() {
    assert_eq!(kendall(&[1.0, 2.0, 3.0, 4.0], &[0.1, 0.2, 0.3, 0.4]), 1.0);
    assert_eq!(kendall(&[1.0, 2.0, 3.0, 4.0], &[0.2, 0.1, 0.3, 0.4]), 4.0 / 6.0);
    assert_eq!(kendall(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
    assert!(kendall(&[1.0, 2.0], &[f64::NAN, 1.0]).is_nan());
}

#[test]
fn photographs_score_as_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let photographs = Dataset::open(photographs(), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let detector = detector(&photographs, folder.path());
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for category in photographs.categories() {
        let loaded = category.test().iter().map(|test| load_image(&test.path).unwrap());
        images.push((category.name.clone(), loaded.collect()));
        labels.extend(category.test().iter().map(|test| test.defect.is_some()));
    }
    let (want, got) = (scores(&detector, Device::Cpu, &images), scores(&detector, gpu, &images));
    assert_eq!((want.len(), got.len()), (labels.len(), labels.len()));

    assert!(want.iter().chain(&got).all(|score| score.is_finite()), "{want:?} {got:?}");
    let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
    let auroc = |scores| 100.0 * metrics::image_metrics(scores, &labels).unwrap().auroc.unwrap();
    let (auroc, auroc_gpu) = (auroc(&want), auroc(&got));
    let tau = kendall(&want, &got);
    println!(
        "{} images: at most {worst:.4} standard deviations apart, image AUROC {auroc:.3} on the CPU and \
         {auroc_gpu:.3} on the GPU, Kendall's τ {tau:.5}",
        labels.len()
    );
    assert!(worst <= 0.05, "{worst} standard deviations apart");
    assert!((auroc_gpu - auroc).abs() <= 0.1, "AUROC {auroc_gpu} for {auroc}");
    assert!(tau >= 0.99, "Kendall's τ {tau}");
}
