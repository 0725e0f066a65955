use crate::resize_bilinear::oracle;
use crate::support::numbers::*;
use invad::ops::{Gather, gather_features};

/// Maps, channels and how many, the grid, all channels, and the first of the maps'.
type Case = ([usize; 2], usize, usize, usize, usize, usize);

fn expect(x: &[f64], (from, c, b, grid, all, first): Case, before: f64) -> Vec<f64> {
    let resized = oracle(x, from, [grid; 2], c);
    let value = |i: usize| match (i % all).checked_sub(first) {
        Some(at) if at < c => resized[i / all * c + at],
        _ => before,
    };
    (0..b * grid * grid * all).map(value).collect()
}

#[test]
fn forward() {
    for case in [
        ([1, 1], 1, 1, 1, 1, 0),
        ([9, 4], 5, 2, 7, 13, 3),
        ([32, 32], 24, 1, 16, 40, 16),
        ([3, 5], 8, 3, 4, 8, 0),
        ([5, 5], 3, 0, 4, 8, 5),
    ] {
        let (from, c, b, grid, all, first) = case;
        let mut gather = Gather::new(from, grid).unwrap();
        let x = tensor(1, &[b, from[0], from[1], c], 1.0);
        let mut y = tensor(2, &[b, grid, grid, all], 0.0);
        y.view_mut().fill(-7.0).unwrap();
        for _ in 0..2 {
            gather_features(&x, &mut gather, first, &mut y).unwrap();
            assert_close(&format!("{case:?}"), &f64s(&y), &expect(&f64s(&x), case, -7.0), 1e-6);
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let mut gather = Gather::new([3, 4], 2).unwrap();
    let mut run = |x: &[usize], first, y: &[usize]| {
        gather_features(&tensor(1, x, 1.0), &mut gather, first, &mut poisoned(y))
    };
    run(&[2, 3, 4, 5], 1, &[2, 2, 2, 6]).unwrap();
    assert_refused(
        run(&[2, 3, 4, 5], 2, &[2, 2, 2, 6]),
        "gather_features: `first_channel` should be such that 5 channels from it on are among 6, got 2",
    );
    assert!(run(&[2, 3, 4, 5], usize::MAX, &[2, 2, 2, 6]).is_err());
    assert!(run(&[2, 4, 3, 5], 1, &[2, 2, 2, 6]).is_err());
    assert!(run(&[2, 3, 4, 5], 1, &[1, 2, 2, 6]).is_err());
    assert!(run(&[2, 3, 4, 5], 1, &[2, 2, 3, 6]).is_err());
    assert!(Gather::new([0, 4], 2).is_err());
    assert!(Gather::new([3, 4], usize::MAX).is_err());
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn forward() {
        let Some(gpu) = gpu() else { return };
        for case in
            [([1, 1], 8, 1, 1, 8, 0), ([9, 4], 16, 2, 7, 40, 8), ([32, 32], 24, 1, 16, 40, 16)]
        {
            let (from, c, b, grid, all, first) = case;
            let mut gather = Gather::new(from, grid).unwrap();
            let x = halves(1, b * from[0] * from[1] * c, 1.0);
            let x = upload(&x, &[b, from[0], from[1], c], DType::F16, gpu);
            for (dtype, tolerance) in [(DType::F32, 4e-6), (DType::F16, 1.0 / 2048.0)] {
                let mut y = Guarded::new(&[b, grid, grid, all], dtype, gpu);
                y.view_mut().fill(-0.5).unwrap();
                gather_features(&x, &mut gather, first, y.view_mut()).unwrap();
                let want = expect(&f64s(&x), case, -0.5);
                assert_close(&format!("{case:?} to {dtype:?}"), &y.f64s(), &want, tolerance);
            }
        }
        let mut gather = Gather::new([2, 2], 2).unwrap();
        let x = upload(&[0.0; 16], &[1, 2, 2, 4], DType::F16, gpu);
        let mut y = Guarded::new(&[1, 2, 2, 8], DType::F32, gpu);
        assert!(gather_features(&x, &mut gather, 0, y.view_mut()).is_err());
    }
}
