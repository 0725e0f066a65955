//! From a folder to a calibrated detector on the GPU.

use std::collections::BTreeMap;

use invad::checkpoint::{ImageStats, Levels};
use invad::data::Dataset;
use invad::{Control, Detector, FitOptions, Fitted, fit};
use tempfile::tempdir;

use crate::common::*;
use crate::emulator::gpu;

/// Maps are levelled and calibrated where the detector was trained, and the CPU agrees with what is
/// measured there.
#[test]
fn trains_levels_and_calibrates() {
    let Some(gpu) = gpu() else { return };
    let folder = tempdir().unwrap();
    // 8 are held out.
    for seed in 0..8 + Levels::ENOUGH as u64 {
        let path = folder.path().join(format!("{seed}.png"));
        picture(Kind::Stripes, seed, 48, 48).save(path).unwrap();
    }
    let good = Dataset::open(folder.path(), &[]).unwrap();
    let options = FitOptions { steps: Some(2), resources: gpu.into(), ..FitOptions::default() };
    let Fitted::Detector(there) = fit(&good, &options, |_| Control::Continue).unwrap() else {
        panic!("nobody stops it")
    };
    assert_eq!(there.device(), gpu);

    let path = folder.path().join("detector.safetensors");
    there.save(&path).unwrap();
    let mut here = Detector::load(&path).unwrap();
    let category = &good.categories()[0];
    let split = invad::train::hold_out(category.train.len(), 0, options.seed);
    let files = |of: &[usize]| of.iter().map(|&i| category.train[i].clone()).collect::<Vec<_>>();
    assert_eq!(here.levels(), there.levels());
    let trained = here.level_files(&files(&split.train), |_, read| read).unwrap();
    let trained = trained.into_iter().flatten().collect();
    here.calibrate_files(&category.name, &files(&split.held_out), trained, |_, read| read).unwrap();
    let levels = [&*there, &here].map(|detector| detector.levels().expect("enough").parts());
    for (got, want) in levels[0].iter().zip(levels[1]).flat_map(|(a, b)| a.iter().zip(b)) {
        assert!((got / want - 1.0).abs() < 2e-2, "{got} for {want}");
    }
    let numbers = |of: &BTreeMap<String, Vec<ImageStats>>| -> Vec<f64> {
        let numbers = |s: &ImageStats| [s.max, s.abs, s.block, s.top5, s.nll].map(f64::from);
        of.values().flatten().flat_map(numbers).collect()
    };
    let calibrations = [there.calibration(), here.calibration()];
    for of in [calibrations.map(|c| &c.categories), calibrations.map(|c| &c.trained)] {
        let [got, want] = of.map(numbers);
        assert_eq!(got.len(), want.len());
        assert!(!got.is_empty());
        for (got, want) in got.into_iter().zip(want) {
            assert!((got / want - 1.0).abs() < 1e-2, "{got} for {want}");
        }
    }
}
