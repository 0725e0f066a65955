use crate::support::numbers::*;
use invad::ops::gather_tokens;

/// Images, tokens, their width, how many are taken, channels, and the first of those that are written.
type Case = [usize; 6];

fn expect(x: &[f64], [b, n, d, t, all, first]: Case, before: f64) -> Vec<f64> {
    let value = |i: usize| match (i % all).checked_sub(first) {
        Some(c) if c < d => x[(i / all / t * n + n - t + i / all % t) * d + c],
        _ => before,
    };
    (0..b * t * all).map(value).collect()
}

#[test]
fn forward() {
    for case in [
        [1, 1, 1, 1, 1, 0],
        [2, 5, 3, 4, 10, 2],
        [1, 261, 24, 256, 48, 24],
        [3, 7, 4, 7, 4, 0],
        [2, 3, 4, 0, 8, 1],
        [0, 3, 4, 2, 8, 1],
        [1, 3, 0, 2, 8, 1],
    ] {
        let [b, n, d, t, all, first] = case;
        let (x, mut y) = (tensor(1, &[b, n, d], 1.0), poisoned(&[b, t, all]));
        y.view_mut().fill(-7.0).unwrap();
        gather_tokens(&x, first, &mut y).unwrap();
        assert_eq!(f64s(&y), expect(&f64s(&x), case, -7.0), "{case:?}");
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let run =
        |x: &[usize], first, y: &[usize]| gather_tokens(&poisoned(x), first, &mut poisoned(y));
    run(&[2, 5, 3], 1, &[2, 4, 4]).unwrap();
    assert_refused(
        run(&[2, 5, 3], 2, &[2, 4, 4]),
        "gather_tokens: `first_channel` should be such that 3 channels from it on are among 4, got 2",
    );
    assert_refused(
        run(&[2, 5, 3], 0, &[2, 6, 4]),
        "gather_tokens: `features` should have shape [2, 5, 4], got [2, 6, 4]",
    );
    assert!(run(&[2, 5, 3], usize::MAX, &[2, 4, 4]).is_err());
    assert!(run(&[2, 5, 3], 0, &[1, 4, 4]).is_err());
    assert!(run(&[2, 5, 3, 1], 0, &[2, 4, 4]).is_err());
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn forward() {
        let Some(gpu) = gpu() else { return };
        for case in [[1, 1, 8, 1, 8, 0], [2, 5, 24, 4, 64, 16], [3, 65, 40, 60, 40, 0]] {
            let [b, n, d, t, all, first] = case;
            let x = halves(1, b * n * d, 1.0);
            for from in [DType::F32, DType::F16] {
                let x = upload(&x, &[b, n, d], from, gpu);
                for to in [DType::F32, DType::F16] {
                    let mut y = Guarded::new(&[b, t, all], to, gpu);
                    y.view_mut().fill(-0.5).unwrap();
                    gather_tokens(&x, first, y.view_mut()).unwrap();
                    let want = expect(&f64s(&x), case, -0.5);
                    assert_eq!(y.f64s(), want, "{case:?} {from:?} to {to:?}");
                }
            }
        }
        let x = upload(&[0.0; 16], &[1, 2, 8], DType::F16, gpu);
        let mut y = Guarded::new(&[1, 2, 12], DType::F32, gpu);
        assert_refused(
            gather_tokens(&x, 0, y.view_mut()),
            "gather_tokens: `features` should be channels, and a first one, in multiples of 8 on a GPU, \
             got 8 of 12 from 0 on",
        );
    }
}
