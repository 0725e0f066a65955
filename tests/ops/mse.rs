use crate::common::*;
use invad::{Tensor, ops};

const SHAPES: [&[usize]; 6] =
    [&[1], &[4], &[2, 3], &[3, 17, 5], &[2, 16, 16, 33], &[3, 1024 * 3 + 1]];

/// Loss of each image.
fn losses(p: &[f64], t: &[f64], w: &[f64]) -> Vec<f64> {
    let n = p.len() / w.len();
    let of = |b: usize| {
        let pairs = p[b * n..][..n].iter().zip(&t[b * n..][..n]);
        w[b] * pairs.map(|(p, t)| (p - t).powi(2)).sum::<f64>() / n as f64
    };
    (0..w.len()).map(of).collect()
}

/// The gradient of the mean of the losses with respect to `p`.
fn gradient(p: &[f64], t: &[f64], w: &[f64]) -> Vec<f64> {
    let (n, all) = (p.len() / w.len(), p.len() as f64);
    p.iter().zip(t).enumerate().map(|(i, (p, t))| 2.0 * w[i / n] * (p - t) / all).collect()
}

struct Case {
    prediction: Tensor,
    target: Tensor,
    weight: Tensor,
}

impl Case {
    fn new(shape: &[usize]) -> Self {
        Self {
            prediction: tensor(1, shape, 2.0),
            target: tensor(2, shape, 2.0),
            weight: tensor(3, &shape[..1], 1.0),
        }
    }

    fn run(&self) -> [Tensor; 2] {
        let Self { prediction, target, weight } = self;
        let (mut loss, mut d) = (poisoned(weight.shape()), poisoned(prediction.shape()));
        ops::mse(prediction, target, weight, &mut loss).unwrap();
        ops::mse_backward(prediction, target, weight, &mut d).unwrap();
        [loss, d]
    }
}

#[test]
fn oracle_is_the_gradient() {
    for shape in [&[3][..], &[2, 5], &[3, 2, 4]] {
        let Case { prediction, target, weight } = Case::new(shape);
        let (p, t, w) = (f64s(&prediction), f64s(&target), f64s(&weight));
        let mean = |p: &[f64]| losses(p, &t, &w).iter().sum::<f64>() / w.len() as f64;
        assert_close(
            &format!("{shape:?}"),
            &gradient(&p, &t, &w),
            &numeric_gradient(&p, mean),
            1e-9,
        );
    }
}

#[test]
fn forward_and_backward() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let (p, t, w) = (f64s(&case.prediction), f64s(&case.target), f64s(&case.weight));
        let [loss, d] = case.run();
        assert_close(&format!("{shape:?}: loss"), &f64s(&loss), &losses(&p, &t, &w), 2e-7);
        assert_close(&format!("{shape:?}: gradient"), &f64s(&d), &gradient(&p, &t, &w), 2e-7);
    }
}

#[test]
fn nan_stays_in_its_image() {
    let mut case = Case::new(&[3, 40]);
    let mut p = case.prediction.to_vec_f32();
    p[57] = f32::NAN;
    case.prediction = from(&p, &[3, 40]);
    let [loss, d] = case.run();
    let nan: Vec<bool> = loss.to_vec_f32().iter().map(|l| l.is_nan()).collect();
    assert_eq!(nan, [false, true, false]);
    assert!(d.to_vec_f32().iter().enumerate().all(|(i, d)| d.is_nan() == (i == 57)));
}

#[test]
fn threads_do_not_matter() {
    let case = Case::new(&[5, 5000]);
    assert_threads_do_not_matter(|| case.run());
}

#[test]
fn refuses_other_shapes() {
    let (x, w) = (tensor(1, &[2, 3], 1.0), tensor(1, &[2], 1.0));
    assert_refused(
        ops::mse(&x, &x, &tensor(1, &[3], 1.0), &mut poisoned(&[2])),
        "mse: `weight` should have shape [2], got [3]",
    );
    assert_refused(
        ops::mse(&x, &x, &w, &mut poisoned(&[1])),
        "mse: `loss` should have shape [2], got [1]",
    );
    assert_refused(
        ops::mse_backward(&x, &tensor(1, &[3, 2], 1.0), &w, &mut poisoned(&[2, 3])),
        "mse_backward: `target` should have shape [2, 3], got [3, 2]",
    );
}
