//! What images of all kinds score.

use invad::checkpoint::Levels;
use invad::detect::{ScoreOptions, Threshold};
use invad::{Error, ops};

use super::*;
use crate::support::files::with_config;

/// What a latent amounts to without a prior.
fn by_hand(checkpoint: &Checkpoint, image: &RgbImage) -> ([u64; 5], Vec<u32>) {
    let latent = latent(checkpoint, image);
    let g = denoisers::read(&checkpoint.config.denoiser).unwrap().features().grid;
    let (mut map, mut stats) = (poisoned(&[1, g * g]), poisoned(&[1, ops::SCORE_STATS]));
    ops::score(&latent, &mut map, &mut stats).unwrap();
    let [max, _, abs, top5, half_squares] = stats.to_vec_f32().try_into().unwrap();
    let nll = ops::negative_log_likelihood(half_squares, latent.len());
    let map = map.to_vec_f32();
    let blocks = (0..g - 1).flat_map(|y| (0..g - 1).map(move |x| y * g + x));
    let block = blocks
        .map(|i| 0.25 * (map[i] + map[i + 1] + map[i + g] + map[i + g + 1]))
        .max_by(f32::total_cmp)
        .unwrap();
    let map = map.into_iter().map(f32::to_bits).collect();
    (stat_bits(&ImageStats { max, abs, block, top5, nll }), map)
}

#[test]
fn any_number_of_steps() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    let image = defective(Kind::Dots, 9, 48, 40);
    for recipe in recipes() {
        checkpoint(recipe, 3).save(&path).unwrap();
        let mut all = Vec::new();
        for steps in [1, 2, 3, 5] {
            let with_steps = || {
                let mut checkpoint = Checkpoint::load(&path).unwrap();
                checkpoint.config.recipe.inversion_steps = steps;
                checkpoint
            };
            let mut detector = Detector::new(with_steps()).unwrap();
            detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
            let scored = &detector.score(std::slice::from_ref(&image)).unwrap()[0];
            let (_, stats, map) = scored_bits(scored);
            assert!(scored.score.is_finite() && scored.map.values().iter().all(|v| *v >= 0.0));
            assert!((stats, map.clone()) == by_hand(&with_steps(), &image), "{steps} steps");
            all.push(map);
        }
        all.dedup();
        assert_eq!(all.len(), 4, "the number of steps changes nothing");
    }
}

#[test]
fn tells_defects_from_good_ones() {
    for kind in [Kind::Stripes, Kind::Dots] {
        let good: Vec<_> = (400..406).map(|seed| picture(kind, seed, 48, 40)).collect();
        let bad: Vec<_> = (400..406).map(|seed| defective(kind, seed, 48, 40)).collect();
        let scores = |images: &[RgbImage]| -> Vec<f64> {
            detector().score(images).unwrap().iter().map(|s| s.score).collect()
        };
        let highest = scores(&good).into_iter().fold(f64::MIN, f64::max);
        let lowest = scores(&bad).into_iter().fold(f64::MAX, f64::min);
        assert!(highest < lowest, "{kind:?}: good up to {highest}, defective from {lowest}");
        // The square is in the upper right quarter.
        let map = &detector().score(&bad[..1]).unwrap()[0].map;
        let at = (0..256).max_by(|&a, &b| map.values()[a].total_cmp(&map.values()[b])).unwrap();
        assert_eq!(map.side(), 16);
        assert!(at % 16 >= 7 && at / 16 <= 9, "the largest cell is {}, {}", at % 16, at / 16);
    }
}

#[test]
fn categories_and_options_that_cannot_be_used() {
    let images = pictures(Kind::Dots, 0..1);
    let refused = |detector: &Detector, options: ScoreOptions| {
        let error = detector.score_with(&images, &options).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{error}");
        error.to_string()
    };
    let nuts = || ScoreOptions::default().category(Some("nuts".into()));
    let want = "score: `category` should be one of dots, stripes, got nuts";
    assert_eq!(refused(detector(), nuts()), want);
    for threshold in [
        Threshold::Quantile(1.5),
        Threshold::Quantile(f64::NAN),
        Threshold::Score(f64::INFINITY),
        Threshold::StandardDeviations(f64::NAN),
    ] {
        let options = ScoreOptions::default().threshold(threshold);
        let message = refused(detector(), options);
        assert!(message.starts_with("score: `threshold` should be"), "{message}");
    }

    let [whitened, _] = recipes();
    let mut fresh = Detector::new(checkpoint(whitened, 1)).unwrap();
    for options in [ScoreOptions::default(), nuts()] {
        let message = refused(&fresh, options);
        assert!(message.contains("should be calibrated: call `calibrate` first"), "{message}");
    }
    let error = fresh.calibrate("nuts", &images, &[]).unwrap_err().to_string();
    assert_eq!(error, "calibrate: `category` should be one of dots, stripes, got nuts");
    let error = fresh.calibrate("dots", &[], &images).unwrap_err().to_string();
    assert_eq!(error, "calibrate: `held_out` should be at least one image, got 0");
    fresh.calibrate("dots", &images, &[]).unwrap();
    let stripes = ScoreOptions::default().category(Some("stripes".into()));
    let want = "score: `category` should be one of dots, got stripes";
    assert_eq!(refused(&fresh, stripes), want);
    // Held-out statistics of one image have no spread; scores stay numbers.
    let scored = fresh.score(&tested()).unwrap();
    assert!(scored.iter().all(|s| s.score.is_finite() && s.threshold.is_finite()));
}

/// A score that is not a number would pass for a good image.
#[test]
fn an_overflow_is_no_score() {
    let [whitened, _] = recipes();
    let mut checkpoint = checkpoint(whitened, 1);
    checkpoint.ema.view_mut().fill(1e30).unwrap();
    let stats = ImageStats { max: 1.0, abs: 1.0, block: 1.0, top5: 1.0, nll: 1.0 };
    checkpoint.calibration.categories.insert("dots".into(), vec![stats; 3]);
    let mut detector = Detector::new(checkpoint).unwrap();
    let images = pictures(Kind::Dots, 0..1);
    for error in [
        detector.score(&images).unwrap_err(),
        detector.calibrate("dots", &images, &[]).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Argument { arg: "detector", .. }), "{error}");
    }
}

#[test]
fn pictures_of_any_shape() {
    for (width, height) in [(1, 1), (3000, 20), (20, 3000), (1, 500), (257, 255)] {
        let scored = &detector().score(&[picture(Kind::Dots, 1, width, height)]).unwrap()[0];
        let stats = scored.stats;
        assert!(
            [stats.max, stats.abs, stats.block, stats.top5].iter().all(|v| v.is_finite())
                && stats.nll.is_finite()
        );
        assert!(scored.score.is_finite());
        let map = scored.map.resize(width as usize, height as usize).unwrap();
        assert_eq!(map.len(), (width * height) as usize);
        // The filter's lobes may go beyond the cells a little.
        let reach = -0.1 * stats.max..=1.1 * stats.max;
        assert!(map.iter().all(|v| reach.contains(v)), "{width}×{height}");
    }
    for (width, height) in [(0, 5), (5, 0), (0, 0)] {
        let images = [picture(Kind::Dots, 1, 9, 9), RgbImage::new(width, height)];
        let error = detector().score(&images).unwrap_err();
        assert!(matches!(error, Error::Argument { arg: "images", .. }), "{error}");
    }
    // A refused batch does not spoil the next.
    assert!(score(detector(), &tested()) == score(detector(), &tested()));
}

/// Detectors of version 1 know neither a prior nor timesteps, and level maps.
#[test]
fn version_1() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    let [whitened, _] = recipes();
    let recipe = whitened.prior(false).timesteps([0, 999]).inversion_steps(3);
    let mut checkpoint = checkpoint(recipe, 3);
    let part = |first: f32| (0..256).map(|i| first + i as f32 / 512.0).collect::<Vec<_>>();
    let (mean, std) = (part(9.0), part(0.5));
    checkpoint.levels = Some(Levels::from_parts(mean.clone(), std.clone()).unwrap());
    checkpoint.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let old = with_config(&bytes, |config| {
        config["version"] = 1.into();
        assert!(config.as_object_mut().unwrap().remove("checksum").is_some());
        let recipe = config["config"]["recipe"].as_object_mut().unwrap();
        assert!(recipe.remove("prior").is_some() && recipe.remove("timesteps").is_some());
    });
    std::fs::write(&path, old).unwrap();
    let mut detector = Detector::load(&path).unwrap();
    assert_eq!(detector.config(), &checkpoint.config);
    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    let average = |of: &[f32]| of.iter().map(|&v| f64::from(v)).sum::<f64>() / 256.0;
    for image in tested() {
        let scored = &detector.score(std::slice::from_ref(&image)).unwrap()[0];
        assert_eq!(scored.category, None);
        let (_, plain) = by_hand(&checkpoint, &image);
        for (i, (&got, plain)) in scored.map.values().iter().zip(plain).enumerate() {
            let above = f64::from(f32::from_bits(plain)) - f64::from(mean[i]);
            let want = average(&mean) + average(&std) * above / f64::from(std[i]);
            assert!((f64::from(got) - want).abs() < 1e-4 * want.abs().max(1.0), "{got} {want}");
        }
    }
}
