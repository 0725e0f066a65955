use crate::common::*;
use invad::ops;

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

#[test]
fn backward() {
    for (n, scale) in [(1, 0.1), (3, 4.0), (17, 0.01), (1001, 8.0), (40_000, 30.0)] {
        let (x, dy) = (tensor(1, &[n], scale), tensor(2, &[n], 1.0));
        let mut dx = dy.clone();
        ops::gelu_backward(&x, &mut dx).unwrap();
        let want: Vec<f64> =
            f64s(&x).into_iter().zip(f64s(&dy)).map(|(x, dy)| dy * derivative(x)).collect();
        assert_close(&format!("n {n} scale {scale}"), &f64s(&dx), &want, 2e-6);
    }
}

#[test]
fn far_out_the_slope_is_0_or_1() {
    let x = from(&[-1e6, -50.0, 0.0, 50.0, 1e6, f32::NAN], &[6]);
    let mut dx = from(&[3.0; 6], &[6]);
    ops::gelu_backward(&x, &mut dx).unwrap();
    let dx = dx.to_vec_f32();
    assert_eq!(dx[..5], [0.0, 0.0, 1.5, 3.0, 3.0]);
    assert!(dx[5].is_nan());
}

#[test]
fn threads_do_not_matter() {
    let (x, dy) = (tensor(1, &[50_000], 5.0), tensor(2, &[50_000], 1.0));
    assert_threads_do_not_matter(|| {
        let mut dx = dy.clone();
        ops::gelu_backward(&x, &mut dx).unwrap();
        [dx]
    });
}

#[test]
fn refuses_other_shapes() {
    assert_refused(
        ops::gelu_backward(&tensor(1, &[2, 3], 1.0), &mut poisoned(&[6])),
        "gelu_backward: `dx` should have shape [2, 3], got [6]",
    );
}
