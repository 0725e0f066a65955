use crate::support::numbers::*;
use invad::ops;

/// (rows, P, Q).
const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [3, 5, 2], [7, 8, 24], [256, 40, 16], [300, 16, 8]];

/// Rows of a and b in turn.
fn joined(a: &[f64], b: &[f64], [_, p, q]: [usize; 3]) -> Vec<f64> {
    a.chunks(p).zip(b.chunks(q)).flat_map(|(a, b)| [a, b].concat()).collect()
}

#[test]
fn joins_and_splits() {
    for sizes in SIZES {
        let [rows, p, q] = sizes;
        let (a, b) = (tensor(1, &[rows, p], 1.0), tensor(2, &[rows, q], 1.0));
        let mut y = poisoned(&[rows, p + q]);
        ops::concat(&a, &b, &mut y).unwrap();
        assert_eq!(f64s(&y), joined(&f64s(&a), &f64s(&b), sizes), "{sizes:?}");
        let (mut da, mut db) = (poisoned(a.shape()), poisoned(b.shape()));
        ops::concat_backward(&y, &mut da, &mut db).unwrap();
        assert_eq!([f64s(&da), f64s(&db)], [f64s(&a), f64s(&b)], "{sizes:?}");
    }
}

#[test]
fn one_side_may_be_empty() {
    let (a, b) = (tensor(1, &[3, 5], 1.0), poisoned(&[3, 0]));
    let mut y = poisoned(&[3, 5]);
    ops::concat(&a, &b, &mut y).unwrap();
    assert_eq!(f64s(&y), f64s(&a));
    let (mut da, mut db) = (poisoned(&[3, 5]), poisoned(&[3, 0]));
    ops::concat_backward(&y, &mut da, &mut db).unwrap();
    assert_eq!(f64s(&da), f64s(&a));
}

#[test]
fn refuses_other_shapes() {
    let (a, b) = (poisoned(&[2, 3, 4]), poisoned(&[2, 3, 8]));
    assert_refused(
        ops::concat(&a, &b, &mut poisoned(&[2, 3, 13])),
        "concat: `y` should have shape [2, 3, 12], got [2, 3, 13]",
    );
    assert_refused(
        ops::concat(&a, &poisoned(&[6, 8]), &mut poisoned(&[2, 3, 12])),
        "concat: `b` should have shape [2, 3, 8], got [6, 8]",
    );
    assert_refused(
        ops::concat_backward(&poisoned(&[2, 12]), &mut poisoned(&[2, 4]), &mut poisoned(&[3, 8])),
        "concat_backward: `db` should have shape [2, 8], got [3, 8]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn joins_and_splits() {
        let Some(gpu) = gpu() else { return };
        for sizes in [[1, 8, 8], [3, 16, 8], [7, 8, 24], [129, 40, 16]] {
            for dtype in [DType::F16, DType::F32] {
                let [rows, p, q] = sizes;
                let (a, b) = (halves(1, rows * p, 1.0), halves(2, rows * q, 1.0));
                let (a, b) =
                    (upload(&a, &[rows, p], dtype, gpu), upload(&b, &[rows, q], dtype, gpu));
                let mut y = Guarded::new(&[rows, p + q], dtype, gpu);
                ops::concat(&a, &b, y.view_mut()).unwrap();
                assert_eq!(y.f64s(), joined(&f64s(&a), &f64s(&b), sizes), "{sizes:?} {dtype:?}");
                let mut da = Guarded::new(&[rows, p], dtype, gpu);
                let mut db = Guarded::new(&[rows, q], dtype, gpu);
                ops::concat_backward(y.view_mut().view(), da.view_mut(), db.view_mut()).unwrap();
                assert_eq!([da.f64s(), db.f64s()], [f64s(&a), f64s(&b)], "{sizes:?} {dtype:?}");
            }
        }
    }

    #[test]
    fn refuses_channels_that_are_no_whole_vectors() {
        let Some(gpu) = gpu() else { return };
        let of = |c: usize| upload(&vec![0.0; c], &[1, c], DType::F16, gpu);
        assert_refused(
            ops::concat(&of(8), &of(12), Guarded::new(&[1, 20], DType::F16, gpu).view_mut()),
            "concat: `b` should be channels in a multiple of 8, on a GPU, got 12",
        );
        assert_refused(
            ops::concat(&of(8), &of(8), Guarded::new(&[1, 16], DType::F32, gpu).view_mut()),
            "concat: `y` should hold F16, got F32",
        );
    }
}
