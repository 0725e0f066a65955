//! From a folder to a calibrated detector on the GPU.

use invad::checkpoint::ImageStats;
use invad::data::Dataset;
use invad::train::hold_out;
use invad::{Control, Detector, FitOptions, Fitted, fit};
use tempfile::tempdir;

use crate::support::emulator::gpu;
use crate::support::networks::*;

/// The prior is learnt and scores are calibrated where the detector was trained, and the CPU agrees with
/// what is measured there.
#[test]
fn trains_learns_a_prior_and_calibrates() {
    let Some(gpu) = gpu() else { return };
    let folder = tempdir().unwrap();
    // 8 are held out.
    for seed in 0..16 {
        let path = folder.path().join(format!("{seed}.png"));
        picture(Kind::Stripes, seed, 48, 48).save(path).unwrap();
    }
    let good = Dataset::open(folder.path(), &[]).unwrap();
    let options = FitOptions::default().steps(Some(2)).resources(gpu.into());
    let Fitted::Detector(there) = fit(&good, &options, |_| Control::Continue).unwrap() else {
        panic!("nobody stops it")
    };
    assert_eq!(there.device(), gpu);

    let path = folder.path().join("detector.safetensors");
    there.save(&path).unwrap();
    let mut here = Detector::load(&path).unwrap();
    let category = &good.categories()[0];
    let all = vec![(category.name.clone(), category.train().to_vec())];
    let stats = here.learn_prior(&all, |_, read| read).unwrap().remove(0);
    let split = hold_out(category.train().len(), 0, options.seed);
    // What stands out, by Gaussians of few images, moves more than the latents do.
    let numbers = |of: &[ImageStats]| -> Vec<(f64, f64)> {
        let exact = |s: &ImageStats| [s.abs.into(), s.nll].map(|number| (number, 1e-2));
        let rough = |s: &ImageStats| [s.max, s.block, s.top5].map(|number| (number.into(), 4e-2));
        of.iter().flat_map(|s| exact(s).into_iter().chain(rough(s))).collect()
    };
    let name = &category.name;
    let there = there.calibration();
    for (got, of) in
        [(&there.categories[name], split.held_out), (&there.trained[name], split.train)]
    {
        let want: Vec<_> = of.iter().map(|&i| stats[i].unwrap()).collect();
        let (got, want) = (numbers(got), numbers(&want));
        assert_eq!(got.len(), want.len());
        assert!(!got.is_empty());
        for ((got, _), (want, tolerance)) in got.into_iter().zip(want) {
            assert!((got / want - 1.0).abs() < tolerance, "{got} for {want}");
        }
    }
}
