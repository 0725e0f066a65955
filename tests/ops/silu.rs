use crate::support::numbers::*;
use invad::ops;

fn oracle(x: f64) -> (f64, f64) {
    let s = 1.0 / (1.0 + (-x).exp());
    (x * s, s * (1.0 + x * (1.0 - s)))
}

#[test]
fn forward_and_backward() {
    for n in [1, 3, 17, 64, 1001, 40_000] {
        let (x, dy) = (tensor(1, &[n], 12.0), tensor(2, &[n], 1.0));
        let (mut y, mut dx) = (poisoned(&[n]), poisoned(&[n]));
        ops::silu(&x, &mut y).unwrap();
        ops::silu_backward(&x, &dy, &mut dx).unwrap();
        let want: Vec<f64> = f64s(&x).iter().map(|&x| oracle(x).0).collect();
        assert_close(&format!("silu n {n}"), &f64s(&y), &want, 1e-6);
        let want: Vec<f64> =
            f64s(&x).iter().zip(f64s(&dy)).map(|(&x, dy)| dy * oracle(x).1).collect();
        assert_close(&format!("silu_backward n {n}"), &f64s(&dx), &want, 1e-6);
    }
}

#[test]
fn refuses_other_shapes() {
    let error = ops::silu(&tensor(1, &[2, 3], 1.0), &mut poisoned(&[3, 2])).unwrap_err();
    assert_eq!(error.to_string(), "silu: `y` should have shape [2, 3], got [3, 2]");
}

#[test]
fn threads_do_not_matter() {
    let (x, dy) = (tensor(1, &[40_000], 12.0), tensor(2, &[40_000], 1.0));
    assert_threads_do_not_matter(|| {
        let (mut y, mut dx) = (poisoned(&[40_000]), poisoned(&[40_000]));
        ops::silu(&x, &mut y).unwrap();
        ops::silu_backward(&x, &dy, &mut dx).unwrap();
        [y, dx]
    });
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn forward() {
        let Some(gpu) = gpu() else { return };
        for n in [0, 1, 3, 17, 255, 256, 257, 2047, 2049] {
            for dtype in [DType::F16, DType::F32] {
                let x = halves(1, n, 12.0);
                let mut y = Guarded::new(&[n], DType::F16, gpu);
                ops::silu(&upload(&x, &[n], dtype, gpu), y.view_mut()).unwrap();
                let want: Vec<f64> = x.iter().map(|&x| oracle(x.into()).0).collect();
                let naive: Vec<f64> = want.iter().map(|&y| rounded(y)).collect();
                assert_as_good(&format!("n {n} {dtype:?}"), &y.f64s(), &want, &naive);
            }
        }
    }

    #[test]
    fn tiny_backward() {
        let Some(gpu) = gpu() else { return };
        for n in [0, 1, 3, 255, 256, 257, 2047, 2049] {
            for dtype in [DType::F16, DType::F32] {
                for of_gradients in [DType::F16, DType::F32] {
                    let (x, dy) = (halves(1, n, 12.0), halves(2, n, 1.0));
                    let mut dx = Guarded::new(&[n], of_gradients, gpu);
                    let at = upload(&x, &[n], dtype, gpu);
                    let from = upload(&dy, &[n], of_gradients, gpu);
                    ops::silu_backward(&at, &from, dx.view_mut()).unwrap();
                    let pairs = x.iter().zip(&dy);
                    let want: Vec<f64> =
                        pairs.map(|(&x, &dy)| f64::from(dy) * oracle(x.into()).1).collect();
                    let case = format!("n {n} {dtype:?} {of_gradients:?}");
                    let most = if of_gradients == DType::F16 { 6e-4 } else { 1e-6 };
                    assert_close(&case, &dx.f64s(), &want, most);
                }
            }
        }
    }
}
