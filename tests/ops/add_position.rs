use crate::support::numbers::*;
use invad::ops;

const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [2, 3, 5], [3, 17, 40], [1, 65, 130], [4, 196, 100]];

#[test]
fn forward() {
    for shape in SIZES {
        let (x, position) = (tensor(1, &shape, 2.0), tensor(2, &shape[1..], 1.0));
        let mut got = poisoned(&shape);
        ops::add_position(&x, &position, &mut got).unwrap();
        let position = f64s(&position);
        let n = position.len();
        let want: Vec<f64> =
            f64s(&x).iter().enumerate().map(|(i, x)| x + position[i % n]).collect();
        assert_close(&format!("{shape:?}"), &f64s(&got), &want, 1e-7);
    }
}

/// The first positions are those of tokens that images do not have.
#[test]
fn fewer_tokens_than_positions() {
    for [b, t, n, d] in [[1, 0, 2, 3], [2, 3, 4, 5], [3, 256, 261, 70], [0, 3, 4, 2]] {
        let (tokens, position) = (tensor(1, &[b, t, d], 2.0), tensor(2, &[n, d], 1.0));
        let mut got = poisoned(&[b, n, d]);
        ops::add_position(&tokens, &position, &mut got).unwrap();
        let want = padded(&f64s(&tokens), &f64s(&position), [b, t, n, d]);
        assert_close(&format!("{t} of {n}"), &f64s(&got), &want, 1e-7);
    }
    let refused =
        ops::add_position(&poisoned(&[1, 5, 3]), &poisoned(&[4, 3]), &mut poisoned(&[1, 4, 3]));
    assert_refused(
        refused,
        "add_position: `tokens` should have shape (B, at most 4, 3), got [1, 5, 3]",
    );
}

fn padded(tokens: &[f64], position: &[f64], [b, t, n, d]: [usize; 4]) -> Vec<f64> {
    let token = |image: usize, i: usize| match i.checked_sub((n - t) * d) {
        Some(at) => tokens[image * t * d + at],
        None => 0.0,
    };
    (0..b * n * d).map(|i| token(i / (n * d), i % (n * d)) + position[i % (n * d)]).collect()
}

#[test]
fn backward_accumulates() {
    for shape in SIZES {
        let (dx, start) = (tensor(1, &shape, 2.0), tensor(2, &shape[1..], 1.0));
        let mut got = start.clone();
        ops::add_position_backward(&dx, &mut got).unwrap();
        let mut want = f64s(&start);
        for dx in f64s(&dx).chunks_exact(want.len()) {
            want.iter_mut().zip(dx).for_each(|(w, dx)| *w += dx);
        }
        assert_close(&format!("{shape:?}"), &f64s(&got), &want, 3e-7);
    }
}

#[test]
fn threads_do_not_matter() {
    let (x, position) = (tensor(1, &[3, 256, 100], 1.0), tensor(2, &[256, 100], 1.0));
    assert_threads_do_not_matter(|| {
        let (mut y, mut dposition) = (poisoned(&[3, 256, 100]), position.clone());
        ops::add_position(&x, &position, &mut y).unwrap();
        ops::add_position_backward(&x, &mut dposition).unwrap();
        [y, dposition]
    });
}

#[test]
fn refuses_other_shapes() {
    let (x, position) = (tensor(1, &[2, 3, 4], 1.0), tensor(1, &[4, 3], 1.0));
    assert_refused(
        ops::add_position_backward(&x, &mut position.clone()),
        "add_position_backward: `dx` should have shape (B, …) with … = [4, 3], got [2, 3, 4]",
    );
    assert_refused(
        ops::add_position(&x, &position, &mut poisoned(&[2, 3, 4])),
        "add_position: `tokens` should have shape (B, at most 4, 3), got [2, 3, 4]",
    );
    assert_refused(
        ops::add_position(&x, &tensor(1, &[3, 4], 1.0), &mut poisoned(&[2, 4, 3])),
        "add_position: `x` should have shape [2, 3, 4], got [2, 4, 3]",
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
        for shape in [[1, 1, 8], [2, 3, 40], [1, 65, 136], [3, 64, 64]] {
            let [b, n, d] = shape;
            let (tokens, position) = (halves(1, b * n * d, 2.0), uniform(2, n * d, 1.0));
            let want: Vec<f64> = (0..b * n * d)
                .map(|i| f64::from(tokens[i]) + f64::from(position[i % (n * d)]))
                .collect();
            let tokens = upload(&tokens, &shape, DType::F16, gpu);
            let position = upload(&position, &[n, d], DType::F32, gpu);
            for dtype in [DType::F32, DType::F16] {
                let mut x = Guarded::new(&shape, dtype, gpu);
                ops::add_position(&tokens, &position, x.view_mut()).unwrap();
                let round = |x| if dtype == DType::F16 { rounded(x) } else { x as f32 as f64 };
                let want: Vec<f64> = want.iter().map(|&x| round(x)).collect();
                assert_close(&format!("{shape:?} {dtype:?}"), &x.f64s(), &want, 1e-7);
            }
        }
    }

    #[test]
    fn tiny_with_fewer_tokens() {
        let Some(gpu) = gpu() else { return };
        for [b, t, n, d] in [[2, 0, 1, 8], [2, 3, 4, 40], [3, 60, 65, 64]] {
            let (tokens, position) = (halves(1, b * t * d, 2.0), uniform(2, n * d, 1.0));
            let wide = |v: &[f32]| v.iter().map(|&v| v.into()).collect::<Vec<f64>>();
            let want = padded(&wide(&tokens), &wide(&position), [b, t, n, d]);
            let tokens = upload(&tokens, &[b, t, d], DType::F16, gpu);
            let position = upload(&position, &[n, d], DType::F32, gpu);
            let mut x = Guarded::new(&[b, n, d], DType::F32, gpu);
            ops::add_position(&tokens, &position, x.view_mut()).unwrap();
            assert_close(&format!("{t} of {n}"), &x.f64s(), &want, 1e-7);
        }
    }

    #[test]
    fn refuses_odd_widths() {
        let Some(gpu) = gpu() else { return };
        let tokens = upload(&[0.0; 12], &[1, 2, 6], DType::F16, gpu);
        let position = upload(&[0.0; 12], &[2, 6], DType::F32, gpu);
        let mut x = Guarded::new(&[1, 2, 6], DType::F32, gpu);
        assert_refused(
            ops::add_position(&tokens, &position, x.view_mut()),
            "add_position: `tokens` should have shape (B, N, D) with D a multiple of 8 on a GPU, \
             got [1, 2, 6]",
        );
    }

    #[test]
    fn tiny_backward() {
        let Some(gpu) = gpu() else { return };
        for shape in [[1, 1, 8], [2, 3, 5], [11, 2, 17], [19, 3, 24]] {
            let [b, n, d] = shape;
            let (dx, start) = (uniform(1, b * n * d, 2.0), uniform(2, n * d, 1.0));
            let mut want: Vec<f64> = start.iter().map(|&x| x.into()).collect();
            for dx in dx.chunks_exact(n * d) {
                want.iter_mut().zip(dx).for_each(|(w, &dx)| *w += f64::from(dx));
            }
            let mut dposition = Guarded::new(&[n, d], DType::F32, gpu);
            dposition.view_mut().copy_from_slice(&start).unwrap();
            let dx = upload(&dx, &shape, DType::F32, gpu);
            ops::add_position_backward(&dx, dposition.view_mut()).unwrap();
            assert_close(&format!("{shape:?}"), &dposition.f64s(), &want, 3e-7);
        }
    }
}
