use crate::common::*;
use invad::ops::{self, AdamW};

struct State {
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl State {
    fn step(&mut self, c: AdamW, k: i32, clip: f64, gradient: &[f64]) {
        for (i, g) in gradient.iter().enumerate() {
            let g = clip * g;
            self.m[i] = c.beta1 * self.m[i] + (1.0 - c.beta1) * g;
            self.v[i] = c.beta2 * self.v[i] + (1.0 - c.beta2) * g * g;
            let m = self.m[i] / (1.0 - c.beta1.powi(k));
            let v = self.v[i] / (1.0 - c.beta2.powi(k));
            self.p[i] -= c.learning_rate * c.weight_decay * self.p[i];
            self.p[i] -= c.learning_rate * m / (v.sqrt() + c.eps);
        }
    }
}

/// Several steps, from zero parameters too, where a step is not lost in the parameter's rounding.
#[test]
fn several_steps() {
    let configs = [
        AdamW { learning_rate: 5e-5, ..Default::default() },
        AdamW { learning_rate: 1e-2, weight_decay: 0.3, ..Default::default() },
        AdamW { learning_rate: 3e-3, beta1: 0.5, beta2: 0.9, eps: 1e-3, weight_decay: 0.01 },
    ];
    for (config, clip) in configs.into_iter().zip([1.0, 0.37, 1e-3]) {
        for (n, scale) in [(1, 0.0), (7, 1.0), (1001, 0.0), (40_000, 1.0)] {
            let mut p = tensor(1, &[n], scale);
            let (mut m, mut v) = (from(&vec![0.0; n], &[n]), from(&vec![0.0; n], &[n]));
            let mut want = State { p: f64s(&p), m: vec![0.0; n], v: vec![0.0; n] };
            for k in 1..=6 {
                let g = tensor(10 + k, &[n], 10f32.powi(k as i32 - 4));
                ops::adamw(config, k, clip, &mut p, &g, &mut m, &mut v).unwrap();
                want.step(config, k as i32, clip, &f64s(&g));
                let case = format!("{config:?} clip {clip} n {n} × {scale}, step {k}");
                assert_close(&format!("{case}: p"), &f64s(&p), &want.p, 1.5e-6);
                assert_close(&format!("{case}: m"), &f64s(&m), &want.m, 1e-6);
                assert_close(&format!("{case}: v"), &f64s(&v), &want.v, 1e-6);
            }
        }
    }
}

#[test]
fn parameters_without_gradient_only_decay() {
    let config = AdamW { learning_rate: 0.1, weight_decay: 0.5, ..Default::default() };
    let (mut p, zeros) = (from(&[2.0, -4.0], &[2]), from(&[0.0; 2], &[2]));
    let (mut m, mut v) = (zeros.clone(), zeros.clone());
    ops::adamw(config, 1, 1.0, &mut p, &zeros, &mut m, &mut v).unwrap();
    assert_close("p", &f64s(&p), &[1.9, -3.8], 1e-7);
}

#[test]
fn norm_and_its_clipping() {
    for n in [0, 1, 255, 257, 40_000, 100_003] {
        let x = tensor(1, &[n], 3.0);
        let want = dot(&f64s(&x), &f64s(&x)).sqrt();
        let got = ops::global_norm(&x).unwrap();
        assert_close(&format!("n {n}"), &[got], &[want], 1e-7);
    }
    assert_eq!(ops::clip_coefficient(0.0, 1.0), 1.0);
    assert_eq!(ops::clip_coefficient(0.5, 1.0), 1.0);
    assert_eq!(ops::clip_coefficient(4.0, 1.0), 1.0 / 4.000001);
    assert_eq!(ops::clip_coefficient(4.0, 2.0), 2.0 / 4.000001);
    assert_eq!(ops::clip_coefficient(f64::INFINITY, 1.0), 0.0);
}

/// A gradient that is not a number must not pass for one that needs no clipping.
#[test]
fn nan_comes_through() {
    let norm = ops::global_norm(&from(&[1.0, f32::NAN, 2.0], &[3])).unwrap();
    assert!(norm.is_nan());
    assert!(ops::clip_coefficient(norm, 1.0).is_nan());
}

#[test]
fn threads_do_not_matter() {
    let n = 100_003;
    let (g, start) = (tensor(1, &[n], 3.0), tensor(2, &[n], 1.0));
    let config = AdamW { learning_rate: 1e-2, weight_decay: 0.3, ..Default::default() };
    assert_threads_do_not_matter(|| {
        let (mut p, mut m, mut v) = (start.clone(), start.clone(), g.clone());
        v.view_mut().fill(0.5).unwrap();
        let norm = ops::global_norm(&g).unwrap();
        let clip = ops::clip_coefficient(norm, 1.0);
        ops::adamw(config, 3, clip, &mut p, &g, &mut m, &mut v).unwrap();
        let norm = norm.to_bits();
        let halves = [norm as u32, (norm >> 32) as u32].map(f32::from_bits);
        [p, m, v, from(&halves, &[2])]
    });
}

#[test]
fn refuses_other_arguments() {
    let (mut p, mut m, mut v) = (poisoned(&[3]), poisoned(&[3]), poisoned(&[4]));
    let g = tensor(1, &[3], 1.0);
    let config = AdamW::default();
    assert_refused(
        ops::adamw(config, 1, 1.0, &mut p, &g, &mut m, &mut v),
        "adamw: `v` should have shape [3], got [4]",
    );
    assert_refused(
        ops::adamw(config, 1, 1.0, &mut p, &tensor(1, &[2], 1.0), &mut m, &mut v),
        "adamw: `gradient` should have shape [3], got [2]",
    );
    assert_refused(
        ops::adamw(config, 0, 1.0, &mut p, &g, &mut m, &mut g.clone()),
        "adamw: `step` should be 1 or more, got 0",
    );
}
