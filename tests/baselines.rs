//! The simpler methods against oracles in f64 that follow their definitions, and their figures on
//! the demo images.

#[allow(dead_code)]
#[path = "ops/common.rs"]
mod numbers;

use std::path::Path;

use invad::baselines::{self, NearestNeighbour, Padim};
use invad::data::Dataset;
use invad::{Device, Error, Tensor};
use numbers::tensor;
use tempfile::tempdir;

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

/// Images, grid, channels; the last has more patches than are multiplied at once.
const SIZES: [[usize; 3]; 5] = [[2, 1, 3], [3, 3, 5], [7, 4, 33], [40, 5, 6], [41, 11, 7]];

#[test]
fn padim_is_the_mahalanobis_distance() {
    for sizes @ [_, g, c] in SIZES {
        let (normal, x) = (features(1, sizes), features(2, [1, g, c]));
        let got = Padim::fit(&normal).unwrap().map(&x).unwrap();
        assert_eq!(got.side(), g);
        let want = padim_oracle(&normal.to_vec_f32(), sizes, &x.to_vec_f32());
        assert_near(&format!("{sizes:?}"), got.values(), &want);
    }
}

#[test]
fn nearest_neighbour_is_the_smallest_distance() {
    for sizes @ [_, g, c] in SIZES {
        let (normal, x) = (features(3, sizes), features(4, [1, g, c]));
        let got = NearestNeighbour::fit(&normal).unwrap().map(&x).unwrap();
        assert_eq!(got.side(), g);
        let want = nearest_oracle(&normal.to_vec_f32(), sizes, &x.to_vec_f32());
        assert_near(&format!("{sizes:?}"), got.values(), &want);
    }
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
        for map in [padim.map(&other).unwrap(), nearest.map(&other).unwrap()] {
            assert!(map.values().iter().all(|v| v.is_finite() && *v > 0.0), "{map:?}");
        }
    }
    for map in [
        Padim::fit(&twice).unwrap().map(&image).unwrap(),
        NearestNeighbour::fit(&twice).unwrap().map(&image).unwrap(),
    ] {
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
    let x = shaped(&[2, 4, 4, 5]);
    assert!(matches!(padim.map(&x), Err(Error::Shape { .. })));
    assert!(matches!(nearest.map(&x), Err(Error::Shape { .. })));
    let nan = Tensor::from_f32(vec![f32::NAN; 80], &[1, 4, 4, 5], Device::Cpu).unwrap();
    for error in [
        Padim::fit(&nan).err(),
        NearestNeighbour::fit(&nan).err(),
        padim.map(&nan).err(),
        nearest.map(&nan).err(),
    ] {
        assert!(matches!(error, Some(Error::Argument { .. })), "{error:?}");
    }
}

/// The figures of a computation in Python that shares nothing with this one.
#[test]
fn figures_of_the_demo_images() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let dataset = Dataset::open(root, &[]).unwrap();
    let mut images = 0;
    let got = baselines::evaluate(&dataset, |result| {
        images += 1;
        result
    })
    .unwrap();
    assert_eq!(images, 120 + 144);
    for (name, got, want) in [
        ("padim", &got.padim, [97.7, 98.5, 95.6]),
        ("nearest_neighbour", &got.nearest_neighbour, [96.9, 98.8, 94.7]),
    ] {
        let m = got.mean;
        let figures = [m.image_auroc, m.pixel_auroc, m.au_pro].map(Option::unwrap);
        println!("{name}: {figures:.2?}, {:#?}", got.categories);
        for (got, want) in figures.iter().zip(want) {
            assert!((got - want).abs() <= 0.5, "{name}: {figures:?}");
        }
        assert_eq!((m.false_alarm_rate, m.recall), (None, None));
        assert_eq!(got.categories.len(), 3);
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
        baselines::evaluate(&dataset, |_| Ok(())).unwrap_err().to_string()
    };
    put("bolt/test/good/0.png");
    assert!(refused().contains("category `bolt` has no readable good images"), "{}", refused());
    put("bolt/train/good/0.png");
    std::fs::write(folder.path().join("bolt/test/good/0.png"), "no image").unwrap();
    assert!(refused().contains("category `bolt` has no readable test images"), "{}", refused());

    // What the caller says ends it.
    let dataset = Dataset::open(folder.path(), &[]).unwrap();
    let error = baselines::evaluate(&dataset, |_| Err(Error::dataset("here", "enough")));
    assert!(error.unwrap_err().to_string().contains("enough"));
}
