use crate::support::numbers::*;
use invad::ops;

#[test]
fn forward() {
    for n in [1, 3, 17, 1001, 40_000] {
        for (a, b) in [(1.02, -0.3), (0.0, 1.0), (-0.5, 0.25), (157.2, -3.5)] {
            let (start, output) = (tensor(1, &[n], 2.0), tensor(2, &[n], 2.0));
            let mut x = start.clone();
            ops::inversion_step(&mut x, &output, a, b).unwrap();
            let pairs = f64s(&start).into_iter().zip(f64s(&output));
            let want: Vec<f64> = pairs.map(|(x, o)| f64::from(a) * x + f64::from(b) * o).collect();
            assert_close(&format!("n {n} a {a} b {b}"), &f64s(&x), &want, 2e-7);
        }
    }
}

/// The last step of an inversion, to ᾱ = 0, leaves the network's output itself.
#[test]
fn nothing_of_x_is_left_where_a_is_0() {
    let (mut x, output) = (tensor(1, &[3, 50], 1e6), tensor(2, &[3, 50], 2.0));
    ops::inversion_step(&mut x, &output, 0.0, 1.0).unwrap();
    assert_eq!(x.to_vec_f32(), output.to_vec_f32());
}

#[test]
fn threads_do_not_matter() {
    let (start, output) = (tensor(1, &[40_000], 2.0), tensor(2, &[40_000], 2.0));
    assert_threads_do_not_matter(|| {
        let mut x = start.clone();
        ops::inversion_step(&mut x, &output, 0.9, 0.3).unwrap();
        [x]
    });
}

#[test]
fn refuses_other_shapes() {
    assert_refused(
        ops::inversion_step(&mut tensor(1, &[2, 3], 1.0), &tensor(2, &[3, 2], 1.0), 1.0, 1.0),
        "inversion_step: `output` should have shape [2, 3], got [3, 2]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn forward() {
        let Some(gpu) = gpu() else { return };
        for n in [0, 1, 3, 8, 17, 2047, 2048, 2049, 40_000] {
            for (a, b) in [(1.02, -0.3), (0.0, 1.0), (157.2, -3.5)] {
                let (start, output) = (uniform(1, n, 2.0), halves(2, n, 2.0));
                let mut x = Guarded::new(&[n], DType::F32, gpu);
                x.view_mut().copy_from_slice(&start).unwrap();
                let at = upload(&output, &[n], DType::F16, gpu);
                ops::inversion_step(x.view_mut(), &at, a, b).unwrap();
                let pairs = start.iter().zip(&output);
                let want: Vec<f64> = pairs
                    .map(|(&x, &o)| f64::from(a) * f64::from(x) + f64::from(b) * f64::from(o))
                    .collect();
                assert_close(&format!("n {n} a {a} b {b}"), &x.f64s(), &want, 2e-7);
            }
        }
    }
}
