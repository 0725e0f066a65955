//! The simpler methods against oracles in f64 that follow their definitions, and their figures on
//! the demo images.

use invad::baselines::{self, Baseline, Baselines, NearestNeighbour, Padim};
use invad::checkpoint::{CheckpointConfig, Recipe};
use invad::data::Dataset;
use invad::denoisers::DitConfig;
use invad::detect::AnomalyMap;
use invad::{Device, Error, Result, Tensor};
use tempfile::tempdir;

use crate::support::networks::lite0;
use crate::support::numbers::tensor;
use crate::support::photographs;

/// Correlated features whose channels differ in size, (n, g, g, c).
fn features(seed: u64, [n, g, c]: [usize; 3]) -> Tensor {
    let mut x = tensor(seed, &[n, g, g, c], 1.0).to_vec_f32();
    for cell in x.chunks_exact_mut(c) {
        for i in 1..c {
            cell[i] = 0.6 * cell[i - 1] + cell[i] * (1.0 + i as f32) + 3.0;
        }
    }
    Tensor::from_f32(x, &[n, g, g, c], Device::Cpu).unwrap()
}

#[track_caller]
fn assert_near(case: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{case}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        // NaN fails too.
        assert!(error <= 2e-5 * want.abs() + 1e-6, "{case}: [{i}] got {got}, want {want}");
    }
}

/// The inverse, by Gauss and Jordan.
fn inverse(mut a: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = a.len();
    for (i, row) in a.iter_mut().enumerate() {
        row.extend((0..n).map(|j| f64::from(u8::from(i == j))));
    }
    for i in 0..n {
        let pivot = (i..n).max_by(|&p, &q| a[p][i].abs().total_cmp(&a[q][i].abs())).unwrap();
        a.swap(i, pivot);
        let by = a[i][i];
        a[i].iter_mut().for_each(|v| *v /= by);
        let row = a[i].clone();
        for (_, other) in a.iter_mut().enumerate().filter(|(k, _)| *k != i) {
            let by = other[i];
            other.iter_mut().zip(&row).for_each(|(v, r)| *v -= by * r);
        }
    }
    a.into_iter().map(|row| row[n..].to_vec()).collect()
}

type Matrix = Vec<Vec<f64>>;

/// The mean at a position, and the covariance of n − 1.
fn moments(x: &[f32], [n, g, c]: [usize; 3], p: usize) -> (Vec<f64>, Matrix) {
    let at = |i: usize, k: usize| f64::from(x[(i * g * g + p) * c + k]);
    let mean: Vec<f64> = (0..c).map(|k| (0..n).map(|i| at(i, k)).sum::<f64>() / n as f64).collect();
    let entry = |k: usize, l: usize| {
        (0..n).map(|i| (at(i, k) - mean[k]) * (at(i, l) - mean[l])).sum::<f64>() / (n - 1) as f64
    };
    let covariance = (0..c).map(|k| (0..c).map(|l| entry(k, l)).collect()).collect();
    (mean, covariance)
}

fn padim_oracle(normal: &[f32], sizes: [usize; 3], x: &[f32]) -> Vec<f64> {
    let [_, g, c] = sizes;
    let of: Vec<(Vec<f64>, Matrix)> = (0..g * g).map(|p| moments(normal, sizes, p)).collect();
    let pooled = |k: usize, l: usize| of.iter().map(|m| m.1[k][l]).sum::<f64>() / (g * g) as f64;
    let ridge = 0.01 * (0..c).map(|k| pooled(k, k)).sum::<f64>() / c as f64;
    (0..g * g)
        .map(|p| {
            let (mean, own) = &of[p];
            let entry = |k: usize, l: usize| {
                0.5 * own[k][l] + 0.5 * pooled(k, l) + if k == l { ridge } else { 0.0 }
            };
            let inverse = inverse((0..c).map(|k| (0..c).map(|l| entry(k, l)).collect()).collect());
            let off: Vec<f64> = (0..c).map(|k| f64::from(x[p * c + k]) - mean[k]).collect();
            let terms = (0..c).flat_map(|k| (0..c).map(move |l| (k, l)));
            terms.map(|(k, l)| off[k] * inverse[k][l] * off[l]).sum::<f64>().sqrt()
        })
        .collect()
}

fn nearest_oracle(normal: &[f32], [n, g, c]: [usize; 3], x: &[f32]) -> Vec<f64> {
    let tokens = (n * g * g) as f64;
    let column = |k: usize| normal.iter().skip(k).step_by(c).map(|&v| f64::from(v));
    let deviation = |k: usize| {
        let mean = column(k).sum::<f64>() / tokens;
        (column(k).map(|v| (v - mean).powi(2)).sum::<f64>() / tokens).sqrt()
    };
    let deviations: Vec<f64> = (0..c).map(deviation).collect();
    let pooled = |image: &[f32]| -> Vec<Vec<f64>> {
        let at = |y: isize, x: isize, k: usize| {
            let inside = |v: isize| (0..g as isize).contains(&v);
            match inside(y) && inside(x) {
                true => f64::from(image[(y as usize * g + x as usize) * c + k]) / deviations[k],
                false => 0.0,
            }
        };
        let mean = |y: isize, x: isize, k: usize| {
            let around = (-1..2).flat_map(|dy| (-1..2).map(move |dx| (y + dy, x + dx)));
            around.map(|(y, x)| at(y, x, k)).sum::<f64>() / 9.0
        };
        let cells = (0..g as isize).flat_map(|y| (0..g as isize).map(move |x| (y, x)));
        cells.map(|(y, x)| (0..c).map(|k| mean(y, x, k)).collect()).collect()
    };
    let normal: Vec<Vec<f64>> = normal.chunks_exact(g * g * c).flat_map(&pooled).collect();
    let distance =
        |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let nearest = |x: &Vec<f64>| normal.iter().map(|n| distance(x, n)).fold(f64::MAX, f64::min);
    pooled(x).iter().map(|x| nearest(x).sqrt()).collect()
}

/// Images, grid, channels.
const SIZES: [[usize; 3]; 5] = [[2, 1, 3], [3, 3, 5], [7, 4, 33], [40, 5, 6], [41, 11, 7]];

/// Of each image of `x`, what `oracle` says of it alone.
fn assert_maps<M: Baseline>(
    sizes: [usize; 3],
    x: &Tensor,
    oracle: impl Fn(&[f32], [usize; 3], &[f32]) -> Vec<f64>,
) {
    let [_, g, c] = sizes;
    let normal = features(1, sizes);
    let method = M::fit(&normal).unwrap();
    let got = method.maps(x).unwrap();
    assert_eq!(got.len(), x.shape()[0]);
    for (got, x) in got.iter().zip(x.to_vec_f32().chunks_exact(g * g * c)) {
        assert_eq!(got.side(), g);
        assert_near(&format!("{sizes:?}"), got.values(), &oracle(&normal.to_vec_f32(), sizes, x));
        let alone = Tensor::from_f32(x.to_vec(), &[1, g, g, c], Device::Cpu).unwrap();
        assert_eq!(method.maps(&alone).unwrap(), std::slice::from_ref(got));
    }
}

#[test]
fn padim_is_the_mahalanobis_distance() {
    for (i, sizes @ [_, g, c]) in SIZES.into_iter().enumerate() {
        assert_maps::<Padim>(sizes, &features(2, [i + 1, g, c]), padim_oracle);
    }
}

#[test]
fn nearest_neighbour_is_the_smallest_distance() {
    for (i, sizes @ [_, g, c]) in SIZES.into_iter().enumerate() {
        assert_maps::<NearestNeighbour>(sizes, &features(4, [i + 1, g, c]), nearest_oracle);
    }
}

/// Where there are many patches most distances are the smallest, none is smaller, and few are much larger.
#[test]
fn nearest_neighbour_of_many_patches() {
    let sizes @ [_, g, c] = [70, 16, 9];
    let (normal, x) = (features(8, sizes), features(9, [3, g, c]));
    let method = NearestNeighbour::fit(&normal).unwrap();
    let maps = method.maps(&x).unwrap();
    let (mut exact, mut excess, mut cells) = (0, 0.0, 0);
    for (i, x) in x.to_vec_f32().chunks_exact(g * g * c).enumerate() {
        let want = nearest_oracle(&normal.to_vec_f32(), sizes, x);
        for (&got, want) in maps[i].values().iter().zip(want) {
            let more = f64::from(got) / want - 1.0;
            assert!(more >= -2e-5, "{got} {want}");
            exact += usize::from(more <= 2e-5);
            excess += more;
            cells += 1;
        }
        // The same bits alone and on one thread.
        let alone = Tensor::from_f32(x.to_vec(), &[1, g, g, c], Device::Cpu).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1 + 2 * i).build().unwrap();
        let again = pool.install(|| NearestNeighbour::fit(&normal).unwrap().maps(&alone).unwrap());
        assert_eq!(again, maps[i..][..1], "{i}");
    }
    let (exact, excess) = (exact as f64 / cells as f64, excess / cells as f64);
    println!("{exact} are exact, {excess} too large in the mean");
    assert!(exact > 0.9 && excess < 0.01, "{exact} {excess}");
}

/// Scores are maxima, and thresholds Student's bound on further ones, t from a table.
#[test]
fn scores_and_thresholds() {
    fn check<M: Baseline>(score: impl Fn(&[f32]) -> f64, pixels: impl Fn(&AnomalyMap) -> Vec<f32>) {
        let (normal, held_out) = (features(10, [9, 5, 4]), features(11, [20, 5, 4]));
        let method = M::fit(&normal).unwrap();
        let maps = method.maps(&held_out).unwrap();
        let scores: Vec<f64> = maps.iter().map(|map| score(&pixels(map))).collect();
        assert_eq!(maps.iter().map(M::score).collect::<Vec<_>>(), scores);
        let first = |n: usize| {
            let x = held_out.to_vec_f32()[..n * 100].to_vec();
            Tensor::from_f32(x, &[n, 5, 5, 4], Device::Cpu).unwrap()
        };
        for (n, t) in [(8, 4.5300), (20, 3.4472)] {
            let mean = scores[..n].iter().sum::<f64>() / n as f64;
            let squares = scores[..n].iter().map(|s| (s - mean).powi(2)).sum::<f64>();
            let above = t * (1.0 + 1.0 / n as f64).sqrt() * (squares / (n - 1) as f64).sqrt();
            let got = method.threshold(&first(n)).unwrap();
            assert!((got - mean - above).abs() < 0.01 * above, "{n}: {got}, {mean} + {above}");
        }
        // Of a single image nothing is known of the spread: a fifth of its score.
        let want = scores[0] * (1.0 + 3.0 * 0.2 * 2f64.sqrt());
        let got = method.threshold(&first(1)).unwrap();
        assert!((got - want).abs() < 1e-9 * want, "{got} {want}");
        assert_eq!(method.maps(&first(0)).unwrap(), []);
        assert!(matches!(method.threshold(&first(0)), Err(Error::Shape { .. })));
    }
    let maximum = |values: &[f32]| values.iter().fold(f64::MIN, |max, &v| max.max(v.into()));
    check::<Padim>(maximum, |map| map.resize(256, 256).unwrap());
    check::<NearestNeighbour>(maximum, |map| map.values().to_vec());
}

/// One image, equal images, a channel that never varies: finite, 0 for what was seen, more for what
/// was not.
#[test]
fn images_that_do_not_vary() {
    let one = features(5, [1, 3, 4]).to_vec_f32();
    let image = Tensor::from_f32(one.clone(), &[1, 3, 3, 4], Device::Cpu).unwrap();
    let other = features(6, [1, 3, 4]);
    let constant = Tensor::from_f32(vec![2.0; 2 * 36], &[2, 3, 3, 4], Device::Cpu).unwrap();
    let twice = Tensor::from_f32([one.clone(), one].concat(), &[2, 3, 3, 4], Device::Cpu).unwrap();
    for normal in [&image, &twice, &constant] {
        let padim = Padim::fit(normal).unwrap();
        let nearest = NearestNeighbour::fit(normal).unwrap();
        let [padim, nearest] = [padim.maps(&other).unwrap(), nearest.maps(&other).unwrap()];
        for map in [padim, nearest].concat() {
            assert!(map.values().iter().all(|v| v.is_finite() && *v > 0.0), "{map:?}");
        }
    }
    let padim = Padim::fit(&twice).unwrap().maps(&image).unwrap();
    let nearest = NearestNeighbour::fit(&twice).unwrap().maps(&image).unwrap();
    for map in [padim, nearest].concat() {
        assert!(map.values().iter().all(|v| v.abs() < 1e-3), "{map:?}");
    }
}

#[test]
fn features_that_do_not_fit() {
    let shaped = |shape: &[usize]| {
        Tensor::from_f32(vec![1.0; shape.iter().product()], shape, Device::Cpu).unwrap()
    };
    for shape in [&[2, 3, 4, 5][..], &[2, 3, 3], &[0, 3, 3, 5], &[2, 0, 0, 5]] {
        let x = shaped(shape);
        assert!(matches!(Padim::fit(&x), Err(Error::Shape { .. })), "{shape:?}");
        assert!(matches!(NearestNeighbour::fit(&x), Err(Error::Shape { .. })), "{shape:?}");
    }
    let normal = features(7, [3, 4, 5]);
    let padim = Padim::fit(&normal).unwrap();
    let nearest = NearestNeighbour::fit(&normal).unwrap();
    for shape in [&[2, 4, 4, 6][..], &[2, 3, 3, 5], &[4, 4, 5], &[]] {
        let x = shaped(shape);
        assert!(matches!(padim.maps(&x), Err(Error::Shape { .. })), "{shape:?}");
        assert!(matches!(nearest.maps(&x), Err(Error::Shape { .. })), "{shape:?}");
    }
    let nan = Tensor::from_f32(vec![f32::NAN; 80], &[1, 4, 4, 5], Device::Cpu).unwrap();
    for error in [
        Padim::fit(&nan).err(),
        NearestNeighbour::fit(&nan).err(),
        padim.maps(&nan).err(),
        nearest.maps(&nan).err(),
    ] {
        assert!(matches!(error, Some(Error::Argument { .. })), "{error:?}");
    }
}

/// What a detector with this seed says of itself.
fn detector(seed: u64, categories: &[&str]) -> CheckpointConfig {
    let backbone = lite0(Device::Cpu);
    let spec = backbone.spec();
    CheckpointConfig {
        products: None,
        recipe: Recipe::whitened(),
        denoiser: DitConfig::small(spec.features()).into(),
        backbone: spec.into(),
        seed,
        steps: 1,
        images: 1,
        categories: categories.iter().map(|name| name.to_string()).collect(),
    }
}

/// The figures of a computation in Python that shares nothing with this one, fitted to the held-out
/// images as well, which are a fifth of them.
#[test]
fn figures_of_the_demo_images() {
    let evaluate = |only: &[&str], detector: &CheckpointConfig| -> Baselines {
        let only: Vec<String> = only.iter().map(|name| name.to_string()).collect();
        let dataset = Dataset::open(photographs(), &only).unwrap();
        let mut images = 0;
        let got = baselines::evaluate(&dataset, detector, |result| {
            images += 1;
            result
        });
        assert_eq!(images, dataset.categories().len() * (40 + 48));
        got.unwrap()
    };
    let all = detector(0, &["brick", "cup", "gravel"]);
    let got = evaluate(&[], &all);
    for (name, got, want) in [
        ("padim", &got.padim, [97.7, 98.5, 95.6]),
        ("nearest_neighbour", &got.nearest_neighbour, [96.9, 98.8, 94.7]),
    ] {
        let m = got.mean;
        let figures = [m.image_auroc, m.pixel_auroc, m.au_pro].map(Option::unwrap);
        println!("{name}: {figures:.2?}, {:#?}", got.categories);
        for (got, want) in figures.iter().zip(want) {
            assert!((got - want).abs() <= 1.25, "{name}: {figures:?}");
        }
        let (false_alarms, recall) = (m.false_alarm_rate.unwrap(), m.recall.unwrap());
        assert!(false_alarms <= 10.0 && recall >= 50.0, "{name}: {false_alarms} {recall}");
        assert_eq!(got.categories.len(), 3);
    }
    // Images are divided as they were for the detector, whatever else the data set holds.
    let own = evaluate(&["gravel"], &all).padim.mean;
    assert_eq!(own, got.padim.categories["gravel"]);
    for other in [detector(1, &["brick", "cup", "gravel"]), detector(0, &["gravel"])] {
        assert_ne!(own, evaluate(&["gravel"], &other).padim.mean);
    }
}

#[test]
fn a_category_needs_good_images_and_test_images() {
    let folder = tempdir().unwrap();
    let put = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::new(8, 8).save(path).unwrap();
    };
    let refused = || {
        let dataset = Dataset::open(folder.path(), &[]).unwrap();
        baselines::evaluate(&dataset, &detector(0, &[]), |_| Ok(())).unwrap_err().to_string()
    };
    put("bolt/test/good/0.png");
    assert!(refused().contains("category `bolt` has no readable good images"), "{}", refused());
    put("bolt/train/good/0.png");
    std::fs::write(folder.path().join("bolt/test/good/0.png"), "no image").unwrap();
    assert!(refused().contains("category `bolt` has no readable test images"), "{}", refused());

    // What the caller says ends it.
    let dataset = Dataset::open(folder.path(), &[]).unwrap();
    let enough = |_: Result<()>| Err(Error::dataset("here", "enough"));
    let error = baselines::evaluate(&dataset, &detector(0, &[]), enough);
    assert!(error.unwrap_err().to_string().contains("enough"));
}
