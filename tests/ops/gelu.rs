use crate::common::*;
use invad::{Tensor, ops};

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

fn derivative(x: f64) -> f64 {
    let scale = (2.0 / std::f64::consts::PI).sqrt();
    let t = (scale * (x + 0.044715 * x.powi(3))).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * scale * (1.0 + 3.0 * 0.044715 * x * x)
}

#[test]
fn oracle_is_the_derivative() {
    let x: Vec<f64> = (-80..=80).map(|i| f64::from(i) * 0.1).collect();
    let got: Vec<f64> = x.iter().map(|&x| derivative(x)).collect();
    let want = numeric_gradient(&x, |x| x.iter().map(|&x| gelu(x)).sum());
    assert_close("derivative", &got, &want, 1e-8);
}

/// The weight that changes nothing.
fn identity(n: usize) -> Tensor {
    let numbers: Vec<f32> = (0..n * n).map(|i| f32::from(i % (n + 1) == 0)).collect();
    from(&numbers, &[n, n])
}

#[test]
fn backward() {
    let cases = [(1, 1, 0.1), (3, 17, 4.0), (33, 70, 0.01), (150, 97, 8.0), (40, 1100, 30.0)];
    for (m, n, scale) in cases {
        let (x, dy) = (tensor(1, &[m, n], scale), tensor(2, &[m, n], 1.0));
        let mut dx = poisoned(&[m, n]);
        ops::linear_backward_input(&dy, &identity(n), Some(x.view()), &mut dx).unwrap();
        let want: Vec<f64> =
            f64s(&x).into_iter().zip(f64s(&dy)).map(|(x, dy)| dy * derivative(x)).collect();
        assert_close(&format!("[{m}, {n}] scale {scale}"), &f64s(&dx), &want, 2e-6);
    }
}

#[test]
fn far_out_the_slope_is_0_or_1() {
    for n in [6, 48] {
        let row = [-1e6, -50.0, 0.0, 50.0, 1e6, f32::NAN].repeat(n / 6);
        let x = from(&row.repeat(n), &[n, n]);
        let (dy, mut dx) = (from(&vec![3.0; n * n], &[n, n]), poisoned(&[n, n]));
        ops::linear_backward_input(&dy, &identity(n), Some(x.view()), &mut dx).unwrap();
        for dx in dx.to_vec_f32().chunks(6) {
            assert_eq!(dx[..5], [0.0, 0.0, 1.5, 3.0, 3.0]);
            assert!(dx[5].is_nan());
        }
    }
}

#[test]
fn threads_do_not_matter() {
    let (x, dy) = (tensor(1, &[500, 100], 5.0), tensor(2, &[500, 100], 1.0));
    assert_threads_do_not_matter(|| {
        let mut dx = poisoned(&[500, 100]);
        ops::linear_backward_input(&dy, &identity(100), Some(x.view()), &mut dx).unwrap();
        [dx]
    });
}

#[test]
fn refuses_other_shapes() {
    let (dy, x) = (tensor(1, &[2, 3], 1.0), tensor(2, &[6], 1.0));
    assert_refused(
        ops::linear_backward_input(&dy, &identity(3), Some(x.view()), &mut poisoned(&[2, 3])),
        "linear_backward_input: `gelu_input` should have shape [2, 3], got [6]",
    );
}
