use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use image::{Rgb, RgbImage};
use invad::checkpoint::{Checkpoint, ImageStats, Levels, Recipe};
use invad::data::load_image;
use invad::detect::{AnomalyMap, Moments, ScoreKind, ScoreOptions, Scored, Threshold, drift};
use invad::diffusion::Inverter;
use invad::nn::{Backbone, Dit, features};
use invad::{Detector, Device, Error, Tensor, ops};
use nalgebra::{DMatrix, DVector, SymmetricEigen};
use tempfile::tempdir;

use crate::common::*;
use crate::files::with_config;
use crate::numbers::{self, poisoned};

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

/// Files of images to learn a prior from, 9 of each kind.
fn trained_on(folder: &Path) -> Vec<(String, Vec<PathBuf>)> {
    let of = |name: &str, kind| {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        (name.to_string(), saved(&folder.join(name), &pictures(kind, 0..9)))
    };
    vec![of("dots", Kind::Dots), of("stripes", Kind::Stripes)]
}

/// A calibrated detector that holds latents against a prior.
fn with_prior() -> Detector {
    let [whitened, _] = recipes();
    let mut detector = Detector::new(checkpoint(whitened, 3)).unwrap();
    let folder = tempdir().unwrap();
    detector.learn_prior(&trained_on(folder.path()), |_, read| read).unwrap();
    assert!(detector.prior().is_some());
    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    detector.calibrate("stripes", &held_out(Kind::Stripes), &[]).unwrap();
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
    let detector = with_prior();
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

/// Features, whitening and inversion, one after another: (1, G², C).
fn latent(checkpoint: &Checkpoint, image: &RgbImage) -> Tensor {
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
    x.reshape(&[1, g * g, c]).unwrap()
}

/// The norm of order 4 of the means of 2 × 2 cells above 0.
fn norm_of_blocks(map: &[f32], g: usize) -> f32 {
    let corners = (0..g - 1).flat_map(|y| (0..g - 1).map(move |x| y * g + x));
    let blocks = corners.map(|i| (map[i] + map[i + 1] + map[i + g] + map[i + g + 1]) / 4.0);
    blocks.filter(|m| *m > 0.0).map(|m| (m * m) * (m * m)).sum::<f32>().sqrt().sqrt()
}

/// What a latent amounts to without a prior.
fn by_hand(checkpoint: &Checkpoint, image: &RgbImage) -> ([u32; 5], Vec<u32>) {
    let latent = latent(checkpoint, image);
    let g = checkpoint.config.denoiser.grid;
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
    let nll: Vec<f64> = held_out.iter().map(|s| f64::from(s.nll)).collect();
    let mean = nll.iter().sum::<f64>() / nll.len() as f64;
    let squares: f64 = nll.iter().map(|v| (v - mean).powi(2)).sum();
    let std = (squares / (nll.len() - 1) as f64).sqrt();
    let options = ScoreOptions { category: Some("dots".into()), ..Default::default() };
    let black = RgbImage::new(48, 40);
    let noise = RgbImage::from_fn(48, 40, |x, y| Rgb([x * 7919 + y * 104_729; 3].map(|v| v as u8)));
    let images = [&pictures(Kind::Dots, 200..206)[..], &[black, noise]].concat();
    let scored = detector.score_with(&images, &options).unwrap();
    for (i, of) in scored.iter().enumerate() {
        let limit = mean + 5.0 * std.max(0.03 * mean.abs());
        assert_eq!(of.is_unfamiliar, f64::from(of.stats.nll) > limit, "{i}: {}", of.stats.nll);
        assert_eq!(of.is_unfamiliar, i >= 6, "{i}: {} {limit}", of.stats.nll);
    }

    // A single one says how much latents vary: a twentieth.
    let mut lone = with_prior();
    lone.calibrate("dots", &pictures(Kind::Dots, 200..201), &[]).unwrap();
    let nll = |of: &Scored| f64::from(of.stats.nll);
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
    let options = ScoreOptions { category: Some("dots".into()), ..Default::default() };
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
    let options = ScoreOptions { category: Some("dots".into()), ..Default::default() };
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

#[test]
fn what_drifts_along_the_files() {
    // Means 2, 3, 6 and 9 of 5: 30 between the parts against 1 within, (30 − 1)/3 of variance.
    let [a, b, c, d] = [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [5.0, 6.0, 7.0], [8.0, 9.0, 10.0]];
    close(drift(&[a, b, c, d].concat()), (29f64 / 3.0).sqrt());
    assert_eq!(drift(&[a, a, a, a].concat()), 0.0);
    assert_eq!(
        drift(&[&[1.0, 2.0][..], &[10.0, 11.0], &[20.0, 21.0], &[30.0, 31.0]].concat()),
        0.0,
        "few"
    );
    // By chance it is rare.
    let found = (0..1000u64).filter(|&i| {
        let all = numbers::tensor(i, &[13 + i as usize % 50], 1.0).to_vec_f32();
        drift(&all.into_iter().map(f64::from).collect::<Vec<_>>()) > 0.0
    });
    let found = found.count();
    assert!((1..=15).contains(&found), "{found} of 1000");

    let moments = Moments { mean: 3.0, std: 1.0, count: 61 };
    assert_eq!(moments.with_drift(0.0), moments);
    // (1 + 1)²/(1/60 + 1/3) = 11.4 degrees of freedom.
    let wider = Moments { std: 2f64.sqrt(), count: 12, ..moments };
    assert_eq!(moments.with_drift(1.0), wider);
    assert!(wider.bound(3.0) > moments.bound(3.0));
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

#[test]
fn a_file_scores_as_what_was_saved() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    for detector in [detector(), &with_prior()] {
        detector.save(&path).unwrap();
        let loaded = Detector::load(&path).unwrap();
        assert_eq!(loaded.config(), detector.config());
        assert_eq!(loaded.calibration(), detector.calibration());
        assert_eq!(loaded.prior().is_some(), detector.prior().is_some());
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

/// Mean and covariance of latents, each (G², C), at every position, by the formulas of `Prior`: `beside` is the
/// weight of a position one step away.
fn moments_of_positions(images: &[&[f32]], beside: f64) -> Vec<(DVector<f64>, DMatrix<f64>)> {
    let (n, c) = (images.len() as f64, 192);
    let vector = |token: &[f32]| DVector::from_iterator(c, token.iter().map(|&v| f64::from(v)));
    let token = |image: &[f32], p: usize| vector(&image[p * c..][..c]);
    let sum = |p: usize| -> DVector<f64> { images.iter().map(|image| token(image, p)).sum() };
    let everywhere = (0..256).map(sum).sum::<DVector<f64>>() / (256.0 * n);
    let weight = |p: usize, q: usize| {
        let steps = (p / 16).abs_diff(q / 16) + (p % 16).abs_diff(q % 16);
        (0..steps).map(|_| beside).product::<f64>()
    };
    let at = |p: usize| {
        let around = (0..256).map(|q| (q, weight(p, q))).filter(|(_, weight)| *weight >= 0.3);
        let around: Vec<_> = around.collect();
        let all: f64 = around.iter().map(|(_, weight)| weight).sum();
        let mean: DVector<f64> = around.iter().map(|(q, weight)| sum(*q) * (*weight / all)).sum();
        let mean = (mean + 8.0 * &everywhere) / (n + 8.0);
        let mut covariance = DMatrix::zeros(c, c);
        for (q, weight) in around {
            for image in images {
                let d = token(image, q) - &mean;
                covariance += &d * d.transpose() * (weight / all / n);
            }
        }
        (mean, covariance)
    };
    (0..256).map(at).collect()
}

/// The fewer images there are of a category, the more its positions learn from each other.
fn beside(category: &[&[f32]]) -> f64 {
    1.0 - category.len() as f64 / 16.0
}

/// What the covariances of all positions share, of categories' images with the weight of a position one step away.
fn shared(categories: &[(&[&[f32]], f64)]) -> DMatrix<f64> {
    let all = categories.iter().flat_map(|(images, beside)| moments_of_positions(images, *beside));
    let pooled = all.map(|(_, s)| s).sum::<DMatrix<f64>>() / (256.0 * categories.len() as f64);
    0.5 * &pooled + DMatrix::identity(192, 192) * (0.01 * pooled.trace() / 192.0)
}

/// The means and the inverses of the covariances at every position: beyond what is shared, of 16 directions in
/// which most is added to it.
fn gaussians(
    images: &[&[f32]],
    beside: f64,
    shared: &DMatrix<f64>,
) -> Vec<(DVector<f64>, DMatrix<f64>)> {
    let root = shared.clone().cholesky().expect("it is positive definite").l();
    let inverse = root.clone().try_inverse().expect("it is triangular");
    let invert = |(mean, s): (_, DMatrix<f64>)| {
        let SymmetricEigen { eigenvectors, eigenvalues } =
            SymmetricEigen::new(0.5 * &inverse * s * inverse.transpose());
        let mut sorted = eigenvalues.as_slice().to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let kept =
            eigenvalues.map(|value| if value >= sorted[15] { 1.0 / (1.0 + value) } else { 1.0 });
        let turned = eigenvectors.transpose() * &inverse;
        (mean, turned.transpose() * DMatrix::from_diagonal(&kept) * &turned)
    };
    moments_of_positions(images, beside).into_iter().map(invert).collect()
}

/// The median of how unlikely a latent's cells are under Gaussians, −2·ln of their density, and the distances to
/// them less their mean.
fn stands_out(latent: &[f32], gaussians: &[(DVector<f64>, DMatrix<f64>)]) -> (f64, Vec<f64>) {
    let distances = latent.chunks_exact(192).zip(gaussians).map(|(z, (mean, inverse))| {
        let d = DVector::from_iterator(192, z.iter().map(|&z| f64::from(z))) - mean;
        (d.transpose() * inverse * &d)[0].sqrt()
    });
    let distances: Vec<f64> = distances.collect();
    let log_det = |inverse: &DMatrix<f64>| -> f64 {
        let factor = inverse.clone().cholesky().expect("it is positive definite");
        -2.0 * factor.l().diagonal().iter().map(|v| v.ln()).sum::<f64>()
    };
    let unlikely =
        distances.iter().zip(gaussians).map(|(d, (_, inverse))| d * d + log_det(inverse));
    let mut unlikely: Vec<f64> = unlikely.collect();
    unlikely.sort_by(f64::total_cmp);
    let mean = distances.iter().sum::<f64>() / 256.0;
    ((unlikely[127] + unlikely[128]) / 2.0, distances.into_iter().map(|d| d - mean).collect())
}

#[test]
fn latents_are_held_against_those_of_normal_images() {
    let [whitened, _] = recipes();
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    checkpoint(whitened, 3).save(&path).unwrap();
    let by_hand = |image: &RgbImage| latent(&Checkpoint::load(&path).unwrap(), image).to_vec_f32();
    let mut detector = Detector::load(&path).unwrap();
    let mut trained = trained_on(folder.path());
    let normal: Vec<Vec<_>> = trained
        .iter()
        .map(|(_, paths)| paths.iter().map(|p| by_hand(&load_image(p).unwrap())).collect())
        .collect();
    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, "this is no image").unwrap();
    trained[1].1.insert(5, broken);

    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    let (mut seen, mut refused) = (Vec::new(), Vec::new());
    let stats = detector
        .learn_prior(&trained, |path, result| {
            seen.push(path.clone());
            refused.extend(result.err().map(|e| e.to_string()));
            Ok(())
        })
        .unwrap();
    assert!(seen.iter().eq(trained.iter().flat_map(|(_, paths)| paths)));
    assert!(refused.len() == 1 && refused[0].contains("broken.png"), "{refused:?}");
    assert!(detector.calibration().categories.is_empty(), "it is of other maps");
    assert!(stats[0].len() == 9 && stats[1].len() == 10 && stats[1][5].is_none());
    for (kind, name) in [(Kind::Dots, "dots"), (Kind::Stripes, "stripes")] {
        detector.calibrate(name, &held_out(kind), &[]).unwrap();
    }

    let [dots, stripes] =
        [0, 1].map(|i| normal[i].iter().map(Vec::as_slice).collect::<Vec<&[f32]>>());
    let with = |dots_alone: &[&[f32]]| {
        shared(&[(dots_alone, beside(&dots)), (&stripes[..], beside(&stripes))])
    };
    let of_all = with(&dots);
    let own = [&dots, &stripes].map(|of| gaussians(of, beside(of), &of_all));
    let near = |got: f64, want: f64| (got - want).abs() < 2e-3 * want.abs().max(1.0);
    for image in tested() {
        let z = by_hand(&image);
        let maps = [stands_out(&z, &own[0]), stands_out(&z, &own[1])];
        let likeliest = usize::from(maps[1].0 < maps[0].0);
        for (i, name) in ["dots", "stripes"].into_iter().enumerate() {
            let options = ScoreOptions { category: Some(name.into()), ..Default::default() };
            let named = &detector.score_with(std::slice::from_ref(&image), &options).unwrap()[0];
            assert_eq!(named.category.as_deref(), Some(name));
            for (&got, &want) in named.map.values().iter().zip(&maps[i].1) {
                assert!(near(got.into(), want), "{name}: {got} for {want}");
            }
            let mut sorted = named.map.values().to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            assert_eq!(named.stats.max, sorted[0]);
            let block = norm_of_blocks(named.map.values(), named.map.side());
            assert!((named.stats.block - block).abs() < 1e-4);
            assert_eq!(named.stats.block, named.map.block(4.0));
            assert!((named.stats.top5 - sorted[..5].iter().sum::<f32>() / 5.0).abs() < 1e-4);
            let unnamed = &detector.score(std::slice::from_ref(&image)).unwrap()[0];
            if i == likeliest {
                assert_eq!(unnamed, named, "the likeliest category");
            }
        }
    }

    // Normal images are held against the others: the first of nine alone, the last with its neighbour. Of so few
    // what is shared is of the others too.
    for (i, others) in [(0, &dots[1..]), (8, &dots[..7])] {
        let of_others = gaussians(others, beside(&dots), &with(others));
        let (_, mut map) = stands_out(dots[i], &of_others);
        let got = stats[0][i].unwrap();
        map.sort_by(|a, b| b.total_cmp(a));
        assert!(near(got.max.into(), map[0]), "{} for {}", got.max, map[0]);
        let top5 = map[..5].iter().sum::<f64>() / 5.0;
        assert!(near(got.top5.into(), top5), "{} for {top5}", got.top5);
    }

    // An error of the caller ends it.
    let enough = |_: &PathBuf, _| Err(Error::image("here", "enough"));
    assert_eq!(detector.learn_prior(&trained, enough).unwrap_err().to_string(), "here: enough");
    let other = [("bread".to_string(), Vec::<PathBuf>::new())];
    let error = detector.learn_prior(&other, |_, read| read).unwrap_err().to_string();
    assert_eq!(error, "learn_prior: `category` should be one of dots, stripes, got bread");
}

/// The regions of an image whose score is `score` and whose 4 × 4 map is 1 but for `peak` in a corner.
fn region(score: f64, peak: f32) -> Vec<bool> {
    let mut values = vec![1.0; 16];
    values[0] = peak;
    let map = AnomalyMap::new(4, values).unwrap();
    let stats = ImageStats { max: peak, abs: 0.0, block: peak, top5: peak, nll: 0.0 };
    let (threshold, map_threshold, map_range, category) = (3.0, 5.0, (0.0, 10.0), None);
    let (is_anomalous, is_unfamiliar) = (score >= threshold, false);
    let scored = Scored {
        score,
        threshold,
        is_anomalous,
        is_unfamiliar,
        category,
        stats,
        map,
        map_threshold,
        map_range,
    };
    let resized = scored.map.resize(40, 24).unwrap();
    let region = scored.region(&resized, 40, 24).unwrap();
    assert_eq!((region.width(), region.height()), (40, 24));
    for (inside, value) in region.pixels().iter().zip(&resized) {
        assert!(!is_anomalous || *inside || *value <= 5.0);
    }
    assert!(scored.region(&resized, 39, 24).is_err());
    region.pixels().to_vec()
}

#[test]
fn only_anomalous_images_have_anomalous_regions_and_they_always() {
    let count = |inside: &[bool]| inside.iter().filter(|inside| **inside).count();
    for (score, peak) in [(2.9, 4.0), (2.9, 9.0), (f64::NAN, 9.0)] {
        assert_eq!(count(&region(score, peak)), 0);
    }
    // Above the map's threshold, and below it everywhere.
    for peak in [20.0, 4.0] {
        let found = region(3.0, peak);
        assert!(found[0] && !found[39] && !found[23 * 40], "{peak}");
        assert!((4..200).contains(&count(&found)), "{peak}: {}", count(&found));
    }
    assert_eq!(count(&region(3.0, 1.0)), 40 * 24, "there is no place in an even map");
}

#[test]
fn the_papers_recipe_has_no_prior() {
    let folder = tempdir().unwrap();
    let (path, images) = (folder.path().join("detector"), tested());
    let [_, paper] = recipes();
    checkpoint(paper, 3).save(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let mut detector = Detector::load(&path).unwrap();
    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    let want = score(&detector, &images);
    let stats = detector.learn_prior(&trained_on(folder.path()), |_, read| read).unwrap();
    assert!(stats.iter().all(|of| of.len() == 9 && of.iter().all(Option::is_some)));
    assert!(detector.prior().is_none());
    detector.save(&path).unwrap();
    assert!(std::fs::read(&path).unwrap() == before);
    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    assert!(score(&detector, &images) == want);
}

/// The same prior for any number of threads and of images at once.
#[test]
fn a_prior_is_the_same_bits() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    let paths = trained_on(folder.path());
    let saved = |detector: &Detector| {
        detector.save(&path).unwrap();
        std::fs::read(&path).unwrap()
    };
    let [whitened, _] = recipes();
    let untrained = || Detector::new(checkpoint(whitened.clone(), 3)).unwrap();
    let mut want = None;
    for (size, threads) in [(8, 2), (1, 3), (3, 1), (1024, 2)] {
        let mut detector = untrained().with_batch_size(size).unwrap();
        let stats = on_threads(threads, || detector.learn_prior(&paths, |_, read| read)).unwrap();
        let got = (saved(&detector), stats);
        assert!(*want.get_or_insert(got.clone()) == got, "{size} at once, {threads} threads");
    }
    let scores = |detector: &Detector| {
        let mut detector = Detector::load({
            detector.save(&path).unwrap();
            &path
        })
        .unwrap();
        detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
        score(&detector, &tested())
    };
    let mut detector = untrained();
    detector.learn_prior(&paths, |_, read| read).unwrap();
    let want = scores(&detector);
    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    assert!(score(&detector, &tested()) == want, "the file holds all of it");
}

/// Detectors of version 1 know neither a prior nor timesteps, and level maps.
#[test]
fn version_1() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    let [whitened, _] = recipes();
    let recipe = Recipe { prior: false, timesteps: [0, 999], inversion_steps: 3, ..whitened };
    let mut checkpoint = checkpoint(recipe, 3);
    let part = |first: f32| (0..256).map(|i| first + i as f32 / 512.0).collect::<Vec<_>>();
    let (mean, std) = (part(9.0), part(0.5));
    checkpoint.levels = Some(Levels::from_parts(mean.clone(), std.clone()).unwrap());
    checkpoint.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let old = with_config(&bytes, |config| {
        config["version"] = 1.into();
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
