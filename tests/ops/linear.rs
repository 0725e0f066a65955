use crate::gelu::gelu;
use crate::support::numbers::*;
use invad::Device;
use invad::ops::{self, Activation, PackedWeight};
use invad::tensor::TensorView;

/// (M, K, N): one row, inner sizes that are no multiple of 32, and more than one block of each.
const SIZES: [[usize; 3]; 12] = [
    [1, 1, 1],
    [1, 33, 70],
    [1, 256, 300],
    [3, 31, 5],
    [2, 64, 32],
    [31, 40, 33],
    [33, 70, 45],
    [64, 1, 64],
    [34, 1100, 40],
    [150, 130, 97],
    [130, 32, 290],
    [141, 258, 390],
];

/// An activation in f64.
pub fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Gelu => gelu(x),
        Activation::GeluErf => gelu_erf(x),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

#[test]
fn forward() {
    for [m, k, n] in SIZES {
        let (x, w) = (tensor(1, &[m, k], 2.0), tensor(2, &[n, k], 3.0 / (k as f32).sqrt()));
        let bias = tensor(3, &[n], 1.0);
        let packed = PackedWeight::new(&w).unwrap();
        let paired = PackedWeight::in_pairs(Device::Cpu, &w).unwrap();
        assert_eq!([packed.shape(), paired.shape()], [[n, k]; 2]);
        let xw = product(&f64s(&x), &transposed(&f64s(&w), n, k), [m, k, n]);
        for with_bias in [false, true] {
            let mut pre = xw.clone();
            if with_bias {
                let bias = f64s(&bias);
                pre.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i % n]);
            }
            use Activation::{Gelu, GeluErf, None, Relu6, Silu};
            for activation in [None, Gelu, GeluErf, Relu6, Silu] {
                let want: Vec<f64> = pre.iter().map(|&x| activated(activation, x)).collect();
                for variant in 0..6 {
                    let (way, keep) =
                        (["plain", "packed", "paired"][variant / 2], variant % 2 == 1);
                    let case = format!(
                        "[{m}, {k}, {n}] bias {with_bias} {activation:?} {way} kept {keep}"
                    );
                    let (mut before, mut y) = (poisoned(&[m, n]), poisoned(&[m, n]));
                    let bias = with_bias.then(|| bias.view());
                    let kept = keep.then(|| before.view_mut());
                    match way {
                        "packed" => ops::linear(&x, &packed, bias, activation, kept, &mut y),
                        "paired" => ops::linear(&x, &paired, bias, activation, kept, &mut y),
                        _ => ops::linear(&x, &w, bias, activation, kept, &mut y),
                    }
                    .unwrap();
                    assert_close(&case, &f64s(&y), &want, 2e-6);
                    if keep {
                        assert_close(&format!("{case}: before"), &f64s(&before), &pre, 2e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn residual() {
    for [m, k, n] in SIZES {
        let (x, w) = (tensor(1, &[m, k], 2.0), tensor(2, &[n, k], 3.0 / (k as f32).sqrt()));
        let (bias, residual) = (tensor(3, &[n], 1.0), tensor(4, &[m, n], 4.0));
        let packed = PackedWeight::new(&w).unwrap();
        let xw = product(&f64s(&x), &transposed(&f64s(&w), n, k), [m, k, n]);
        for with_bias in [false, true] {
            let plus = |i: usize| if with_bias { f64s(&bias)[i % n] } else { 0.0 };
            let added = f64s(&residual);
            let want: Vec<f64> = (0..m * n).map(|i| added[i] + xw[i] + plus(i)).collect();
            let b = with_bias.then(|| bias.view());
            let mut y = poisoned(&[m, n]);
            ops::linear_residual(&x, &w, b, &residual, &mut y).unwrap();
            assert_close(&format!("[{m}, {k}, {n}] plain"), &f64s(&y), &want, 2e-6);
            let mut y = poisoned(&[m, n]);
            ops::linear_residual(&x, &packed, b, &residual, &mut y).unwrap();
            assert_close(&format!("[{m}, {k}, {n}] packed"), &f64s(&y), &want, 2e-6);
        }
    }
    assert_refused(
        ops::linear_residual(
            &poisoned(&[2, 3]),
            &poisoned(&[4, 3]),
            None,
            &poisoned(&[4, 2]),
            &mut poisoned(&[2, 4]),
        ),
        "linear_residual: `residual` should have shape [2, 4], got [4, 2]",
    );
}

#[test]
fn leading_axes_are_rows() {
    let (x, w) = (tensor(1, &[2, 3, 7, 45], 1.0), tensor(2, &[38, 45], 1.0));
    let flat = x.clone().reshape(&[42, 45]).unwrap();
    let (mut y, mut y_flat) = (poisoned(&[2, 3, 7, 38]), poisoned(&[42, 38]));
    ops::linear(&x, &w, None, Activation::None, None, &mut y).unwrap();
    ops::linear(&flat, &w, None, Activation::None, None, &mut y_flat).unwrap();
    assert_eq!(bits(&y), bits(&y_flat));
    let (mut y, x) = (poisoned(&[38]), tensor(1, &[45], 1.0));
    ops::linear(&x, &w, None, Activation::None, None, &mut y).unwrap();
    let want = product(&f64s(&w), &f64s(&x), [38, 45, 1]);
    assert_close("one vector", &f64s(&y), &want, 2e-6);
}

#[test]
fn backward_input() {
    for [m, k, n] in SIZES {
        let (dy, w) = (tensor(1, &[m, n], 2.0), tensor(2, &[n, k], 1.0));
        let mut dx = poisoned(&[m, k]);
        ops::linear_backward_input(&dy, &w, None, &mut dx).unwrap();
        let want = product(&f64s(&dy), &f64s(&w), [m, n, k]);
        assert_close(&format!("[{m}, {k}, {n}]"), &f64s(&dx), &want, 2e-6);
    }
}

#[test]
fn backward_weight_accumulates() {
    for [m, k, n] in SIZES {
        let (dy, x) = (tensor(1, &[m, n], 2.0), tensor(2, &[m, k], 1.0));
        let (start, bias_start) = (tensor(3, &[n, k], 5.0), tensor(4, &[n], 5.0));
        let mut want = product(&transposed(&f64s(&dy), m, n), &f64s(&x), [n, m, k]);
        let mut want_bias = product(&vec![1.0; m], &f64s(&dy), [1, m, n]);
        want.iter_mut().zip(f64s(&start)).for_each(|(w, s)| *w += s);
        want_bias.iter_mut().zip(f64s(&bias_start)).for_each(|(w, s)| *w += s);
        let (mut dw, mut db) = (start.clone(), bias_start.clone());
        ops::linear_backward_weight(&dy, &x, &mut dw, Some(db.view_mut())).unwrap();
        assert_close(&format!("[{m}, {k}, {n}] weight"), &f64s(&dw), &want, 1.5e-6);
        assert_close(&format!("[{m}, {k}, {n}] bias"), &f64s(&db), &want_bias, 1e-6);
        let mut alone = start.clone();
        ops::linear_backward_weight(&dy, &x, &mut alone, None).unwrap();
        assert_eq!(bits(&alone), bits(&dw));
    }
}

#[test]
fn empty_sums_are_zero() {
    for n in [3, 40] {
        let (x, w) = (tensor(1, &[n, 0], 1.0), tensor(2, &[n, 0], 1.0));
        let (bias, packed) = (tensor(3, &[n], 1.0), PackedWeight::new(&w).unwrap());
        for pack in [false, true] {
            let mut y = poisoned(&[n, n]);
            let b = Some(bias.view());
            if pack {
                ops::linear(&x, &packed, b, Activation::None, None, &mut y).unwrap();
            } else {
                ops::linear(&x, &w, b, Activation::None, None, &mut y).unwrap();
            }
            assert_eq!(y.to_vec_f32(), bias.to_vec_f32().repeat(n), "n {n} packed {pack}");
        }
        let start = tensor(4, &[n, n], 1.0);
        let (mut dw, mut db) = (start.clone(), bias.clone());
        let (dy, x) = (poisoned(&[0, n]), poisoned(&[0, n]));
        ops::linear_backward_weight(&dy, &x, &mut dw, Some(db.view_mut())).unwrap();
        assert_eq!(dw.to_vec_f32(), start.to_vec_f32());
        assert_eq!(db.to_vec_f32(), bias.to_vec_f32());
    }
}

#[test]
fn threads_do_not_matter() {
    for [m, k, n] in [[1, 700, 900], [7, 513, 260], [300, 130, 513], [301, 1430, 390]] {
        let (x, w) = (tensor(1, &[m, k], 1.0), tensor(2, &[n, k], 1.0));
        let (bias, dy) = (tensor(3, &[n], 1.0), tensor(4, &[m, n], 1.0));
        let packed = PackedWeight::new(&w).unwrap();
        let paired = PackedWeight::in_pairs(Device::Cpu, &w).unwrap();
        assert_threads_do_not_matter(|| {
            let [mut plain, mut fast, mut before] = [(); 3].map(|()| poisoned(&[m, n]));
            let mut pairs = poisoned(&[m, n]);
            let b = Some(bias.view());
            let kept = Some(before.view_mut());
            ops::linear(&x, &w, b, Activation::Gelu, None, &mut plain).unwrap();
            ops::linear(&x, &packed, b, Activation::Gelu, kept, &mut fast).unwrap();
            ops::linear(&x, &paired, b, Activation::Gelu, None, &mut pairs).unwrap();
            let (mut dx, mut dw, mut db) = (poisoned(&[m, k]), w.clone(), bias.clone());
            ops::linear_backward_input(&dy, &w, None, &mut dx).unwrap();
            ops::linear_backward_weight(&dy, &x, &mut dw, Some(db.view_mut())).unwrap();
            [plain, fast, before, pairs, dx, dw, db]
        });
    }
}

/// What an image's rows come to does not depend on the images beside it.
#[test]
fn pairs_are_on_their_own() {
    let (k, n) = (258, 390);
    let x = tensor(1, &[5, 30, k], 1.0);
    let paired = PackedWeight::in_pairs(Device::Cpu, &tensor(2, &[n, k], 1.0)).unwrap();
    let run = |x: TensorView| {
        let mut y = poisoned(&[x.shape().iter().product::<usize>() / k, n]);
        ops::linear(x, &paired, None, Activation::None, None, &mut y).unwrap();
        y.to_vec_f32()
    };
    let all = run(x.view());
    for image in 0..5 {
        let one = x.view().part(image * 30 * k, &[30, k]).unwrap();
        assert_eq!(run(one), all[image * 30 * n..][..30 * n], "image {image}");
    }
}

#[test]
fn refuses_other_shapes() {
    let (x, w) = (tensor(1, &[4, 6], 1.0), tensor(2, &[5, 6], 1.0));
    let (bias, mut y) = (tensor(3, &[6], 1.0), poisoned(&[4, 5]));
    let none = Activation::None;
    assert_refused(
        ops::linear(&x, &w, Some(bias.view()), none, None, &mut y),
        "linear: `bias` should have shape [5], got [6]",
    );
    assert_refused(
        ops::linear(&y.clone(), &w, None, none, None, &mut y),
        "linear: `x` should have shape (…, 6), got [4, 5]",
    );
    assert_refused(
        ops::linear(&x, &w, None, none, None, &mut poisoned(&[3, 5])),
        "linear: `y` should have shape (…, 5) with 4 rows, got [3, 5]",
    );
    assert_refused(
        ops::linear(&x, &w, None, none, Some(poisoned(&[5, 4]).view_mut()), &mut y),
        "linear: `before_activation` should have shape [4, 5], got [5, 4]",
    );
    assert_refused(
        PackedWeight::new(&bias).map(|_| ()),
        "PackedWeight::new: `weight` should have shape (N, K), got [6]",
    );
    assert_refused(
        ops::linear_backward_input(&y, &w, None, &mut poisoned(&[4, 5])),
        "linear_backward_input: `dx` should have shape (…, 6), got [4, 5]",
    );
    assert_refused(
        ops::linear_backward_weight(&x, &x, &mut w.clone(), None),
        "linear_backward_weight: `dy` should have shape (…, 5), got [4, 6]",
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
        for [m, k, n] in [[1, 8, 8], [3, 31, 5], [33, 70, 45], [64, 272, 64], [150, 136, 96]] {
            let (x, w) = (halves(1, m * k, 2.0), halves(2, n * k, 3.0 / (k as f32).sqrt()));
            let bias = halves(3, n, 1.0);
            let xw = product(&wide(&x), &transposed(&wide(&w), n, k), [m, k, n]);
            // A weight that is packed is rounded, and so is an x in f32; these need no rounding.
            let x32 = upload(&x, &[m, k], DType::F32, gpu);
            let x = upload(&x, &[m, k], DType::F16, gpu);
            let packed = PackedWeight::new(&upload(&w, &[n, k], DType::F32, gpu)).unwrap();
            let w = upload(&w, &[n, k], DType::F16, gpu);
            for variant in 0..8 {
                let (with_bias, gelu, f32_out) =
                    (variant & 1 > 0, variant & 2 > 0, variant & 4 > 0);
                let (activation, dtype) = (
                    if gelu { Activation::Gelu } else { Activation::None },
                    if f32_out { DType::F32 } else { DType::F16 },
                );
                let case = format!("[{m}, {k}, {n}] bias {with_bias} {activation:?} {dtype:?}");
                let plus = |i: usize| if with_bias { f64::from(bias[i % n]) } else { 0.0 };
                let want: Vec<f64> =
                    (0..m * n).map(|i| activated(activation, xw[i] + plus(i))).collect();
                let naive: Vec<f64> = (0..m * n)
                    .map(|i| rounded(activated(activation, rounded(rounded(xw[i]) + plus(i)))))
                    .collect();
                let bias = upload(&bias, &[n], dtype, gpu);
                for (pack, x) in [(false, &x), (true, &x), (true, &x32)] {
                    let mut y = Guarded::new(&[m, n], dtype, gpu);
                    let bias = with_bias.then(|| bias.view());
                    if pack {
                        ops::linear(x, &packed, bias, activation, None, y.view_mut()).unwrap();
                    } else {
                        ops::linear(x, &w, bias, activation, None, y.view_mut()).unwrap();
                    }
                    match dtype {
                        DType::F16 => assert_as_good(&case, &y.f64s(), &want, &naive),
                        _ => assert_close(&case, &y.f64s(), &want, 2e-6),
                    }
                }
            }
        }
    }

    #[test]
    fn residual() {
        let Some(gpu) = gpu() else { return };
        for [m, k, n] in [[1, 8, 8], [3, 31, 5], [33, 70, 45], [150, 136, 96]] {
            let (x, w) = (halves(1, m * k, 2.0), halves(2, n * k, 3.0 / (k as f32).sqrt()));
            let (bias, residual) = (halves(3, n, 1.0), halves(4, m * n, 4.0));
            let xw = product(&wide(&x), &transposed(&wide(&w), n, k), [m, k, n]);
            let (x, w) =
                (upload(&x, &[m, k], DType::F16, gpu), upload(&w, &[n, k], DType::F16, gpu));
            let plus = |i: usize| f64::from(bias[i % n]);
            let want: Vec<f64> =
                (0..m * n).map(|i| xw[i] + plus(i) + f64::from(residual[i])).collect();
            let naive: Vec<f64> = (0..m * n)
                .map(|i| rounded(rounded(rounded(xw[i]) + plus(i)) + f64::from(residual[i])))
                .collect();
            for dtype in [DType::F16, DType::F32] {
                let case = format!("[{m}, {k}, {n}] {dtype:?}");
                let (bias, added) =
                    (upload(&bias, &[n], dtype, gpu), upload(&residual, &[m, n], dtype, gpu));
                let mut y = Guarded::new(&[m, n], dtype, gpu);
                ops::linear_residual(&x, &w, Some(bias.view()), &added, y.view_mut()).unwrap();
                match dtype {
                    DType::F16 => assert_as_good(&case, &y.f64s(), &want, &naive),
                    _ => assert_close(&case, &y.f64s(), &want, 2e-6),
                }
            }
        }
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        let Some(gpu) = gpu() else { return };
        let x = upload(&[0.0; 8], &[1, 8], DType::F16, gpu);
        let w = upload(&[0.0; 64], &[8, 8], DType::F16, gpu);
        let bias = upload(&[0.0; 8], &[8], DType::F32, gpu);
        let mut y = Guarded::new(&[1, 8], DType::F16, gpu);
        let mut run = |x: &invad::Tensor, bias, activation| {
            ops::linear(x, &w, bias, activation, None, y.view_mut())
        };
        assert_refused(
            run(&x, Some(bias.view()), Activation::None),
            "linear: `bias` should hold F16, got F32",
        );
        assert_refused(
            run(&x, None, Activation::Relu6),
            "linear: `activation` should be none or GELU on a GPU, got Relu6",
        );
        let packed = PackedWeight::new(&tensor(1, &[8, 8], 1.0)).unwrap();
        assert_refused(
            ops::linear(&x, &packed, None, Activation::None, None, y.view_mut()),
            "linear: `weight` should be on cuda:0, got cpu",
        );
    }

    fn wide(v: &[f32]) -> Vec<f64> {
        v.iter().map(|&v| v.into()).collect()
    }

    #[test]
    fn tiny_backward() {
        let Some(gpu) = gpu() else { return };
        for [m, k, n] in [[1, 8, 8], [3, 31, 5], [33, 70, 45], [300, 24, 72], [515, 16, 40]] {
            let (dy, w) = (halves(1, m * n, 2.0), halves(2, n * k, 1.0));
            let x = halves(3, m * k, 1.0);
            let (start, bias_start) = (uniform(4, n * k, 5.0), uniform(5, n, 5.0));
            let want_dx = product(&wide(&dy), &wide(&w), [m, n, k]);
            let naive_dx: Vec<f64> = want_dx.iter().map(|&v| rounded(v)).collect();
            let mut want = product(&transposed(&wide(&dy), m, n), &wide(&x), [n, m, k]);
            let mut want_bias = product(&vec![1.0; m], &wide(&dy), [1, m, n]);
            want.iter_mut().zip(wide(&start)).for_each(|(w, s)| *w += s);
            want_bias.iter_mut().zip(wide(&bias_start)).for_each(|(w, s)| *w += s);
            let w = upload(&w, &[n, k], DType::F16, gpu);
            let x = upload(&x, &[m, k], DType::F16, gpu);
            for (from, to) in [
                (DType::F16, DType::F16),
                (DType::F16, DType::F32),
                (DType::F32, DType::F16),
                (DType::F32, DType::F32),
            ] {
                let case = format!("[{m}, {k}, {n}] {from:?} {to:?}");
                let dy = upload(&dy, &[m, n], from, gpu);
                let mut dx = Guarded::new(&[m, k], to, gpu);
                ops::linear_backward_input(&dy, &w, None, dx.view_mut()).unwrap();
                match to {
                    DType::F16 => {
                        assert_gradient_as_good(&case, &dx.f64s(), &want_dx, &naive_dx);
                    }
                    _ => assert_close(&case, &dx.f64s(), &want_dx, 2e-6),
                }
                let mut dw = Guarded::new(&[n, k], DType::F32, gpu);
                let mut db = Guarded::new(&[n], DType::F32, gpu);
                dw.view_mut().copy_from_slice(&start).unwrap();
                db.view_mut().copy_from_slice(&bias_start).unwrap();
                let bias = Some(db.view_mut());
                ops::linear_backward_weight(&dy, &x, dw.view_mut(), bias).unwrap();
                assert_close(&format!("{case}: weight"), &dw.f64s(), &want, 2e-6);
                assert_close(&format!("{case}: bias"), &db.f64s(), &want_bias, 2e-6);
                let mut alone = Guarded::new(&[n, k], DType::F32, gpu);
                alone.view_mut().copy_from_slice(&start).unwrap();
                ops::linear_backward_weight(&dy, &x, alone.view_mut(), None).unwrap();
                assert_eq!(alone.f64s(), dw.f64s(), "{case}: without the bias");
            }
        }
    }

    /// Numbers that f16 cannot hold are rounded for products, and not for the bias.
    #[test]
    fn tiny_rounded_gradients() {
        let Some(gpu) = gpu() else { return };
        let [m, k, n] = [70, 24, 8];
        let (dy, w, x) = (uniform(1, m * n, 2.0), halves(2, n * k, 1.0), halves(3, m * k, 1.0));
        let round: Vec<f64> = wide(&dy).into_iter().map(rounded).collect();
        let upload_dy = upload(&dy, &[m, n], DType::F32, gpu);
        let (w_at, x_at) =
            (upload(&w, &[n, k], DType::F16, gpu), upload(&x, &[m, k], DType::F16, gpu));
        let mut dx = Guarded::new(&[m, k], DType::F32, gpu);
        ops::linear_backward_input(&upload_dy, &w_at, None, dx.view_mut()).unwrap();
        assert_close("dx", &dx.f64s(), &product(&round, &wide(&w), [m, n, k]), 2e-6);
        let mut dw = Guarded::new(&[n, k], DType::F32, gpu);
        let mut db = Guarded::new(&[n], DType::F32, gpu);
        dw.view_mut().fill(0.0).unwrap();
        db.view_mut().fill(0.0).unwrap();
        let bias = Some(db.view_mut());
        ops::linear_backward_weight(&upload_dy, &x_at, dw.view_mut(), bias).unwrap();
        let want = product(&transposed(&round, m, n), &wide(&x), [n, m, k]);
        assert_close("dweight", &dw.f64s(), &want, 2e-6);
        assert_close("dbias", &db.f64s(), &product(&vec![1.0; m], &wide(&dy), [1, m, n]), 2e-6);
    }
}
