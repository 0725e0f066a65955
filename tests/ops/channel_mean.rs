use crate::support::numbers::*;
use invad::ops;

/// (B, C) of x (B, pixels, C).
fn oracle(x: &[f64], [b, h, w, c]: [usize; 4]) -> Vec<f64> {
    let pixels = h * w;
    let at = |image: usize, p: usize, channel: usize| x[(image * pixels + p) * c + channel];
    (0..b * c)
        .map(|i| (0..pixels).map(|p| at(i / c, p, i % c)).sum::<f64>() / pixels as f64)
        .collect()
}

#[test]
fn forward() {
    for shape @ [b, _, _, c] in
        [[1, 1, 1, 1], [2, 3, 5, 17], [1, 7, 9, 64], [3, 2, 33, 65], [2, 19, 19, 272], [0, 2, 2, 8]]
    {
        // Not about 0, so that a sum in f32 would lose digits.
        let data = uniform(1, shape.iter().product(), 1.7).into_iter().map(|x| x + 3.0);
        let x = from(&data.collect::<Vec<_>>(), &shape);
        let mut mean = poisoned(&[b, c]);
        ops::channel_mean(&x, &mut mean).unwrap();
        assert_close(&format!("{shape:?}"), &f64s(&mean), &oracle(&f64s(&x), shape), 1e-7);
    }
}

#[test]
fn threads_do_not_matter() {
    let x = tensor(1, &[3, 40, 41, 130], 1.0);
    assert_threads_do_not_matter(|| {
        let mut mean = poisoned(&[3, 130]);
        ops::channel_mean(&x, &mut mean).unwrap();
        [mean]
    });
}

#[test]
fn refuses_what_does_not_fit() {
    let run =
        |x: &[usize], mean: &[usize]| ops::channel_mean(&tensor(1, x, 1.0), &mut poisoned(mean));
    assert_refused(
        run(&[2, 3, 3, 4], &[2, 3]),
        "channel_mean: `mean` should have shape [2, 4], got [2, 3]",
    );
    assert_refused(
        run(&[2, 0, 3, 4], &[2, 4]),
        "channel_mean: `x` should have shape (B, H ≥ 1, W ≥ 1, C), got [2, 0, 3, 4]",
    );
    assert_refused(
        run(&[2, 9, 4], &[2, 4]),
        "channel_mean: `x` should have shape (B, H, W, C), got [2, 9, 4]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    fn check(shape: [usize; 4]) {
        let Some(gpu) = gpu() else { return };
        let [b, _, _, c] = shape;
        let x = halves(1, shape.iter().product(), 1.7);
        let want = oracle(&x.iter().map(|&x| x.into()).collect::<Vec<_>>(), shape);
        let mut mean = Guarded::new(&[b, c], DType::F16, gpu);
        ops::channel_mean(&upload(&x, &shape, DType::F16, gpu), mean.view_mut()).unwrap();
        let naive: Vec<f64> = want.iter().map(|&m| rounded(m)).collect();
        assert_as_good(&format!("{shape:?}"), &mean.f64s(), &want, &naive);
    }

    #[test]
    fn tiny() {
        for shape in [[1, 1, 1, 8], [2, 3, 11, 72], [1, 10, 10, 64]] {
            check(shape);
        }
    }

    #[test]
    fn of_a_network() {
        for shape in [[2, 19, 19, 272], [1, 48, 48, 144], [3, 1, 31, 136]] {
            check(shape);
        }
    }

    #[test]
    fn refuses_channels_it_has_no_kernel_for() {
        let Some(gpu) = gpu() else { return };
        let x = upload(&[0.0; 24], &[1, 1, 2, 12], DType::F16, gpu);
        let mut mean = Guarded::new(&[1, 12], DType::F16, gpu);
        assert_refused(
            ops::channel_mean(&x, mean.view_mut()),
            "channel_mean: `x` should have shape (B, H, W, C) with C a multiple of 8 on a GPU, got \
             [1, 1, 2, 12]",
        );
    }
}
