use std::fs;

use invad::checkpoint::{Checkpoint, Recipe};
use invad::data::{Dataset, load_image};
use invad::{
    Control, Detector, Device, Event, FitOptions, Fitted, Products, Tensor, calibrate, denoisers,
    fit, quantise,
};
use tempfile::{TempDir, tempdir};

use crate::support::networks::*;
use crate::support::numbers::uniform;

/// 12 good pictures.
fn data() -> (TempDir, Dataset) {
    let folder = tempdir().unwrap();
    let good = folder.path().join("dots/train/good");
    fs::create_dir_all(&good).unwrap();
    for seed in 0..12 {
        picture(Kind::Dots, seed, 32, 32).save(good.join(format!("{seed:02}.png"))).unwrap();
    }
    let dataset = Dataset::open(folder.path(), &[]).unwrap();
    (folder, dataset)
}

fn fitted(dataset: &Dataset, products: Option<Products>) -> (Detector, Vec<String>) {
    let options = FitOptions::default()
        .recipe(Recipe::whitened().batch(2))
        .steps(Some(6))
        .compare(false)
        .products(products);
    let mut warnings = Vec::new();
    let fitted = fit(dataset, &options, |event| {
        if let Event::Warning(text) = event {
            warnings.push(text.into());
        }
        Control::Continue
    });
    match fitted.unwrap() {
        Fitted::Detector(detector) => (*detector, warnings),
        stopped => panic!("{stopped:?}"),
    }
}

#[test]
fn eight_bits_are_kept_where_they_move_little() {
    let (folder, dataset) = data();
    let (plain, _) = fitted(&dataset, None);
    let (detector, warnings) = fitted(&dataset, Some(Products::Int8));
    assert!(!warnings.iter().any(|text| text.contains("int8")), "{warnings:?}");
    assert_eq!(detector.config().products, Some(Products::Int8));
    assert_eq!((plain.precision().to_string(), detector.precision().to_string()), {
        ("f32".into(), "int8".into())
    });

    let image = load_image(folder.path().join("dots/train/good/00.png")).unwrap();
    let score =
        |detector: &Detector| detector.score(std::slice::from_ref(&image)).unwrap().remove(0);
    let (scored, apart) = (score(&detector), (score(&plain).score - score(&detector).score).abs());
    assert!(apart > 0.0 && apart < 0.1, "{apart}");

    // From its file it is the same.
    let path = folder.path().join("detector.safetensors");
    detector.save(&path).unwrap();
    let loaded = Detector::load(&path).unwrap();
    assert_eq!(loaded.config(), detector.config());
    assert_eq!(score(&loaded), scored);

    // Without, and calibrated anew, it is the plain one.
    let mut without = loaded;
    without.set_products(None).unwrap();
    assert!(without.score(std::slice::from_ref(&image)).is_err(), "not calibrated");
    assert_eq!(
        calibrate(&mut without, &dataset, |_| Control::Continue).unwrap(),
        Control::Continue
    );
    assert_eq!(score(&without), score(&plain));
}

#[test]
fn rounded_numbers_move_less() {
    let (folder, dataset) = data();
    let image = load_image(folder.path().join("dots/train/good/00.png")).unwrap();
    let scores = [None, Some(Products::Bf16)].map(|products| {
        let (detector, _) = fitted(&dataset, products);
        assert_eq!(detector.config().products, products);
        detector.score(std::slice::from_ref(&image)).unwrap().remove(0).score
    });
    assert!(scores[0] != scores[1] && (scores[0] - scores[1]).abs() < 0.02, "{scores:?}");
}

/// Of a hidden unit that is large, and that nothing reads, eight bits leave nothing of the others.
#[test]
fn eight_bits_are_refused_where_they_move_scores() {
    let (folder, dataset) = data();
    let path = folder.path().join("detector.safetensors");
    fitted(&dataset, None).0.save(&path).unwrap();
    let mut checkpoint = Checkpoint::load(&path).unwrap();
    let network = denoisers::read(&checkpoint.config.denoiser).unwrap();
    // After a few steps the gates of the blocks are next to closed.
    let noise = uniform(1, network.len(), 0.3);
    let mut numbers: Vec<_> =
        checkpoint.ema.to_vec_f32().iter().zip(noise).map(|(x, noise)| x + noise).collect();
    let mut changed = 0;
    for p in network.parameters() {
        let numbers = &mut numbers[p.offset..][..p.len()];
        if p.name.ends_with("fc1.bias") {
            numbers[0] = 1e4;
            changed += 1;
        } else if p.name.ends_with("fc2.weight") {
            numbers.chunks_mut(p.shape[1]).for_each(|row| row[0] = 0.0);
            changed += 1;
        }
    }
    assert!(changed > 0);
    checkpoint.ema = Tensor::from_f32(numbers, checkpoint.ema.shape(), Device::Cpu).unwrap();
    let mut detector = Detector::new(checkpoint).unwrap();
    calibrate(&mut detector, &dataset, |_| Control::Continue).unwrap();
    let before = detector.calibration().clone();

    let mut told = Vec::new();
    let done = quantise(&mut detector, &dataset, Products::Int8, |event| {
        if let Event::Warning(text) = event {
            told.push(text.to_string());
        }
        Control::Continue
    });
    assert_eq!(done.unwrap(), Control::Continue);
    assert!(told.len() == 1, "{told:?}");
    assert!(told[0].contains("int8") && told[0].contains("`dots`"), "{told:?}");
    assert_eq!(detector.config().products, None);
    assert_eq!(*detector.calibration(), before);

    // Formats that the device does not multiply are refused; stopped it says so.
    let refused = quantise(&mut detector, &dataset, Products::Fp8, |_| Control::Continue);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("fp8"), "{refused}");
    let stopped = quantise(&mut detector, &dataset, Products::Int8, |_| Control::Stop);
    assert_eq!(stopped.unwrap(), Control::Stop);
}
