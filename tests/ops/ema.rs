use crate::support::numbers::*;
use invad::ops;

#[test]
fn forward() {
    for n in [1, 3, 17, 1001, 40_000] {
        for decay in [0.0, 0.1, 0.9, 0.999] {
            let (p, start) = (tensor(1, &[n], 2.0), tensor(2, &[n], 2.0));
            let mut average = start.clone();
            ops::ema(decay, &p, &mut average).unwrap();
            let pairs = f64s(&start).into_iter().zip(f64s(&p));
            let want: Vec<f64> = pairs.map(|(a, p)| decay * a + (1.0 - decay) * p).collect();
            assert_close(&format!("n {n} decay {decay}"), &f64s(&average), &want, 2e-7);
        }
    }
}

#[test]
fn follows_constant_parameters() {
    let (p, mut average) = (from(&[1.0; 9], &[9]), from(&[0.0; 9], &[9]));
    for k in 1..=200 {
        ops::ema(0.99, &p, &mut average).unwrap();
        assert_close(&format!("step {k}"), &f64s(&average), &[1.0 - 0.99f64.powi(k); 9], 1.5e-6);
    }
}

#[test]
fn threads_do_not_matter() {
    let (p, start) = (tensor(1, &[40_000], 2.0), tensor(2, &[40_000], 2.0));
    assert_threads_do_not_matter(|| {
        let mut average = start.clone();
        ops::ema(0.999, &p, &mut average).unwrap();
        [average]
    });
}

#[test]
fn refuses_other_shapes() {
    assert_refused(
        ops::ema(0.5, &tensor(1, &[2, 3], 1.0), &mut tensor(1, &[3, 2], 1.0)),
        "ema: `average` should have shape [2, 3], got [3, 2]",
    );
}
