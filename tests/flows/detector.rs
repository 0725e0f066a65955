use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use image::RgbImage;
use invad::checkpoint::{Checkpoint, ImageStats, Moments};
use invad::detect::{ScoreKind, ScoreOptions, Scored, Threshold};
use invad::diffusion::Inverter;
use invad::nn::{Backbone, Dit, features};
use invad::{Detector, Device, Error, Tensor, ops};
use tempfile::tempdir;

use crate::common::*;
use crate::numbers::poisoned;

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Detector>();
};

/// Good and defective pictures of both kinds and several sizes.
fn tested() -> Vec<RgbImage> {
    let sizes = [(48, 40), (300, 20), (31, 97), (256, 256), (1, 1)];
    let kinds = [Kind::Stripes, Kind::Dots].into_iter().cycle();
    let mut all = Vec::new();
    for (i, ((width, height), kind)) in sizes.into_iter().zip(kinds).enumerate() {
        all.push(picture(kind, 200 + i as u64, width, height));
    }
    all.push(defective(Kind::Stripes, 300, 48, 40));
    all.push(defective(Kind::Dots, 301, 48, 40));
    all
}

/// Image files of a folder.
fn saved(folder: &Path, images: &[RgbImage]) -> Vec<PathBuf> {
    let paths = (0..images.len()).map(|i| folder.join(format!("{i}.png"))).collect::<Vec<_>>();
    images.iter().zip(&paths).for_each(|(image, path)| image.save(path).unwrap());
    paths
}

/// Sixteen images to level maps by.
fn trained_on() -> Vec<RgbImage> {
    [pictures(Kind::Stripes, 0..8), pictures(Kind::Dots, 0..8)].concat()
}

/// A calibrated detector whose maps are levelled.
fn levelled() -> Detector {
    let [whitened, _] = recipes();
    let mut detector = Detector::new(checkpoint(whitened, 3)).unwrap();
    let folder = tempdir().unwrap();
    detector.level_files(&saved(folder.path(), &trained_on()), |_, read| read).unwrap();
    assert!(detector.levels().is_some());
    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    detector
}

fn stat_bits(s: &ImageStats) -> [u32; 5] {
    [s.max, s.abs, s.block, s.top5, s.nll].map(f32::to_bits)
}

/// All bits of what was said of an image.
fn scored_bits(s: &Scored) -> (u64, [u32; 5], Vec<u32>) {
    let map = s.map.values().iter().map(|v| v.to_bits()).collect();
    (s.score.to_bits(), stat_bits(&s.stats), map)
}

fn score(detector: &Detector, images: &[RgbImage]) -> Vec<(u64, [u32; 5], Vec<u32>)> {
    detector.score(images).unwrap().iter().map(scored_bits).collect()
}

#[test]
fn images_do_not_see_each_other() {
    let (detector, images) = (detector(), tested());
    let want: Vec<_> =
        images.iter().map(|i| score(detector, std::slice::from_ref(i)).remove(0)).collect();
    for threads in [1, 2, 3, 16] {
        on_threads(threads, || {
            for at_once in [2, 5, 7] {
                let got = images.chunks(at_once).flat_map(|i| score(detector, i));
                let got: Vec<_> = got.collect();
                assert!(got == want, "{threads} threads, {at_once} at once");
            }
            let reversed: Vec<_> = images.iter().rev().cloned().collect();
            let mut got = score(detector, &reversed);
            got.reverse();
            assert!(got == want, "{threads} threads, reversed");
        });
    }
}

#[test]
fn batch_sizes_do_not_matter() {
    let folder = tempdir().unwrap();
    let (path, images) = (folder.path().join("detector"), tested());
    let paths = saved(folder.path(), &images);
    let detector = levelled();
    detector.save(&path).unwrap();
    let want = score(&detector, &images);
    for size in [1, 2, 3, 7, 1024] {
        let detector = Detector::load(&path).unwrap().with_batch_size(size).unwrap();
        assert_eq!(detector.batch_size(), size);
        for threads in [1, 3] {
            on_threads(threads, || {
                assert!(score(&detector, &images) == want, "{size} at once, {threads} threads");
                let mut got = Vec::new();
                let each = |_: &PathBuf, result: invad::Result<(RgbImage, Scored)>| {
                    got.push(scored_bits(&result?.1));
                    Ok(())
                };
                detector.score_files(&paths, &ScoreOptions::default(), each).unwrap();
                assert!(got == want, "files, {size} at once, {threads} threads");
            });
        }
    }
    for size in [0, 1025] {
        let detector = Detector::load(&path).unwrap();
        assert_eq!(detector.batch_size(), 8);
        let error = detector.with_batch_size(size).err().unwrap().to_string();
        assert_eq!(error, format!("Detector: `batch size` should be in 1..=1024, got {size}"));
    }
}

#[test]
fn scores_from_four_threads_at_once() {
    let (detector, images) = (detector(), tested());
    let want = score(detector, &images);
    thread::scope(|scope| {
        for first in 0..4 {
            let (images, want) = (&images, &want);
            scope.spawn(move || {
                let mut got = Vec::new();
                for images in images[first..].chunks(1 + first % 3) {
                    got.extend(score(detector, images));
                }
                assert!(got == want[first..]);
            });
        }
    });
}

#[test]
fn files_score_as_images_do() {
    let (detector, images) = (detector(), tested());
    let folder = tempdir().unwrap();
    let mut paths = saved(folder.path(), &images);
    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, "this is no image").unwrap();
    paths.insert(3, broken.clone());
    let want = score(detector, &images);
    let (mut got, mut seen, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let each = |path: &PathBuf, result: invad::Result<(RgbImage, Scored)>| {
        seen.push(path.clone());
        match result {
            Ok((image, scored)) => {
                assert_eq!(image, images[got.len()]);
                got.push(scored_bits(&scored));
            }
            Err(e) => refused.push(e),
        }
        Ok(())
    };
    detector.score_files(&paths, &ScoreOptions::default(), each).unwrap();
    assert_eq!(seen, paths);
    assert!(got == want);
    assert_eq!(refused.len(), 1);
    assert!(matches!(&refused[0], Error::Image { path, .. } if *path == broken), "{}", refused[0]);
    assert!(detector.score(&[]).unwrap().is_empty());

    // An error of the caller ends it.
    let mut calls = 0;
    let each = |_: &PathBuf, _: invad::Result<_>| {
        calls += 1;
        if calls == 2 { Err(Error::image("here", "enough")) } else { Ok(()) }
    };
    let error = detector.score_files(&paths, &ScoreOptions::default(), each).unwrap_err();
    assert_eq!((calls, error.to_string().as_str()), (2, "here: enough"));
}

/// Features, whitening, inversion and score, one after another.
fn by_hand(checkpoint: &Checkpoint, image: &RgbImage) -> ([u32; 5], Vec<u32>) {
    let backbone = Backbone::lite0();
    let (c, g) = (backbone.channels(), backbone.grid());
    let mut x = poisoned(&[1, g, g, c]);
    let mut space = features::Workspace::default();
    backbone.extract(std::slice::from_ref(image), &mut x, &mut space).unwrap();
    if let Some(whitening) = &checkpoint.whitening {
        let mut z = poisoned(x.shape());
        whitening.apply(&x, &mut z).unwrap();
        x = z;
    }
    let recipe = &checkpoint.config.recipe;
    let inverter = Inverter::new(
        &Dit::new(checkpoint.config.denoiser).unwrap(),
        &checkpoint.ema,
        recipe.parameterisation,
        recipe.inversion_steps,
        recipe.single_timestep,
        Device::Cpu,
    )
    .unwrap();
    inverter.invert(&mut x, &mut inverter.workspace(1).unwrap()).unwrap();
    let latent: Tensor = x.reshape(&[1, g * g, c]).unwrap();
    let (mut map, mut stats) = (poisoned(&[1, g * g]), poisoned(&[1, ops::SCORE_STATS]));
    ops::score(&latent, &mut map, &mut stats).unwrap();
    let [max, _, abs, top5, nll] = stats.to_vec_f32().try_into().unwrap();
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
        [|s| s.block.into(), |s| s.top5.into(), |s| s.abs.into(), |s| s.nll.into()];
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

#[track_caller]
fn close(got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{got} {want}");
}

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
                let options = ScoreOptions { category, kind, threshold };
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
            let options = ScoreOptions {
                category: Some("dots".into()),
                kind,
                threshold: Threshold::Quantile(quantile),
            };
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
        let options = ScoreOptions { kind, ..Default::default() };
        let scored = detector.score_with(&images[..2], &options).unwrap();
        assert_eq!(scored[0].score, 0.0, "{kind:?}");
        let times = if kind == ScoreKind::Both { 2.0 } else { 1.0 };
        close(scored[0].threshold, times * 3.0 * 2f64.sqrt());
        assert!(scored[1].score.is_finite() && scored[1].score != 0.0);
        let cell = block * (1.0 + 0.05 * 3.0 * 2f64.sqrt());
        close(scored[0].map_threshold.into(), f64::from(cell as f32));
    }
    let doubt = detector.calibration().doubt(Some("dots")).unwrap();
    assert!(doubt.contains("`dots`") && doubt.contains("1 held-out image;"), "{doubt}");
}

#[test]
fn thresholds_that_cannot_be_relied_on() {
    let [whitened, _] = recipes();
    let mut detector = Detector::new(checkpoint(whitened, 2)).unwrap();
    let images = pictures(Kind::Dots, 0..8);
    detector.calibrate("dots", &images[..7], &[]).unwrap();
    detector.calibrate("stripes", &images[..2], &images[..2]).unwrap();
    let doubt = |category| detector.calibration().doubt(category);
    assert!(doubt(Some("dots")).unwrap().contains("7 held-out images; it needs 8"));
    assert!(doubt(Some("stripes")).unwrap().contains("images that were trained on"));
    assert_eq!(doubt(None), None);
    let mut detector = detector;
    detector.calibrate("dots", &images, &[]).unwrap();
    assert_eq!(detector.calibration().doubt(Some("dots")), None);
}

#[test]
fn moments_of_few_or_equal_numbers() {
    let of = |values: &[f64]| Moments::of(values.iter().copied());
    assert_eq!(of(&[1.0, 3.0]), Moments { mean: 2.0, std: 2f64.sqrt(), count: 2 });
    for values in [&[5.0][..], &[5.0; 4], &[0.0; 3]] {
        let moments = of(values);
        assert_eq!(moments.mean, values[0]);
        assert!(moments.std > 0.0 && moments.standardise(values[0]) == 0.0);
        assert!(moments.standardise(values[0] + 1.0) > 1e5);
    }
}

/// √(1 + 1/n) times Student's t of n − 1 degrees of freedom with as much beyond it as a Gaussian has
/// beyond 3 or 2 standard deviations, from tables.
#[test]
fn bounds_allow_for_few_numbers() {
    let bound = |count, d| Moments { mean: 5.0, std: 2.0, count }.bound(d);
    for (count, d, t) in [
        (8, 3.0, 4.5300),
        (20, 3.0, 3.4472),
        (100, 3.0, 3.0775),
        (8, 2.0, 2.4288),
        (20, 2.0, 2.1405),
    ] {
        let want = 5.0 + 2.0 * t * (1.0 + 1.0 / count as f64).sqrt();
        assert!((bound(count, d) - want).abs() < 0.01 * want, "{count} {d}: {}", bound(count, d));
    }
    assert_eq!(bound(8, 0.0), 5.0);
    close(bound(8, -3.0) - 5.0, 5.0 - bound(8, 3.0));
    assert!((bound(1_000_000, 3.0) - 11.0).abs() < 1e-3);
    assert!([0, 1, 2, 3].iter().all(|&few| bound(few, 3.0) == bound(4, 3.0)));
    assert!(bound(8, 1e9).is_finite() && bound(8, -1e9).is_finite());
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
    let options = ScoreOptions { category: Some("dots".into()), ..Default::default() };
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

#[test]
fn categories_and_options_that_cannot_be_used() {
    let images = pictures(Kind::Dots, 0..1);
    let refused = |detector: &Detector, options: ScoreOptions| {
        let error = detector.score_with(&images, &options).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{error}");
        error.to_string()
    };
    let nuts = || ScoreOptions { category: Some("nuts".into()), ..Default::default() };
    let want = "score: `category` should be one of dots, stripes, got nuts";
    assert_eq!(refused(detector(), nuts()), want);
    for threshold in [
        Threshold::Quantile(1.5),
        Threshold::Quantile(f64::NAN),
        Threshold::Score(f64::INFINITY),
        Threshold::StandardDeviations(f64::NAN),
    ] {
        let options = ScoreOptions { threshold, ..Default::default() };
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
    let stripes = ScoreOptions { category: Some("stripes".into()), ..Default::default() };
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
            [stats.max, stats.abs, stats.block, stats.top5, stats.nll]
                .iter()
                .all(|v| v.is_finite())
        );
        assert!(scored.score.is_finite());
        let map = scored.map.resize(width as usize, height as usize).unwrap();
        assert_eq!(map.len(), (width * height) as usize);
        assert!(map.iter().all(|v| (0.0..=stats.max).contains(v)), "{width}×{height}");
    }
    for (width, height) in [(0, 5), (5, 0), (0, 0)] {
        let images = [picture(Kind::Dots, 1, 9, 9), RgbImage::new(width, height)];
        let error = detector().score(&images).unwrap_err();
        assert!(matches!(error, Error::Argument { arg: "images", .. }), "{error}");
    }
    // A refused batch does not spoil the next.
    assert!(score(detector(), &tested()) == score(detector(), &tested()));
}

#[test]
fn a_file_scores_as_what_was_saved() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    for detector in [detector(), &levelled()] {
        detector.save(&path).unwrap();
        let loaded = Detector::load(&path).unwrap();
        assert_eq!(loaded.config(), detector.config());
        assert_eq!(loaded.calibration(), detector.calibration());
        assert_eq!(loaded.levels(), detector.levels());
        assert!(score(&loaded, &tested()) == score(detector, &tested()));
    }
}

/// One detector behind a lock that every thread takes would pass too; that threads do score at the
/// same time is seen by their meeting inside.
#[test]
fn threads_score_at_the_same_time() {
    let folder = tempdir().unwrap();
    let paths = saved(folder.path(), &pictures(Kind::Dots, 0..2));
    let barrier = std::sync::Barrier::new(2);
    let count = Mutex::new(0);
    thread::scope(|scope| {
        for path in &paths {
            let (barrier, count) = (&barrier, &count);
            scope.spawn(move || {
                let each = |_: &&PathBuf, result: invad::Result<_>| {
                    result.map(|_: (RgbImage, Scored)| ()).unwrap();
                    barrier.wait();
                    *count.lock().unwrap() += 1;
                    Ok(())
                };
                detector().score_files(&[path], &ScoreOptions::default(), each).unwrap();
            });
        }
    });
    assert_eq!(count.into_inner().unwrap(), 2);
}

/// Mean and standard deviation of each cell of square maps: of the mean and of the variance, smoothed
/// by a Gaussian of 1 cell that ends after 4, mirrored at the edges.
fn levels_in_f64(maps: &[Vec<f32>], side: usize) -> [Vec<f64>; 2] {
    let n = maps.len() as f64;
    let over = |f: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
        let cell = |i: usize| maps.iter().map(|map| f(i, map[i].into())).sum::<f64>() / n;
        (0..side * side).map(cell).collect()
    };
    let mean = over(&|_, m| m);
    let variance = over(&|i, m| (m - mean[i]).powi(2));
    let mirror = |x: isize| {
        let n = side as isize;
        (if x < 0 { -1 - x } else { x.min(2 * n - 1 - x) }) as usize
    };
    let weight = |x: isize, y: isize| (-0.5 * (x * x + y * y) as f64).exp();
    let smooth = |values: &[f64]| -> Vec<f64> {
        let mut smoothed = Vec::new();
        for i in 0..side * side {
            let (mut sum, mut weights) = (0.0, 0.0);
            for (dy, dx) in (-4..=4).flat_map(|dy| (-4..=4).map(move |dx| (dy, dx))) {
                let (y, x) = ((i / side) as isize + dy, (i % side) as isize + dx);
                sum += weight(dx, dy) * values[mirror(y) * side + mirror(x)];
                weights += weight(dx, dy);
            }
            smoothed.push(sum / weights);
        }
        smoothed
    };
    [smooth(&mean), smooth(&variance).into_iter().map(f64::sqrt).collect()]
}

#[test]
fn levelled_maps_follow_the_training_images() {
    let [whitened, _] = recipes();
    let mut detector = Detector::new(checkpoint(whitened, 3)).unwrap();
    let folder = tempdir().unwrap();
    let (images, trained) = (tested(), trained_on());
    let mut paths = saved(folder.path(), &trained);
    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, "this is no image").unwrap();
    paths.insert(5, broken.clone());

    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    let maps = |detector: &Detector, images: &[RgbImage]| -> Vec<_> {
        detector.score(images).unwrap().into_iter().map(|s| (s.stats, s.map)).collect()
    };
    let normal = maps(&detector, &trained).into_iter().map(|(_, map)| map.values().to_vec());
    let plain = maps(&detector, &images);
    let (mut seen, mut refused) = (Vec::new(), Vec::new());
    let stats = detector
        .level_files(&paths, |path, result| {
            seen.push(path.clone());
            refused.extend(result.err().map(|e| e.to_string()));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, paths);
    assert!(refused.len() == 1 && refused[0].contains("broken.png"), "{refused:?}");
    assert!(detector.calibration().categories.is_empty(), "it is of other maps");

    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    let of_files: Vec<_> = stats.iter().flatten().map(stat_bits).collect();
    let of_images: Vec<_> = maps(&detector, &trained).iter().map(|(s, _)| stat_bits(s)).collect();
    assert!(stats[5].is_none() && of_files == of_images);

    let side = plain[0].1.side();
    let [mean, std] = levels_in_f64(&normal.collect::<Vec<_>>(), side);
    let average = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let mut moved = 0.0f64;
    for ((stats, map), (plain_stats, plain)) in maps(&detector, &images).iter().zip(&plain) {
        let want: Vec<f64> = (0..side * side)
            .map(|i| f64::from(plain.values()[i]) - mean[i])
            .zip(&std)
            .map(|(above, std_of_cell)| average(&mean) + average(&std) * above / std_of_cell)
            .collect();
        for ((&got, &want), &plain) in map.values().iter().zip(&want).zip(plain.values()) {
            assert!((f64::from(got) - want).abs() < 1e-4 * want.abs().max(1.0), "{got} {want}");
            moved = moved.max((f64::from(got) - f64::from(plain)).abs());
        }
        let mut sorted = map.values().to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        assert_eq!((stats.max, stats.block), (sorted[0], map.block()));
        assert!((stats.top5 - sorted[..5].iter().sum::<f32>() / 5.0).abs() < 1e-4);
        assert_eq!((stats.abs, stats.nll), (plain_stats.abs, plain_stats.nll));
    }
    assert!(moved > 1.0, "levelling changes little: {moved}");

    // An error of the caller ends it.
    let enough = |_: &PathBuf, _| Err(Error::image("here", "enough"));
    assert_eq!(detector.level_files(&paths, enough).unwrap_err().to_string(), "here: enough");
    assert!(detector.levels().is_none() && detector.calibration().categories.is_empty());
}

#[test]
fn maps_are_left_as_they_come() {
    let folder = tempdir().unwrap();
    let (path, images) = (folder.path().join("detector"), tested());
    let paths = saved(folder.path(), &trained_on());
    let [whitened, paper] = recipes();
    for (recipe, count) in [(whitened, 15), (paper, 16)] {
        checkpoint(recipe, 3).save(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        let mut detector = Detector::load(&path).unwrap();
        detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
        let want = score(&detector, &images);
        let stats = detector.level_files(&paths[..count], |_, read| read).unwrap();
        assert!(stats.len() == count && stats.iter().all(Option::is_some));
        assert!(detector.levels().is_none());
        detector.save(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == before);
        detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
        assert!(score(&detector, &images) == want);
    }
}

/// The same levels for any number of threads and of images at once.
#[test]
fn levels_are_the_same_bits() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    let paths = saved(folder.path(), &trained_on());
    let want = levelled().levels().cloned().unwrap();
    let [whitened, _] = recipes();
    checkpoint(whitened, 3).save(&path).unwrap();
    for (size, threads) in [(1, 3), (3, 1), (1024, 2)] {
        let mut detector = Detector::load(&path).unwrap().with_batch_size(size).unwrap();
        on_threads(threads, || detector.level_files(&paths, |_, read| read).map(drop)).unwrap();
        assert!(detector.levels() == Some(&want), "{size} at once, {threads} threads");
    }
}
