use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use invad::baselines::{Baseline, Padim};
use invad::checkpoint::{ImageStats, Recipe, TrainingState};
use invad::data::{Dataset, DefectKind, Mask, load_image, paint_defect};
use invad::detect::{Evaluated, ScoreOptions};
use invad::metrics::{AnnotatedMap, FPR_LIMIT, Metrics, pixel_metrics};
use invad::train::{Resources, hold_out};
use invad::{
    Comparison, Control, DType, Detector, Device, Error, Event, FitOptions, Fitted, fit, ops,
};
use tempfile::{TempDir, tempdir};

use crate::support::networks::*;
use crate::support::numbers;

/// Good pictures of both kinds: 18 dots, 6 stripes.
fn data() -> TempDir {
    let folder = tempdir().unwrap();
    for (name, kind, count) in [("dots", Kind::Dots, 18), ("stripes", Kind::Stripes, 6)] {
        let good = folder.path().join(name).join("train/good");
        fs::create_dir_all(&good).unwrap();
        for seed in 0..count {
            picture(kind, seed, 32, 32).save(good.join(format!("{seed:02}.png"))).unwrap();
        }
    }
    folder
}

fn open(folder: &TempDir) -> Dataset {
    Dataset::open(folder.path(), &[]).unwrap()
}

fn options(state: Option<&Path>) -> FitOptions {
    FitOptions::default()
        .recipe(Recipe::whitened().batch(2))
        .steps(Some(6))
        .seed(3)
        .state(state.map(Into::into))
}

#[derive(Default, Debug, PartialEq)]
struct Seen {
    features: Vec<(usize, usize)>,
    steps: Vec<(u64, u64)>,
    calibration: Vec<(usize, usize)>,
    comparison: Vec<(usize, usize)>,
    compared: Vec<Comparison>,
    unreadable: Vec<String>,
    warnings: Vec<String>,
}

/// Fits, stopping after `stop` steps.
fn run(dataset: &Dataset, options: &FitOptions, stop: u64) -> (invad::Result<Fitted>, Seen) {
    let mut seen = Seen::default();
    let fitted = fit(dataset, options, |event| {
        match event {
            Event::Plan { .. } => {}
            Event::Features { done, total } => seen.features.push((done, total)),
            Event::Step { report, total } => seen.steps.push((report.step, total)),
            Event::Calibration { done, total } => seen.calibration.push((done, total)),
            Event::Comparison { done, total } => seen.comparison.push((done, total)),
            Event::Compared(comparison) => seen.compared.push(comparison.clone()),
            Event::Unreadable(e) => seen.unreadable.push(e.to_string()),
            Event::Warning(w) => seen.warnings.push(w.into()),
            other => panic!("{other:?}"),
        }
        match seen.steps.last() {
            Some((step, _)) if *step >= stop => Control::Stop,
            _ => Control::Continue,
        }
    });
    (fitted, seen)
}

fn file(fitted: Fitted) -> Vec<u8> {
    let Fitted::Detector(detector) = fitted else { panic!("stopped") };
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    detector.save(&path).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn stopped_and_resumed_is_the_same_detector() {
    let folder = data();
    let dataset = open(&folder);
    let (fitted, seen) = run(&dataset, &options(None), u64::MAX);
    // 18 images: 8 held out, 6 images: a quarter, at least 2.
    assert_eq!(seen.features, (1..=14).map(|done| (done, 14)).collect::<Vec<_>>());
    assert_eq!(seen.steps, (1..=6).map(|step| (step, 6)).collect::<Vec<_>>());
    // With all of them, and the 10 held out with six defects each and without, at two timesteps; then with
    // all of them together.
    assert_eq!(seen.calibration.last(), Some(&(212, 212)));
    // Simpler methods are fitted to the 14, and judge what was painted into the 10 as well.
    let seen_by_others: Vec<_> =
        (1..=10).chain([66, 67, 68, 69, 70, 84]).map(|n| (n, 84)).collect();
    assert_eq!(seen.comparison, seen_by_others);
    assert!(seen.unreadable.is_empty());
    assert_eq!(seen.warnings.len(), 1);
    assert!(seen.warnings[0].contains("category `stripes` has 6 good images"));
    let whole = file(fitted.unwrap());

    let path = folder.path().join("state");
    let (stopped, seen) = run(&dataset, &options(Some(&path)), 4);
    assert!(matches!(stopped.unwrap(), Fitted::Stopped(4)));
    assert_eq!(seen.steps.len(), 4);
    assert_eq!(TrainingState::load(&path).unwrap().step, 4);
    let resume = options(Some(&path)).resume(true);
    let (resumed, seen) = run(&dataset, &resume, u64::MAX);
    assert_eq!(seen.steps, [(5, 6), (6, 6)]);
    assert!(file(resumed.unwrap()) == whole);
    // A run that is done is calibrated again, without a step.
    let (done, seen) = run(&dataset, &resume, u64::MAX);
    assert!(seen.steps.is_empty());
    assert!(file(done.unwrap()) == whole);
}

/// What an event is, where there are several kinds.
fn kind(event: &Event) -> &'static str {
    match event {
        Event::Warning(_) => "warning",
        Event::Features { .. } => "features",
        Event::Unreadable(_) => "unreadable",
        Event::Plan { .. } => "plan",
        Event::Step { .. } => "step",
        Event::Calibration { done, total } if done == total => "calibrated",
        Event::Calibration { .. } => "calibration",
        Event::Comparison { .. } => "comparison",
        Event::Compared(_) => "compared",
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stop_at_any_event_goes_on_to_the_same_detector() {
    let folder = data();
    for i in &hold_out(18, 0, 3).train[..2] {
        let path = folder.path().join(format!("dots/train/good/{i:02}.png"));
        fs::write(path, "this is no image").unwrap();
    }
    let dataset = open(&folder);
    let whole = file(run(&dataset, &options(None), u64::MAX).0.unwrap());
    let path = folder.path().join("state");
    let stop_at = |at: &str, resume: bool| {
        let mut after = 0;
        let fitted = fit(&dataset, &options(Some(&path)).resume(resume), |event| {
            after += usize::from(after > 0);
            if kind(&event) == at {
                after += usize::from(after == 0);
                return Control::Stop;
            }
            Control::Continue
        });
        // Those of a batch come one after the other, but nothing after the one that stops.
        assert_eq!(after, 1, "{at}");
        fitted.unwrap()
    };
    let stops = [
        ("warning", 0),
        ("features", 0),
        ("unreadable", 0),
        ("plan", 0),
        ("step", 1),
        ("warning", 1),
        ("plan", 1),
        ("calibration", 6),
        ("calibrated", 6),
        ("comparison", 6),
    ];
    let mut done = 0;
    for (at, steps) in stops {
        let fitted = stop_at(at, done > 0);
        assert!(matches!(fitted, Fitted::Stopped(n) if n == steps), "{at}: {fitted:?}");
        assert_eq!(path.exists(), steps > 0, "{at}");
        done = steps;
    }
    // Then it is done, and to stop is to finish.
    let mut seen = Vec::new();
    let fitted = fit(&dataset, &options(Some(&path)).resume(true), |event| {
        seen.push(kind(&event));
        if seen.contains(&"compared") { Control::Stop } else { Control::Continue }
    });
    assert!(!seen.contains(&"step") && seen.contains(&"compared"));
    assert!(file(fitted.unwrap()) == whole);
}

#[test]
fn a_calibration_that_is_stopped_is_done_again() {
    let folder = data();
    let dataset = open(&folder);
    let calibrated = |stops: &[usize]| {
        let (fitted, _) = run(&dataset, &options(None).compare(false), u64::MAX);
        let Fitted::Detector(mut detector) = fitted.unwrap() else { panic!("stopped") };
        detector.set_evaluations(2).unwrap();
        for &stop in stops {
            let mut seen = 0;
            let control = invad::calibrate(&mut detector, &dataset, |_| {
                seen += 1;
                if seen == stop { Control::Stop } else { Control::Continue }
            });
            assert_eq!((control.unwrap(), seen), (Control::Stop, stop));
        }
        let control = invad::calibrate(&mut detector, &dataset, |_| Control::Continue);
        assert_eq!(control.unwrap(), Control::Continue);
        file(Fitted::Detector(detector))
    };
    assert!(calibrated(&[]) == calibrated(&[1, 19, 24]));
}

#[test]
fn calibrates_every_category() {
    let folder = data();
    let (fitted, _) = run(&open(&folder), &options(None), u64::MAX);
    let Fitted::Detector(detector) = fitted.unwrap() else { panic!("stopped") };
    let held_out: Vec<_> =
        detector.calibration().categories.iter().map(|(name, i)| (&name[..], i.len())).collect();
    assert_eq!(held_out, [("dots", 8), ("stripes", 2)]);
    let trained = &detector.calibration().trained;
    assert_eq!((trained["dots"].len(), trained["stripes"].len()), (10, 4));
    let config = detector.config();
    assert_eq!((config.images, config.steps, config.seed), (14, 6, 3));
    assert_eq!(config.categories, ["dots", "stripes"]);
    let options = ScoreOptions::default().category(Some("dots".into()));
    let scored = detector.score_with(&pictures(Kind::Dots, 50..52), &options).unwrap();
    assert!(scored.iter().all(|s| s.score.is_finite()));
}

#[test]
fn images_that_cannot_be_read() {
    let folder = data();
    let good = folder.path().join("dots/train/good");
    for name in ["03.png", "07.png", "11.png"] {
        fs::write(good.join(name), "this is no image").unwrap();
    }
    let (fitted, seen) = run(&open(&folder), &options(None), u64::MAX);
    let Fitted::Detector(detector) = fitted.unwrap() else { panic!("stopped") };
    assert_eq!(seen.unreadable.len(), 3, "{:?}", seen.unreadable);
    assert!(seen.unreadable.iter().all(|e| e.contains("dots/train/good")));
    assert_eq!(seen.features.len(), 14, "each file counts");
    let held_out = detector.calibration().categories["dots"].len();
    assert_eq!(detector.config().images + held_out, 14 + 8 - 3);
    // Enough files, but too few images.
    assert!(held_out < 8);
    let doubt = format!(
        "the threshold of category `dots` cannot be relied on: it rests on {held_out} held-out images"
    );
    assert!(seen.warnings.iter().any(|w| w.starts_with(&doubt)), "{:?}", seen.warnings);

    for file in fs::read_dir(&good).unwrap() {
        fs::write(file.unwrap().path(), "this is no image").unwrap();
    }
    let (fitted, seen) = run(&open(&folder), &options(None), u64::MAX);
    let error = fitted.err().unwrap();
    let want = "category `dots`: no image to train on can be read";
    assert!(matches!(&error, Error::Dataset { reason, .. } if reason == want), "{error}");
    assert!(seen.unreadable.len() == 10 && seen.calibration.is_empty(), "before training");
    fs::remove_dir_all(folder.path().join("stripes")).unwrap();
    let (fitted, _) = run(&open(&folder), &options(None), u64::MAX);
    let error = fitted.err().unwrap().to_string();
    assert!(error.ends_with("none of the images to train on can be read"), "{error}");
}

#[test]
fn runs_that_cannot_start() {
    let folder = data();
    let dataset = open(&folder);
    let path = folder.path().join("state");
    run(&dataset, &options(Some(&path)), 2).0.unwrap();
    let resume = || options(Some(&path)).resume(true);
    // Before features are computed.
    let refused = |options: FitOptions| {
        let (fitted, seen) = run(&dataset, &options, u64::MAX);
        assert_eq!(seen.features, []);
        fitted.err().unwrap()
    };
    let seed = refused(resume().seed(4)).to_string();
    assert!(seed.starts_with("resume: `seed` should be 3, as"), "{seed}");
    let steps = refused(resume().steps(Some(7))).to_string();
    assert!(steps.starts_with("resume: `steps` should be 6, as"), "{steps}");
    let recipe = refused(resume().recipe(Recipe::whitened()));
    let says =
        "resume: `recipe` should be batch 2, as when the training state was saved, got batch 8";
    assert_eq!(recipe.to_string(), says);
    for (resources, setting) in [
        (Resources::default().micro_batch(Some(0)), "micro_batch"),
        (Resources::default().moments(DType::BF16), "moments"),
    ] {
        let error = refused(options(None).resources(resources));
        assert!(matches!(error, Error::Argument { arg, .. } if arg == setting), "{error}");
    }
    let steps = refused(options(None).steps(Some(1 << 31)));
    assert!(matches!(steps, Error::Argument { arg: "steps", .. }), "{steps}");
    let nowhere = refused(resume().state(None));
    assert!(nowhere.to_string().starts_with("fit: `resume` should be with the file"), "{nowhere}");
    let none = refused(resume().state(Some(folder.path().join("none"))));
    assert!(matches!(none, Error::Io { .. }), "{none}");
    let recipe = Recipe::paper().batch(0);
    let batch = refused(options(None).recipe(recipe).steps(None));
    assert!(matches!(batch, Error::Argument { arg: "batch", .. }), "{batch}");

    fs::remove_file(folder.path().join("dots/train/good/00.png")).unwrap();
    let data = run(&open(&folder), &resume(), u64::MAX).0.err().unwrap();
    assert!(matches!(data, Error::Argument { arg: "data", .. }), "{data}");
    for entry in fs::read_dir(folder.path().join("stripes/train/good")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let empty = run(&open(&folder), &options(None), u64::MAX).0.err().unwrap().to_string();
    assert!(empty.contains("category `stripes` has no good images"), "{empty}");
}

#[test]
fn learns_a_prior_where_the_recipe_has_one() {
    let folder = tempdir().unwrap();
    for seed in 0..24 {
        let path = folder.path().join(format!("{seed}.png"));
        picture(Kind::Dots, seed, 32, 32).save(path).unwrap();
    }
    let dataset = open(&folder);
    let category = &dataset.categories()[0];
    for recipe in [Recipe::whitened(), Recipe::paper()] {
        let options = options(None).recipe(recipe).steps(Some(2));
        let (fitted, seen) = run(&dataset, &options, u64::MAX);
        // Each timestep scores the eight images that are held out, with six synthetic defects each and without.
        let timesteps = if options.recipe.prior { 2 } else { 1 };
        let total = timesteps * (24 + 7 * 8) + 24;
        assert_eq!(seen.calibration.last(), Some(&(total, total)));
        assert!(seen.calibration.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let Fitted::Detector(detector) = fitted.unwrap() else { panic!("stopped") };
        assert_eq!(detector.prior().is_some(), options.recipe.prior);
        let (name, trained) = detector.calibration().trained.first_key_value().unwrap();
        assert_eq!((name, trained.len()), (&category.name, 16));
        let split = hold_out(24, 0, options.seed);
        let images = split.train.iter().map(|&i| load_image(&category.train()[i]).unwrap());
        let scored = detector.score(&images.collect::<Vec<_>>()).unwrap();
        let stats =
            |of: &[ImageStats], f: fn(&ImageStats) -> f32| -> f32 { of.iter().map(f).sum() };
        let scored: Vec<_> = scored.iter().map(|s| s.stats).collect();
        if options.recipe.prior {
            // Held against the others each image is less normal than held against itself and them.
            assert!(stats(trained, |s| s.top5) > 1.1 * stats(&scored, |s| s.top5));
            assert_eq!(stats(trained, |s| s.abs), stats(&scored, |s| s.abs));
        } else {
            assert_eq!(&scored, trained);
        }
    }
}

/// A category's held-out images as large as the backbone takes them, and with the six synthetic defects each.
fn held_out_and_painted(
    dataset: &Dataset,
    category: usize,
) -> (Vec<RgbImage>, Vec<RgbImage>, Vec<Mask>) {
    let files = &dataset.categories()[category].train();
    let seed = options(None).seed;
    let held_out = hold_out(files.len(), category as u64, seed).held_out;
    let normal: Vec<_> = held_out
        .iter()
        .map(|&i| {
            let mut pixels = vec![0; 256 * 256 * 3];
            let image = load_image(&files[i]).unwrap();
            ops::resize_antialias(image.as_raw(), [32; 2], &mut pixels, [256; 2]).unwrap();
            RgbImage::from_raw(256, 256, pixels).unwrap()
        })
        .collect();
    let painted = (0..6 * normal.len())
        .map(|i| paint_defect(&normal[i / 6], DefectKind::ALL[i % 6], seed, i as u64).unwrap());
    let (painted, masks) = painted.unzip();
    (normal, painted, masks)
}

/// A detector that has learnt from the images trained on alone, and is calibrated with the others.
fn apart(detector: &Detector, dataset: &Dataset) -> Detector {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    detector.save(&path).unwrap();
    let mut detector = Detector::load(&path).unwrap();
    let split = dataset.categories().iter().enumerate().map(|(i, category)| {
        let split = hold_out(category.train().len(), i as u64, options(None).seed);
        let files =
            |of: Vec<usize>| of.into_iter().map(|i| category.train()[i].path.clone()).collect();
        (category.name.clone(), files(split.train), files(split.held_out))
    });
    let split: Vec<(String, Vec<PathBuf>, Vec<PathBuf>)> = split.collect();
    let trained: Vec<_> = split.iter().map(|(name, t, _)| (name.clone(), t.clone())).collect();
    let stats = detector.learn_prior(&trained, |_, read| read).unwrap();
    for ((name, _, held_out), stats) in split.iter().zip(stats) {
        let stats = stats.into_iter().flatten().collect();
        detector.calibrate_files(name, held_out, stats, |_, read| read).unwrap();
    }
    detector
}

/// The share of pairs in which the defect scores higher, in percent.
fn auroc(normal: &[f64], defects: &[f64]) -> f64 {
    let pairs = normal.iter().flat_map(|n| defects.iter().map(move |d| (n, d)));
    let wins: f64 = pairs
        .map(|(n, d)| {
            if d > n {
                1.0
            } else if d == n {
                0.5
            } else {
                0.0
            }
        })
        .sum();
    100.0 * wins / (normal.len() * defects.len()) as f64
}

#[test]
fn simpler_methods_beside_the_detector() {
    let folder = data();
    let dataset = open(&folder);
    let (fitted, seen) = run(&dataset, &options(None), u64::MAX);
    let Fitted::Detector(detector) = fitted.unwrap() else { panic!("stopped") };
    let detector = apart(&detector, &dataset);
    let [comparison] = &seen.compared[..] else { panic!("{}", seen.compared.len()) };
    let backbone = lite0(Device::Cpu);
    let features = |images: &[RgbImage]| {
        let mut features = numbers::poisoned(&backbone.spec().features().of(images.len()));
        backbone.extract(images, &mut features, &mut Default::default()).unwrap();
        features
    };
    let near =
        |got: Option<f64>, want: f64| assert!((got.unwrap() - want).abs() < 1e-9, "{got:?} {want}");
    for (i, category) in dataset.categories().iter().enumerate() {
        let name = &category.name;
        let (normal, painted, _) = held_out_and_painted(&dataset, i);
        let options = ScoreOptions::default().category(Some(name.clone()));
        let score = |images: &[RgbImage]| -> Vec<f64> {
            detector.score_with(images, &options).unwrap().iter().map(|s| s.score).collect()
        };
        assert_eq!(comparison.images[name], normal.len());
        let own = &comparison.detector.categories[name];
        near(own.image_auroc, auroc(&score(&normal), &score(&painted)));
        assert!(own.au_pro.is_some());
        let split = hold_out(category.train().len(), i as u64, 3);
        let trained = split.train.iter().map(|&i| load_image(&category.train()[i]).unwrap());
        let padim = Padim::fit(&features(&trained.collect::<Vec<_>>())).unwrap();
        let score = |images: &[RgbImage]| -> Vec<f64> {
            padim.maps(&features(images)).unwrap().iter().map(Padim::score).collect()
        };
        let of_padim = &comparison.baselines.padim.categories[name];
        near(of_padim.image_auroc, auroc(&score(&normal), &score(&painted)));
    }

    // The user is told where the detector is behind, beyond chance.
    let with = |images, better: f64| {
        let mut comparison = comparison.clone();
        let of =
            |value| Metrics { image_auroc: Some(value), au_pro: Some(70.0), ..Default::default() };
        let all = |value| Evaluated::new([("nut".to_string(), of(value))].into());
        comparison.images = [("nut".to_string(), images)].into();
        comparison.detector = all(80.0);
        comparison.baselines.padim = all(80.0 + better);
        comparison.baselines.nearest_neighbour = all(60.0);
        comparison.warnings()
    };
    assert!(with(8, 3.5).is_empty() && with(8, -9.0).is_empty());
    assert!(with(7, 4.5).is_empty(), "too few images to tell");
    let [warning] = &with(8, 4.5)[..] else { panic!("a warning") };
    let text = "`nut`: PaDiM finds synthetic defects better than the detector does, in the mean of image AUROC \
                (84.5 against 80.0) and AU-PRO (70.0 against 70.0)";
    assert!(warning.contains(text), "{warning}");
}

/// Of the candidates it is the first, or a later one at which synthetic defects stand out more.
#[test]
fn the_timestep_is_chosen() {
    let folder = data();
    let dataset = open(&folder);
    let with = |candidates: &[usize]| {
        let recipe = options(None).recipe.candidates(candidates.into());
        let (fitted, _) = run(&dataset, &options(None).recipe(recipe), u64::MAX);
        let Fitted::Detector(detector) = fitted.unwrap() else { panic!("stopped") };
        detector
    };
    // The mean score of all defects, and the mean of the categories' AU-PRO.
    let told = |detector: &Detector| {
        let (mut scores, mut pros) = (Vec::new(), Vec::new());
        for (i, category) in dataset.categories().iter().enumerate() {
            let options = ScoreOptions::default().category(Some(category.name.clone()));
            let (normal, painted, masks) = held_out_and_painted(&dataset, i);
            let scored = detector.score_with(&[&normal[..], &painted].concat(), &options).unwrap();
            scores.extend(scored[normal.len()..].iter().map(|s| s.score));
            let none = vec![false; 256 * 256];
            let maps: Vec<_> = scored.iter().map(|s| s.map.resize(256, 256).unwrap()).collect();
            let masks = normal.iter().map(|_| &none[..]).chain(masks.iter().map(Mask::pixels));
            let annotated = |(map, mask)| AnnotatedMap { map, mask, width: 256, height: 256 };
            let maps: Vec<_> = maps.iter().map(Vec::as_slice).zip(masks).map(annotated).collect();
            pros.push(pixel_metrics(&maps, FPR_LIMIT).unwrap().au_pro.unwrap());
        }
        let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
        (mean(&scores), mean(&pros))
    };
    let times = [60, 350];
    let [low, high] = times.map(|t| told(&apart(&with(&[t]), &dataset)));
    assert!((low.0 - high.0).abs() > 1e-3 && (low.1 - high.1).abs() > 1e-5, "{low:?} {high:?}");
    for (candidates, [first, second]) in [([60, 350], [low, high]), ([350, 60], [high, low])] {
        let chosen = with(&candidates);
        let better = second.0 > first.0 && second.1 > first.1;
        let best = candidates[usize::from(better)];
        assert_eq!(chosen.config().recipe.single_timestep, best, "{first:?} {second:?}");
        let alone = with(&[best]);
        assert_eq!(chosen.calibration(), alone.calibration());
        let images = [picture(Kind::Dots, 90, 32, 32), defective(Kind::Stripes, 91, 40, 32)];
        assert_eq!(chosen.score(&images).unwrap(), alone.score(&images).unwrap());
    }
}

/// Down to a single image there is a detector that scores, with a warning below 16.
#[test]
fn few_images() {
    for (count, trained, held_out) in
        [(1, 1, 1), (2, 1, 1), (3, 2, 1), (4, 2, 2), (5, 3, 2), (12, 9, 3), (16, 8, 8)]
    {
        let folder = tempdir().unwrap();
        for seed in 0..count {
            picture(Kind::Dots, seed, 32, 32)
                .save(folder.path().join(format!("{seed}.png")))
                .unwrap();
        }
        let options = options(None).steps(Some(2));
        let (fitted, seen) = run(&open(&folder), &options, u64::MAX);
        let Fitted::Detector(detector) = fitted.unwrap() else { panic!("stopped") };
        assert_eq!(seen.warnings.len(), usize::from(count < 16), "{count}");
        assert_eq!(detector.config().images, trained, "{count}");
        assert_eq!(detector.calibration().images(None).len(), held_out, "{count}");
        let doubt = detector.calibration().doubt(None);
        assert_eq!(doubt.is_some(), count < 16, "{count}");
        let itself = doubt.is_some_and(|doubt| doubt.contains("images that were trained on"));
        assert_eq!(itself, count == 1, "{count}");
        for scored in detector.score(&pictures(Kind::Stripes, 0..2)).unwrap() {
            assert!(scored.score.is_finite() && scored.threshold.is_finite(), "{count}");
            assert!(scored.threshold > 0.0 && scored.map_threshold.is_finite(), "{count}");
        }
    }
}
