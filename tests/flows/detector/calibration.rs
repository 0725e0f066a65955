//! Scores and thresholds by what held-out images score.

use image::Rgb;
use invad::detect::Moments;
use invad::detect::{ScoreKind, ScoreOptions, Threshold};

use super::*;

/// Mean and standard deviation of n − 1, of one number of the held-out images.
fn moments(images: &[ImageStats], f: impl Fn(&ImageStats) -> f64) -> (f64, f64) {
    let n = images.len() as f64;
    let mean = images.iter().map(&f).sum::<f64>() / n;
    let variance = images.iter().map(|i| (f(i) - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, variance.sqrt())
}

fn standardised(held_out: &[ImageStats], kind: ScoreKind, stats: &ImageStats) -> f64 {
    let z = |f: fn(&ImageStats) -> f64| {
        let (mean, std) = moments(held_out, f);
        (f(stats) - mean) / std
    };
    type Number = fn(&ImageStats) -> f64;
    let [block, top5, abs, nll]: [Number; 4] =
        [|s| s.block.into(), |s| s.top5.into(), |s| s.abs.into(), |s| s.nll];
    match kind {
        ScoreKind::Block => z(block),
        ScoreKind::Top5 => z(top5),
        ScoreKind::Abs => z(abs),
        ScoreKind::Nll => z(nll),
        ScoreKind::Both => z(abs) + z(nll),
    }
}

const KINDS: [ScoreKind; 5] =
    [ScoreKind::Block, ScoreKind::Top5, ScoreKind::Abs, ScoreKind::Nll, ScoreKind::Both];

#[test]
fn scores_and_thresholds_from_the_calibration() {
    let (detector, images) = (detector(), [tested().remove(0), tested().pop().unwrap()]);
    let calibration = detector.calibration();
    assert_eq!(calibration.categories.keys().collect::<Vec<_>>(), ["dots", "stripes"]);
    for category in [None, Some("dots"), Some("stripes")] {
        let held_out: Vec<ImageStats> = match category {
            Some(name) => calibration.categories[name].clone(),
            None => calibration.categories.values().flatten().copied().collect(),
        };
        assert_eq!(held_out.len(), if category.is_none() { 14 } else { 7 });
        let (cell_mean, cell_std) = moments(&held_out, |s| s.block.into());
        let student = |d: f64| Moments { mean: 0.0, std: 1.0, count: held_out.len() }.bound(d);
        for kind in KINDS {
            let mut normal: Vec<f64> =
                held_out.iter().map(|s| standardised(&held_out, kind, s)).collect();
            normal.sort_by(f64::total_cmp);
            let mean = normal.iter().sum::<f64>() / normal.len() as f64;
            let variance = normal.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
            let std = (variance / (normal.len() - 1) as f64).sqrt();
            for threshold in [
                Threshold::StandardDeviations(3.0),
                Threshold::StandardDeviations(-0.5),
                Threshold::Quantile(0.0),
                Threshold::Quantile(0.5),
                Threshold::Quantile(0.9),
                Threshold::Quantile(1.0),
                Threshold::Score(1.25),
            ] {
                let category = category.map(String::from);
                let options =
                    ScoreOptions::default().category(category).kind(kind).threshold(threshold);
                let scored = detector.score_with(&images, &options).unwrap();
                for s in &scored {
                    close(s.score, standardised(&held_out, kind, &s.stats));
                    assert_eq!(s.is_anomalous, s.score >= s.threshold);
                    assert_eq!(s.threshold, scored[0].threshold);
                    assert_eq!(s.map_threshold, scored[0].map_threshold);
                }
                let n = normal.len() as f64;
                let cell = |deviations: f64| cell_mean + deviations * cell_std;
                let (score_at, map_at) = match threshold {
                    Threshold::StandardDeviations(d) => (mean + student(d) * std, cell(student(d))),
                    Threshold::Score(score) if kind == ScoreKind::Block => (score, cell(score)),
                    Threshold::Score(score) => (score, cell(student(3.0))),
                    Threshold::Quantile(q) => {
                        let at = ((q * n).ceil() as usize).max(1) - 1;
                        let mut cells: Vec<f64> = held_out.iter().map(|s| s.block.into()).collect();
                        cells.sort_by(f64::total_cmp);
                        (normal[at], cells[at])
                    }
                };
                close(scored[0].threshold, score_at);
                assert!((f64::from(scored[0].map_threshold) - map_at).abs() < 1e-5 * map_at);
            }
        }
    }
}

/// The held-out images themselves: their numbers are those of the calibration, and as many as the
/// quantile says are beyond the threshold.
#[test]
fn a_quantile_of_the_held_out_images() {
    let held_out = held_out(Kind::Dots);
    for (quantile, flagged) in [(1.0, 0), (0.9, 0), (0.7, 2), (0.5, 3), (0.1, 6), (0.0, 6)] {
        for kind in KINDS {
            let options = ScoreOptions::default()
                .category(Some("dots".into()))
                .kind(kind)
                .threshold(Threshold::Quantile(quantile));
            let scored = detector().score_with(&held_out, &options).unwrap();
            let stats: Vec<_> = scored.iter().map(|s| s.stats).collect();
            assert_eq!(stats, detector().calibration().categories["dots"]);
            let count = scored.iter().filter(|s| s.is_anomalous).count();
            assert_eq!(count, flagged, "{quantile} {kind:?}");
        }
    }
}

/// One held-out image says where normal scores lie; how much they vary is assumed.
#[test]
fn a_single_held_out_image() {
    let [whitened, _] = recipes();
    let mut detector = Detector::new(checkpoint(whitened, 2)).unwrap();
    let images = held_out(Kind::Dots);
    detector.calibrate("dots", &images[..1], &images[1..4]).unwrap();
    let block = f64::from(detector.calibration().categories["dots"][0].block);
    for kind in KINDS {
        let options = ScoreOptions::default().kind(kind);
        let scored = detector.score_with(&images[..2], &options).unwrap();
        assert_eq!(scored[0].score, 0.0, "{kind:?}");
        let times = if kind == ScoreKind::Both { 2.0 } else { 1.0 };
        close(scored[0].threshold, times * 3.0 * 2f64.sqrt());
        assert!(scored[1].score.is_finite() && scored[1].score != 0.0);
        let cell = block * (1.0 + 0.05 * 3.0 * 2f64.sqrt());
        close(scored[0].map_threshold.into(), f64::from(cell as f32));
    }
    let doubt = detector.calibration().doubt(Some("dots")).unwrap();
    assert!(doubt.contains("`dots`") && doubt.contains("1 held-out image ("), "{doubt}");
}

#[test]
fn thresholds_that_cannot_be_relied_on() {
    let [whitened, _] = recipes();
    let mut detector = Detector::new(checkpoint(whitened, 2)).unwrap();
    let images = pictures(Kind::Dots, 0..8);
    detector.calibrate("dots", &images[..7], &[]).unwrap();
    detector.calibrate("stripes", &images[..2], &images[..2]).unwrap();
    let doubt = |category| detector.calibration().doubt(category);
    assert!(
        doubt(Some("dots")).unwrap().contains("7 held-out images (copies count once); it needs 8")
    );
    assert!(doubt(Some("stripes")).unwrap().contains("images that were trained on"));
    assert_eq!(doubt(None), None);
    let mut detector = detector;
    detector.calibrate("dots", &images, &[]).unwrap();
    assert_eq!(detector.calibration().doubt(Some("dots")), None);
    // With a prior any category may judge an image of which nobody says what it is.
    let folder = tempdir().unwrap();
    detector.learn_prior(&trained_on(folder.path()), |_, read| read).unwrap();
    detector.calibrate("dots", &images, &[]).unwrap();
    detector.calibrate("stripes", &pictures(Kind::Stripes, 0..2), &[]).unwrap();
    let doubts = detector.doubts(None);
    assert!(doubts.len() == 1 && doubts[0].contains("`stripes`"), "{doubts:?}");
    assert!(detector.doubts(Some("dots")).is_empty());
}

/// What stands out within an image says little of one that as a whole is of something else, or of nothing.
#[test]
fn unfamiliar_images() {
    let detector = with_prior();
    let held_out = &detector.calibration().categories["dots"];
    let nll: Vec<f64> = held_out.iter().map(|s| s.nll).collect();
    let mean = nll.iter().sum::<f64>() / nll.len() as f64;
    let squares: f64 = nll.iter().map(|v| (v - mean).powi(2)).sum();
    let std = (squares / (nll.len() - 1) as f64).sqrt();
    let options = ScoreOptions::default().category(Some("dots".into()));
    let black = RgbImage::new(48, 40);
    let noise = RgbImage::from_fn(48, 40, |x, y| Rgb([x * 7919 + y * 104_729; 3].map(|v| v as u8)));
    let images = [&pictures(Kind::Dots, 200..206)[..], &[black, noise]].concat();
    let scored = detector.score_with(&images, &options).unwrap();
    for (i, of) in scored.iter().enumerate() {
        let limit = mean + 5.0 * std.max(0.03 * mean.abs());
        assert_eq!(of.is_unfamiliar, of.stats.nll > limit, "{i}: {}", of.stats.nll);
        assert_eq!(of.is_unfamiliar, i >= 6, "{i}: {} {limit}", of.stats.nll);
    }

    // A single one says how much latents vary: a twentieth.
    let mut lone = with_prior();
    lone.calibrate("dots", &pictures(Kind::Dots, 200..201), &[]).unwrap();
    let nll = |of: &Scored| of.stats.nll;
    let scored = lone.score_with(&images, &options).unwrap();
    for of in &scored {
        assert_eq!(of.is_unfamiliar, nll(of) > 1.25 * nll(&scored[0]), "{}", nll(of));
    }

    let [_, paper] = recipes();
    let mut detector = Detector::new(checkpoint(paper, 2)).unwrap();
    detector.calibrate("dots", &pictures(Kind::Dots, 0..8), &[]).unwrap();
    let scored = detector.score_with(&images, &options).unwrap();
    assert!(scored.iter().all(|of| !of.is_unfamiliar), "a score of the latent as it is");
}

/// They say nothing of how much good images vary: a threshold at what they score would be of no use.
#[test]
fn copies_count_once() {
    let mut detector = with_prior();
    let images = pictures(Kind::Dots, 0..2);
    let copies = vec![images[0].clone(); 8];
    detector.calibrate("dots", &[&copies[..], &images].concat(), &copies).unwrap();
    let calibration = detector.calibration();
    let [held_out, trained] = [&calibration.categories, &calibration.trained].map(|of| &of["dots"]);
    // That which was trained on in another file was not held out.
    assert_eq!([held_out.len(), trained.len()], [1, 1]);
    assert_ne!(held_out[0].nll, trained[0].nll);
    detector.calibrate("dots", &copies, &copies).unwrap();
    let options = ScoreOptions::default().category(Some("dots".into()));
    let scored = &detector.score_with(&copies[..1], &options).unwrap()[0];
    let least = scored.stats.top5 * (1.0 + 0.2 * 3.0 * 2f32.sqrt());
    assert!(scored.score == 0.0 && scored.map_threshold >= 0.999 * least, "{scored:?}");
    let doubts = detector.doubts(Some("dots"));
    assert!(doubts.len() == 1 && doubts[0].contains("trained on, or copies of them"), "{doubts:?}");
}

/// Held-out images that change along their order raise the threshold, and the detector says so.
#[test]
fn held_out_images_that_drift() {
    let [whitened, paper] = recipes();
    let folder = tempdir().unwrap();
    let mut detector = Detector::new(checkpoint(whitened, 2)).unwrap();
    detector.learn_prior(&trained_on(folder.path()), |_, read| read).unwrap();
    let changed = (20..32).map(|seed| defective(Kind::Dots, seed, 40, 40));
    let before_and_after = [pictures(Kind::Dots, 0..12), changed.collect()].concat();
    let turns = (0..24).map(|i| before_and_after[i % 2 * 12 + i / 2].clone());
    let in_turn: Vec<_> = turns.collect();
    let options = ScoreOptions::default().category(Some("dots".into()));
    let mut judge = |held_out: &[RgbImage]| {
        detector.calibrate("dots", held_out, &[]).unwrap();
        let scored = &detector.score_with(&held_out[..1], &options).unwrap()[0];
        (scored.map_threshold, detector.doubts(Some("dots")), detector.doubts(None))
    };
    let (level, doubts, _) = judge(&in_turn);
    assert!(doubts.is_empty());
    let (higher, doubts, of_all) = judge(&before_and_after);
    assert!(higher > 1.1 * level, "{higher} {level}");
    assert!(
        doubts.len() == 1 && doubts[0].contains("held-out images of `dots` drift"),
        "{doubts:?}"
    );
    assert!(!doubts[0].contains("  "), "{doubts:?}");
    assert_eq!(doubts, of_all);

    let mut detector = Detector::new(checkpoint(paper, 2)).unwrap();
    detector.calibrate("dots", &before_and_after, &[]).unwrap();
    assert_eq!(detector.doubts(Some("dots")), [""; 0]);
}

#[test]
fn training_images_add_to_the_spread() {
    let of = |values: &[f64]| Moments::of(values.iter().copied());
    let (few, more) = (of(&[3.0, 4.0, 5.0]), of(&[0.0, 0.0, 6.0, 6.0]));
    let both = few.with_spread_of(more);
    close(both.std, ((2.0 * 1.0 + 3.0 * 12.0) / 5.0f64).sqrt());
    assert_eq!(both, Moments { std: both.std, ..few });
    assert_eq!(few.with_spread_of(of(&[7.0])), few);

    // Their scores are too low to take part in the mean.
    let (held_out, trained) = (held_out(Kind::Dots), pictures(Kind::Dots, 0..5));
    let options = ScoreOptions::default().category(Some("dots".into()));
    let [whitened, _] = recipes();
    let mut detector = Detector::new(checkpoint(whitened, 3)).unwrap();
    detector.calibrate("dots", &held_out, &trained).unwrap();
    let stats = detector.calibration().clone();
    let spread = |images: &[ImageStats]| moments(images, |s| s.block.into());
    let ((mean, a), (_, b)) = (spread(&stats.categories["dots"]), spread(&stats.trained["dots"]));
    let scored = &detector.score_with(&trained[..1], &options).unwrap()[0];
    let std = ((6.0 * a * a + 4.0 * b * b) / 10.0).sqrt();
    close(scored.score, (f64::from(scored.stats.block) - mean) / std);
    assert_eq!(scored.stats, stats.trained["dots"][0]);
    // Calibrated without them, it does not know them any longer.
    detector.calibrate("dots", &held_out, &[]).unwrap();
    assert!(detector.calibration().trained.is_empty());
}

/// Where there is a prior the score is of the five largest cells, and images trained on steady its spread.
#[test]
fn scores_of_what_stands_out() {
    let [whitened, _] = recipes();
    let folder = tempdir().unwrap();
    let mut detector = Detector::new(checkpoint(whitened, 3)).unwrap();
    let stats = detector.learn_prior(&trained_on(folder.path()), |_, read| read).unwrap();
    let trained: Vec<_> = stats[0].iter().flatten().copied().collect();
    let paths = saved(folder.path(), &held_out(Kind::Dots));
    detector.calibrate_files("dots", &paths, trained.clone(), |_, read| read).unwrap();
    let held_out = detector.calibration().images(Some("dots"));
    assert_eq!((held_out.len(), trained.len()), (7, 9));
    let scored = &detector.score(&tested()[..1]).unwrap()[0];
    let of = |f: fn(&ImageStats) -> f32| {
        let of = |images: &[ImageStats]| moments(images, |s| f(s).into());
        let ((mean, a), (_, b)) = (of(&held_out), of(&trained));
        (mean, ((6.0 * a * a + 8.0 * b * b) / 14.0).sqrt())
    };
    let (mean, std) = of(|s| s.block);
    close(scored.score, (f64::from(scored.stats.block) - mean) / std);
    let bound = Moments { mean: 0.0, std: 1.0, count: 7 }.bound(3.0);
    close(scored.threshold, bound);
    let (mean, std) = of(|s| s.top5);
    assert!((f64::from(scored.map_threshold) - (mean + bound * std)).abs() < 1e-4);
    let high = 2.0 * (mean + 3.0 * std);
    assert!((f64::from(scored.map_range.1) - high).abs() < 1e-4 && scored.map_range.0 == 0.0);
}
