use crate::support::numbers::*;
use invad::ops::Activation;
use invad::{Tensor, ops};

/// In its tanh form.
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

fn derivative(x: f64) -> f64 {
    let scale = (2.0 / std::f64::consts::PI).sqrt();
    let t = (scale * (x + 0.044715 * x.powi(3))).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * scale * (1.0 + 3.0 * 0.044715 * x * x)
}

#[test]
fn oracle_is_the_derivative() {
    let x: Vec<f64> = (-80..=80).map(|i| f64::from(i) * 0.1).collect();
    let got: Vec<f64> = x.iter().map(|&x| derivative(x)).collect();
    let want = numeric_gradient(&x, |x| x.iter().map(|&x| gelu(x)).sum());
    assert_close("derivative", &got, &want, 1e-8);
}

/// The weight that changes nothing.
fn identity(n: usize) -> Tensor {
    let numbers: Vec<f32> = (0..n * n).map(|i| f32::from(i % (n + 1) == 0)).collect();
    from(&numbers, &[n, n])
}

#[test]
fn backward() {
    let cases = [(1, 1, 0.1), (3, 17, 4.0), (33, 70, 0.01), (150, 97, 8.0), (40, 1100, 30.0)];
    for (m, n, scale) in cases {
        let (x, dy) = (tensor(1, &[m, n], scale), tensor(2, &[m, n], 1.0));
        let mut dx = poisoned(&[m, n]);
        ops::linear_backward_input(&dy, &identity(n), Some(x.view()), &mut dx).unwrap();
        let want: Vec<f64> =
            f64s(&x).into_iter().zip(f64s(&dy)).map(|(x, dy)| dy * derivative(x)).collect();
        assert_close(&format!("[{m}, {n}] scale {scale}"), &f64s(&dx), &want, 2e-6);
    }
}

#[test]
fn forward() {
    for (n, scale) in [(1, 1.0), (3, 1.0), (17, 8.0), (64, 8.0), (1001, 8.0), (40_000, 8.0)] {
        let x = tensor(1, &[n], scale);
        let mut y = poisoned(&[n]);
        ops::gelu(&x, &mut y).unwrap();
        let want: Vec<f64> = f64s(&x).into_iter().map(gelu).collect();
        assert_close(&format!("n {n}"), &f64s(&y), &want, 1e-6);
    }
    let refused = ops::gelu(&tensor(1, &[2, 3], 1.0), &mut poisoned(&[3, 2])).unwrap_err();
    assert_eq!(refused.to_string(), "gelu: `y` should have shape [2, 3], got [3, 2]");
}

#[test]
fn erf_of_a_linear_layer() {
    // 0.5·(1 + erf(x/√2)) of 1 and of −3, from tables.
    assert!((gelu_erf(1.0) - 0.841_344_746_068_543).abs() < 1e-14);
    assert!((gelu_erf(-3.0) + 3.0 * 1.349_898_031_630_094e-3).abs() < 1e-15);
    for (m, n, scale) in [(1, 1, 1.0), (3, 17, 4.0), (64, 70, 1.0), (150, 1024, 6.0)] {
        let (x, weight) = (tensor(1, &[m, 40], scale), tensor(2, &[n, 40], 0.2));
        let bias = tensor(3, &[n], 1.0);
        let (mut pre, mut y) = (poisoned(&[m, n]), poisoned(&[m, n]));
        let (bias, kept) = (Some(bias.view()), Some(pre.view_mut()));
        ops::linear(&x, &weight, bias, Activation::GeluErf, kept, &mut y).unwrap();
        let want: Vec<f64> = f64s(&pre).into_iter().map(gelu_erf).collect();
        assert_close(&format!("({m}, {n})"), &f64s(&y), &want, 2e-7);
        let pairs = f64s(&y).into_iter().zip(&want);
        let off = pairs.map(|(y, w)| (y - w).abs() / (w.abs() + 1e-30)).fold(0.0, f64::max);
        assert!(off < 3e-6, "({m}, {n}): {off:.1e} of a number, where it is small as well");
    }
    let x = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30, -1e30];
    let mut y = poisoned(&[5, 1]);
    let one = from(&[1.0], &[1, 1]);
    ops::linear(&from(&x, &[5, 1]), &one, None, Activation::GeluErf, None, &mut y).unwrap();
    let y = y.to_vec_f32();
    assert_eq!([y[0], y[1], y[3], y[4]], [f32::INFINITY, 0.0, 1e30, 0.0]);
    assert!(y[2].is_nan());
}

/// What the backward pass computes again is what the layer gave.
#[test]
fn as_the_epilogue_of_a_linear_layer() {
    for (m, n) in [(3, 17), (64, 96), (150, 1024)] {
        let (x, weight) = (tensor(1, &[m, 40], 2.0), tensor(2, &[n, 40], 0.5));
        let (mut pre, mut y, mut again) = (poisoned(&[m, n]), poisoned(&[m, n]), poisoned(&[m, n]));
        let gelu = Activation::Gelu;
        ops::linear(&x, &weight, None, gelu, Some(pre.view_mut()), &mut y).unwrap();
        ops::gelu(&pre, &mut again).unwrap();
        assert_eq!(bits(&again), bits(&y), "({m}, {n})");
    }
}

#[test]
fn far_out_the_slope_is_0_or_1() {
    for n in [6, 48] {
        let row = [-1e6, -50.0, 0.0, 50.0, 1e6, f32::NAN].repeat(n / 6);
        let x = from(&row.repeat(n), &[n, n]);
        let (dy, mut dx) = (from(&vec![3.0; n * n], &[n, n]), poisoned(&[n, n]));
        ops::linear_backward_input(&dy, &identity(n), Some(x.view()), &mut dx).unwrap();
        for dx in dx.to_vec_f32().chunks(6) {
            assert_eq!(dx[..5], [0.0, 0.0, 1.5, 3.0, 3.0]);
            assert!(dx[5].is_nan());
        }
    }
}

#[test]
fn threads_do_not_matter() {
    let (x, dy) = (tensor(1, &[500, 100], 5.0), tensor(2, &[500, 100], 1.0));
    assert_threads_do_not_matter(|| {
        let mut dx = poisoned(&[500, 100]);
        ops::linear_backward_input(&dy, &identity(100), Some(x.view()), &mut dx).unwrap();
        [dx]
    });
}

#[test]
fn refuses_other_shapes() {
    let (dy, x) = (tensor(1, &[2, 3], 1.0), tensor(2, &[6], 1.0));
    assert_refused(
        ops::linear_backward_input(&dy, &identity(3), Some(x.view()), &mut poisoned(&[2, 3])),
        "linear_backward_input: `gelu_input` should have shape [2, 3], got [6]",
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
        for n in [0, 8, 24, 2040, 2048, 2056, 10_000] {
            let x = halves(1, n, 8.0);
            let mut y = Guarded::new(&[n], DType::F16, gpu);
            ops::gelu(&upload(&x, &[n], DType::F16, gpu), y.view_mut()).unwrap();
            let want: Vec<f64> = x.iter().map(|&x| gelu(x.into())).collect();
            let naive: Vec<f64> = want.iter().map(|&y| rounded(y)).collect();
            assert_as_good(&format!("n {n}"), &y.f64s(), &want, &naive);
        }
        let mut y = Guarded::new(&[12], DType::F16, gpu);
        let odd = ops::gelu(&upload(&[0.0; 12], &[12], DType::F16, gpu), y.view_mut());
        assert!(odd.unwrap_err().to_string().contains("a multiple of 8 numbers"));
    }

    #[test]
    fn tiny_kept_and_backward() {
        let Some(gpu) = gpu() else { return };
        for [m, k, n] in [[1, 8, 8], [5, 31, 24], [70, 40, 136]] {
            let (x, w) = (halves(1, m * k, 2.0), halves(2, n * k, 4.0 / (k as f32).sqrt()));
            let bias = halves(3, n, 1.0);
            let wide = |v: &[f32]| v.iter().map(|&v| v.into()).collect::<Vec<f64>>();
            let xw = product(&wide(&x), &transposed(&wide(&w), n, k), [m, k, n]);
            let up = |data: &[f32], shape: &[usize]| upload(data, shape, DType::F16, gpu);
            let (x, w) = (up(&x, &[m, k]), up(&w, &[n, k]));
            for with_bias in [true, false] {
                let case = format!("[{m}, {k}, {n}] bias {with_bias}");
                let plus = |i: usize| if with_bias { f64::from(bias[i % n]) } else { 0.0 };
                let pre: Vec<f64> = xw.iter().enumerate().map(|(i, y)| y + plus(i)).collect();
                let mut kept = Guarded::new(&[m, n], DType::F16, gpu);
                let mut y = Guarded::new(&[m, n], DType::F16, gpu);
                let on_gpu = up(&bias, &[n]);
                let (bias, into) = (with_bias.then(|| on_gpu.view()), kept.view_mut());
                ops::linear(&x, &w, bias, Activation::Gelu, Some(into), y.view_mut()).unwrap();
                let naive: Vec<f64> = pre.iter().map(|&x| rounded(x)).collect();
                assert_as_good(&format!("{case}: kept"), &kept.f64s(), &pre, &naive);
                let want: Vec<f64> = pre.iter().map(|&x| gelu(x)).collect();
                let naive: Vec<f64> = naive.iter().map(|&x| rounded(gelu(x))).collect();
                assert_as_good(&case, &y.f64s(), &want, &naive);
                let bias = with_bias.then(|| on_gpu.view());
                ops::linear(&x, &w, bias, Activation::GeluErf, None, y.view_mut()).unwrap();
                let want: Vec<f64> = pre.iter().map(|&x| gelu_erf(x)).collect();
                let naive: Vec<f64> = pre.iter().map(|&x| rounded(gelu_erf(rounded(x)))).collect();
                assert_as_good(&format!("{case}: erf"), &y.f64s(), &want, &naive);
            }
            // Back through a layer from these n features to k.
            let (dy, w) = (halves(4, m * k, 1.0), halves(5, k * n, 1.0));
            let at = halves(6, m * n, 5.0);
            let before = product(&wide(&dy), &wide(&w), [m, k, n]);
            let pairs = before.iter().zip(&at);
            let want: Vec<f64> = pairs.clone().map(|(d, &x)| d * derivative(x.into())).collect();
            let naive: Vec<f64> =
                pairs.map(|(&d, &x)| rounded(rounded(d) * rounded(derivative(x.into())))).collect();
            let (kept, w, mut dx) =
                (up(&at, &[m, n]), up(&w, &[k, n]), Guarded::new(&[m, n], DType::F16, gpu));
            for dtype in [DType::F16, DType::F32] {
                let dy = upload(&dy, &[m, k], dtype, gpu);
                ops::linear_backward_input(&dy, &w, Some(kept.view()), dx.view_mut()).unwrap();
                let case = format!("[{m}, {k}, {n}] {dtype:?}: dx");
                assert_gradient_as_good(&case, &dx.f64s(), &want, &naive);
            }
        }
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        let Some(gpu) = gpu() else { return };
        let x = upload(&[0.0; 8], &[1, 8], DType::F16, gpu);
        let w = upload(&[0.0; 96], &[12, 8], DType::F16, gpu);
        let [mut kept, mut y] = [(); 2].map(|()| Guarded::new(&[1, 12], DType::F16, gpu));
        let mut run =
            |activation| ops::linear(&x, &w, None, activation, Some(kept.view_mut()), y.view_mut());
        assert_refused(
            run(Activation::Gelu),
            "linear: `before_activation` should have shape (…, a multiple of 8) on a GPU, \
             got [1, 12]",
        );
        assert_refused(
            run(Activation::None),
            "linear: `before_activation` should be none without GELU in its tanh form, on a GPU, got some",
        );
        assert_refused(
            run(Activation::GeluErf),
            "linear: `before_activation` should be none without GELU in its tanh form, on a GPU, got some",
        );
        assert_refused(
            ops::linear(&x, &w, None, Activation::GeluErf, None, y.view_mut()),
            "linear: `y` should have shape a multiple of 8 numbers on a GPU, got [1, 12]",
        );
        let (dy, mut dx) = (upload(&[0.0; 12], &[1, 12], DType::F16, gpu), poisoned(&[1, 8]));
        assert_refused(
            ops::linear_backward_input(&dy, &w, Some(x.view()), &mut dx),
            "linear_backward_input: `dx` should be on cuda:0, got cpu",
        );
    }
}
