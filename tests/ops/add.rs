use crate::support::numbers::*;
use invad::ops;

fn sum(y: &[f32], x: &[f32]) -> Vec<f64> {
    y.iter().zip(x).map(|(&y, &x)| f64::from(y) + f64::from(x)).collect()
}

#[test]
fn adds() {
    for n in [0, 1, 17, 1001, 40_000] {
        let (x, mut y) = (tensor(1, &[n], 2.0), tensor(2, &[n], 1.0));
        let want = sum(&y.to_vec_f32(), &x.to_vec_f32());
        ops::add(&mut y, &x).unwrap();
        let want: Vec<f64> = want.into_iter().map(|v| f64::from(v as f32)).collect();
        assert_eq!(f64s(&y), want, "n {n}");
    }
}

#[test]
fn refuses_other_shapes() {
    assert_refused(
        ops::add(&mut poisoned(&[3, 2]), &poisoned(&[2, 3])),
        "add: `y` should have shape [2, 3], got [3, 2]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn adds() {
        let Some(gpu) = gpu() else { return };
        for n in [0, 1, 3, 17, 255, 257, 2049] {
            for (of_x, of_y) in [
                (DType::F16, DType::F16),
                (DType::F16, DType::F32),
                (DType::F32, DType::F16),
                (DType::F32, DType::F32),
            ] {
                let (x, start) = (halves(1, n, 2.0), halves(2, n, 1.0));
                let mut y = Guarded::new(&[n], of_y, gpu);
                y.view_mut().copy_from_slice(&start).unwrap();
                ops::add(y.view_mut(), &upload(&x, &[n], of_x, gpu)).unwrap();
                let round = |v: f64| if of_y == DType::F16 { rounded(v) } else { v };
                let want: Vec<f64> = sum(&start, &x).into_iter().map(round).collect();
                assert_eq!(y.f64s(), want, "n {n} {of_x:?} {of_y:?}");
            }
        }
    }
}
