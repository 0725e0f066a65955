//! Latents held against those of normal images.

use invad::Error;
use invad::checkpoint::Recipe;
use invad::data::load_image;
use invad::detect::ScoreOptions;
use nalgebra::{DMatrix, DVector, SymmetricEigen};

use super::*;

/// The norm of order 4 of the means of 2 × 2 cells above 0.
fn norm_of_blocks(map: &[f32], g: usize) -> f32 {
    let corners = (0..g - 1).flat_map(|y| (0..g - 1).map(move |x| y * g + x));
    let blocks = corners.map(|i| (map[i] + map[i + 1] + map[i + g] + map[i + g + 1]) / 4.0);
    blocks.filter(|m| *m > 0.0).map(|m| (m * m) * (m * m)).sum::<f32>().sqrt().sqrt()
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
            let options = ScoreOptions::default().category(Some(name.into()));
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

/// A timestep that there is not changes nothing.
#[test]
fn timesteps_that_there_are_not() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    let mut detector = Detector::new(checkpoint(Recipe::whitened(), 3)).unwrap();
    let file = |detector: &Detector| {
        detector.save(&path).unwrap();
        std::fs::read(&path).unwrap()
    };
    let before = file(&detector);
    for timestep in [1000, usize::MAX] {
        let refused = detector.set_timestep(timestep).unwrap_err();
        assert!(matches!(refused, Error::Argument { arg: "timestep", .. }), "{refused}");
    }
    assert!(file(&detector) == before);
}
