use std::fs;
use std::path::Path;

use image::{GrayImage, Luma, RgbImage};
use invad::data::{Dataset, Sample};
use invad::detect::{self, BestThreshold, Evaluated, Evaluation, ScoreOptions};
use invad::metrics::{self, Metrics};
use invad::{Error, detect::ImageResult};
use serde_json::Value;
use tempfile::tempdir;

use crate::support::networks::*;

const METRICS: [&str; 11] = [
    "au_pro",
    "aupimo",
    "false_alarm_rate",
    "image_ap",
    "image_auroc",
    "image_f1_max",
    "mad",
    "pixel_ap",
    "pixel_auroc",
    "pixel_f1_max",
    "recall",
];

/// What only images with masks have.
const PIXELS: [&str; 4] = ["au_pro", "pixel_ap", "pixel_auroc", "pixel_f1_max"];

fn put(root: &Path, name: &str, image: &RgbImage) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.save(path).unwrap();
}

/// A category with masks (`dots`), one without (`stripes`).
fn data(root: &Path) {
    for (name, kind) in [("dots", Kind::Dots), ("stripes", Kind::Stripes)] {
        for seed in 0..3 {
            let good = picture(kind, 500 + seed, 48, 40);
            put(root, &format!("{name}/test/good/{seed}.png"), &good);
            let bad = defective(kind, 600 + seed, 48, 40);
            put(root, &format!("{name}/test/square/{seed}.png"), &bad);
            if name == "dots" {
                let inside = |x, y| (24..36).contains(&x) && (10..22).contains(&y);
                let mask = |x, y| Luma([if inside(x, y) { 255 } else { 0 }]);
                let mask = GrayImage::from_fn(48, 40, mask);
                let path = root.join(format!("dots/ground_truth/square/{seed}_mask.png"));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                mask.save(path).unwrap();
            }
        }
    }
}

/// Category, whether defective, score, threshold.
type Seen = (String, bool, f64, f64);

/// Evaluates, and returns the metrics, what `each` saw and what could not be read.
fn evaluate(root: &Path) -> (Evaluation, Vec<Seen>, Vec<Error>) {
    let dataset = Dataset::open(root, &[]).unwrap();
    let (mut seen, mut unreadable) = (Vec::new(), Vec::new());
    let each = |test: &Sample, result: invad::Result<ImageResult>| {
        let r = match result {
            Ok(r) => r,
            Err(e) => {
                unreadable.push(e);
                return Ok(());
            }
        };
        assert_eq!(r.test, test);
        assert_eq!((r.image.width(), r.image.height()), (48, 40));
        assert_eq!(r.mask.is_some(), r.category == "dots" && r.test.defect.is_some());
        let defect = r.test.defect.is_some();
        seen.push((r.category.to_string(), defect, r.scored.score, r.scored.threshold));
        Ok(())
    };
    let evaluation = detect::evaluate(detector(), &dataset, &Default::default(), each).unwrap();
    (evaluation, seen, unreadable)
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort();
    keys
}

fn nulls(value: &Value) -> Vec<&str> {
    keys(value).into_iter().filter(|key| value[key].is_null()).collect()
}

#[test]
fn metrics_file() {
    let folder = tempdir().unwrap();
    data(folder.path());
    let (evaluation, seen, unreadable) = evaluate(folder.path());
    assert!(unreadable.is_empty());
    assert_eq!(seen.len(), 12);
    let json = serde_json::to_value(&evaluation).unwrap();
    assert_eq!(keys(&json), ["categories", "mean", "paper", "thresholds"]);
    assert_eq!(keys(&json["paper"]), ["categories", "mean"]);
    for part in [&json, &json["paper"]] {
        assert_eq!(keys(&part["categories"]), ["dots", "stripes"]);
        let calibrated = part == &json;
        for (name, metrics) in [
            ("dots", &part["categories"]["dots"]),
            ("stripes", &part["categories"]["stripes"]),
            ("mean", &part["mean"]),
        ] {
            assert_eq!(keys(metrics), METRICS);
            let mut missing = Vec::new();
            if name == "stripes" {
                missing.extend(PIXELS);
                missing.push("mad");
            }
            // The paper's score has no threshold.
            if !calibrated {
                missing.extend(["false_alarm_rate", "recall"]);
            }
            missing.sort();
            // Of how few normal pixels it can be computed depends on the scores.
            let without = nulls(metrics).into_iter().filter(|key| *key != "aupimo");
            assert_eq!(without.collect::<Vec<_>>(), missing, "{name}");
            for value in metrics.as_object().unwrap().values().filter(|v| !v.is_null()) {
                assert!((0.0..=100.0).contains(&value.as_f64().unwrap()), "{name}: {metrics}");
            }
        }
    }
    let back: Evaluation = serde_json::from_value(json).unwrap();
    assert_eq!(back, evaluation);
}

/// The figures of images from the scores that `each` saw.
#[test]
fn figures_follow_from_the_scores() {
    let folder = tempdir().unwrap();
    data(folder.path());
    let (evaluation, seen, _) = evaluate(folder.path());
    let mut aurocs = Vec::new();
    for (name, got) in &evaluation.calibrated.categories {
        let of = || seen.iter().filter(|(category, ..)| category == name);
        let scores: Vec<f64> = of().map(|s| s.2).collect();
        let labels: Vec<bool> = of().map(|s| s.1).collect();
        let pairs = |f: fn(f64, f64) -> f64| -> f64 {
            let bad = || scores.iter().zip(&labels).filter(|(_, l)| **l).map(|(s, _)| *s);
            let good = || scores.iter().zip(&labels).filter(|(_, l)| !**l).map(|(s, _)| *s);
            bad().flat_map(|b| good().map(move |g| f(b, g))).sum()
        };
        let wins = pairs(|b, g| {
            if b > g {
                1.0
            } else if b == g {
                0.5
            } else {
                0.0
            }
        });
        aurocs.push(100.0 * wins / 9.0);
        assert!((got.image_auroc.unwrap() - 100.0 * wins / 9.0).abs() < 1e-9);
        let flagged = |label: bool| {
            let flagged = of().filter(|s| s.1 == label && s.2 >= s.3).count();
            Some(100.0 * flagged as f64 / 3.0)
        };
        assert_eq!((got.false_alarm_rate, got.recall), (flagged(false), flagged(true)));
        // Of three good images none may be flagged.
        let most = of().filter(|s| !s.1).map(|s| s.2).fold(f64::NEG_INFINITY, f64::max);
        let found: Vec<_> = of().filter(|s| s.1 && s.2 > most).map(|s| s.2).collect();
        let best = evaluation.thresholds.get(name);
        assert_eq!(best.is_some(), !found.is_empty());
        if let Some(best) = best {
            assert_eq!(best.score, found.iter().copied().fold(f64::INFINITY, f64::min));
            assert_eq!(best.false_alarm_rate, 0.0);
            assert_eq!(best.recall, 100.0 * found.len() as f64 / 3.0);
            assert_eq!((best.good, best.defective), (3, 3));
        }
    }
    let mean = aurocs.iter().sum::<f64>() / 2.0;
    assert!((evaluation.calibrated.mean.image_auroc.unwrap() - mean).abs() < 1e-9);
    // A figure that one category lacks is the mean of the others.
    let dots = &evaluation.calibrated.categories["dots"];
    assert_eq!(evaluation.calibrated.mean.au_pro, dots.au_pro);
    assert!(dots.pixel_auroc.unwrap() > 80.0, "{dots:?}");
}

/// A user is told of a threshold that would have been much better, and how it was found.
#[test]
fn advice_where_the_threshold_is_bad() {
    let with = |good: usize, false_alarms: f64, recall: f64| {
        let own = Metrics {
            false_alarm_rate: Some(false_alarms),
            recall: Some(recall),
            ..Metrics::default()
        };
        let evaluated = Evaluated::new([("nut".to_string(), own)].into());
        let best = BestThreshold {
            score: 1.239,
            false_alarm_rate: 4.0,
            recall: 80.0,
            good,
            defective: 30,
        };
        let thresholds = [("nut".to_string(), best)].into();
        let (paper, tied) = (evaluated.clone(), Vec::new());
        Evaluation { calibrated: evaluated, paper, thresholds, tied }.advice()
    };
    assert!(with(8, 0.0, 57.0).is_empty() && with(8, 43.0, 100.0).is_empty());
    assert!(with(7, 0.0, 55.0).is_empty(), "too few images to tell");
    assert!(with(8, 50.0, 55.0).len() == 1 && with(8, 5.0, 62.0).is_empty());
    for (false_alarms, recall) in [(0.0, 55.0), (45.0, 100.0)] {
        let [advice] = &with(8, false_alarms, recall)[..] else { panic!("one") };
        let score = "--category nut --threshold-score 1.23 it would be 80 % with 4 %";
        assert!(advice.contains("`nut`") && advice.contains(score), "{advice}");
    }
}

#[test]
fn images_that_cannot_be_read_are_reported_and_left_out() {
    let folder = tempdir().unwrap();
    data(folder.path());
    let (whole, _, _) = evaluate(folder.path());
    let broken = folder.path().join("dots/test/square/000.png");
    fs::write(&broken, "this is no image").unwrap();
    let (evaluation, seen, unreadable) = evaluate(folder.path());
    assert_eq!((seen.len(), unreadable.len()), (12, 1));
    assert!(matches!(&unreadable[0], Error::Image { path, .. } if *path == broken));
    assert_eq!(evaluation, whole);

    // Nor one whose mask is damaged.
    let mask = folder.path().join("dots/ground_truth/square/1_mask.png");
    fs::write(&mask, "this is no mask").unwrap();
    let (_, seen, unreadable) = evaluate(folder.path());
    assert_eq!((seen.len(), unreadable.len()), (11, 2));
}

#[test]
fn categories_without_anomalies_or_images() {
    let folder = tempdir().unwrap();
    data(folder.path());
    fs::remove_dir_all(folder.path().join("dots/test/square")).unwrap();
    let (evaluation, _, _) = evaluate(folder.path());
    let json = serde_json::to_value(&evaluation).unwrap();
    let only = &json["categories"]["dots"];
    let known: Vec<_> = keys(only).into_iter().filter(|key| !only[key].is_null()).collect();
    assert_eq!(known, ["false_alarm_rate"]);

    let dataset = || Dataset::open(folder.path(), &[]).unwrap();
    let run = |dataset: &Dataset| {
        let each = |_: &Sample, _: invad::Result<ImageResult>| Ok(());
        detect::evaluate(detector(), dataset, &Default::default(), each).unwrap_err().to_string()
    };
    for i in 0..3 {
        fs::write(folder.path().join(format!("dots/test/good/{i}.png")), "no image").unwrap();
    }
    let message = run(&dataset());
    assert!(message.contains("category `dots` has no readable test images"), "{message}");
}

/// A category that the detector does not know is scored with all its held-out images.
#[test]
fn other_categories_are_pooled() {
    let folder = tempdir().unwrap();
    data(folder.path());
    fs::rename(folder.path().join("dots"), folder.path().join("others")).unwrap();
    let dataset = Dataset::open(folder.path(), &[]).unwrap();
    let mut scores = Vec::new();
    let each = |_: &Sample, result: invad::Result<ImageResult>| {
        let r = result.unwrap();
        let options =
            ScoreOptions::default().category((r.category == "stripes").then(|| "stripes".into()));
        let alone = detector().score_with(std::slice::from_ref(&r.image), &options).unwrap();
        assert_eq!(alone[0], r.scored);
        scores.push(r.scored.score);
        Ok(())
    };
    detect::evaluate(detector(), &dataset, &Default::default(), each).unwrap();
    assert_eq!(scores.len(), 12);
}

#[test]
fn the_paper_protocol() {
    let folder = tempdir().unwrap();
    data(folder.path());
    let dataset = Dataset::open(folder.path(), &[]).unwrap();
    let (mut abs, mut nll, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    let each = |_: &Sample, result: invad::Result<ImageResult>| {
        let r = result.unwrap();
        if r.category == "dots" {
            abs.push(f64::from(r.scored.stats.abs));
            nll.push(r.scored.stats.nll);
            labels.push(r.test.defect.is_some());
        }
        Ok(())
    };
    let evaluation = detect::evaluate(detector(), &dataset, &Default::default(), each).unwrap();
    let range = |v: &[f64]| -> Vec<f64> {
        let min = v.iter().copied().fold(f64::MAX, f64::min);
        let max = v.iter().copied().fold(f64::MIN, f64::max);
        v.iter().map(|v| (v - min) / (max - min + 1e-8)).collect()
    };
    let scores: Vec<f64> = range(&abs).iter().zip(range(&nll)).map(|(a, n)| a + n).collect();
    let want = metrics::Metrics::from_images(&scores, &labels, None).unwrap();
    let got = evaluation.paper.categories["dots"];
    assert_eq!(
        (got.image_auroc, got.image_ap, got.image_f1_max),
        (want.image_auroc, want.image_ap, want.image_f1_max)
    );
}

/// A network that returns zeros finds no image more anomalous than another: figures of images say nothing, and it is said.
#[test]
fn equal_scores_are_told() {
    let folder = tempdir().unwrap();
    data(folder.path());
    let dataset = Dataset::open(folder.path(), &["dots".into()]).unwrap();
    let [_, paper] = recipes();
    let evaluated = |fill: Option<f32>| {
        let mut checkpoint = checkpoint(paper.clone(), 3);
        if let Some(value) = fill {
            checkpoint.ema.view_mut().fill(value).unwrap();
        }
        let mut detector = invad::Detector::new(checkpoint).unwrap();
        detector.calibrate("dots", &pictures(Kind::Dots, 0..3), &[]).unwrap();
        detect::evaluate(&detector, &dataset, &ScoreOptions::default(), |_, _| Ok(())).unwrap()
    };
    let tied = evaluated(Some(0.0));
    assert_eq!(tied.calibrated.categories["dots"].image_auroc, Some(50.0));
    assert_eq!(tied.tied, ["dots"]);
    let [advice] = &tied.advice()[..] else { panic!("one: {:?}", tied.advice()) };
    for part in ["category `dots`: all scores are equal", "train with more steps", "--score"] {
        assert!(advice.contains(part), "{advice}");
    }
    let told = evaluated(None);
    assert!(told.tied.is_empty() && told.advice().iter().all(|a| !a.contains("equal")));
}
