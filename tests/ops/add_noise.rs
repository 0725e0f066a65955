use crate::support::numbers::*;
use invad::{Tensor, ops};

fn run(x: &Tensor, noise: &Tensor, a: &Tensor, s: &Tensor) -> Tensor {
    let mut out = poisoned(x.shape());
    ops::add_noise(x, noise, a, s, &mut out).unwrap();
    out
}

#[test]
fn forward() {
    for shape in [&[1][..], &[4], &[2, 3], &[3, 17, 5], &[2, 16, 16, 17], &[5, 4099]] {
        let (x, noise) = (tensor(1, shape, 2.0), tensor(2, shape, 2.0));
        let (a, s) = (tensor(3, &shape[..1], 1.0), tensor(4, &shape[..1], 1.0));
        let n: usize = shape[1..].iter().product();
        let (a_, s_) = (f64s(&a), f64s(&s));
        let pairs = f64s(&x).into_iter().zip(f64s(&noise)).enumerate();
        let want: Vec<f64> = pairs.map(|(i, (x, e))| a_[i / n] * x + s_[i / n] * e).collect();
        assert_close(&format!("{shape:?}"), &f64s(&run(&x, &noise, &a, &s)), &want, 2e-7);
    }
}

#[test]
fn ends_of_the_schedule_are_exact() {
    let (x, noise) = (tensor(1, &[2, 9], 2.0), tensor(2, &[2, 9], 2.0));
    let got = run(&x, &noise, &from(&[1.0, 0.0], &[2]), &from(&[0.0, 1.0], &[2])).to_vec_f32();
    assert_eq!(got[..9], x.to_vec_f32()[..9]);
    assert_eq!(got[9..], noise.to_vec_f32()[9..]);
}

#[test]
fn threads_do_not_matter() {
    let (x, noise) = (tensor(1, &[5, 4099], 2.0), tensor(2, &[5, 4099], 2.0));
    let (a, s) = (tensor(3, &[5], 1.0), tensor(4, &[5], 1.0));
    assert_threads_do_not_matter(|| [run(&x, &noise, &a, &s)]);
}

#[test]
fn refuses_other_shapes() {
    let (x, one) = (tensor(1, &[2, 3], 1.0), tensor(1, &[3], 1.0));
    let two = tensor(1, &[2], 1.0);
    assert_refused(
        ops::add_noise(&x, &x, &one, &two, &mut poisoned(&[2, 3])),
        "add_noise: `signal_scale` should have shape [2], got [3]",
    );
    assert_refused(
        ops::add_noise(&x, &one, &two, &two, &mut poisoned(&[2, 3])),
        "add_noise: `noise` should have shape [2, 3], got [3]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn tiny() {
        let Some(gpu) = gpu() else { return };
        for shape in [&[1][..], &[4], &[2, 3], &[3, 17, 5], &[2, 257]] {
            let n: usize = shape.iter().product();
            let images = shape[0];
            let (x, noise) = (halves(1, n, 2.0), uniform(2, n, 2.0));
            let (a, s) = (uniform(3, images, 1.0), uniform(4, images, 1.0));
            let of = |v: &[f32], i: usize| f64::from(v[i / (n / images)]);
            let pairs = x.iter().zip(&noise).enumerate();
            let want: Vec<f64> = pairs
                .map(|(i, (&x, &e))| of(&a, i) * f64::from(x) + of(&s, i) * f64::from(e))
                .collect();
            let up = |data: &[f32], shape: &[usize]| upload(data, shape, DType::F32, gpu);
            let mut out = Guarded::new(shape, DType::F32, gpu);
            ops::add_noise(
                &upload(&x, shape, DType::F16, gpu),
                &up(&noise, shape),
                &up(&a, &[images]),
                &up(&s, &[images]),
                out.view_mut(),
            )
            .unwrap();
            assert_close(&format!("{shape:?}"), &out.f64s(), &want, 2e-7);
        }
    }
}
