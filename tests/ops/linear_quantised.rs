use super::quantise::{FORMATS, quantised};
use crate::support::numbers::*;
use invad::ops::{Activation, PackedWeight, Quantised};
use invad::{Device, EightBits, Products, Tensor, ops};

/// Rows, terms and columns.
const SIZES: [[usize; 3]; 6] =
    [[1, 1, 1], [3, 17, 5], [16, 64, 40], [33, 272, 19], [2, 0, 3], [0, 4, 2]];

struct Side {
    codes: Tensor,
    scales: Tensor,
    format: EightBits,
}

impl Side {
    fn new(x: &Tensor, format: EightBits, by_row: bool) -> Self {
        let (codes, scales) = quantised(x, format, if by_row { x.shape()[0] } else { 1 });
        Self { codes, scales, format }
    }

    fn view(&self) -> Quantised<'_> {
        Quantised { codes: self.codes.view(), scales: self.scales.view(), format: self.format }
    }

    fn decoded(&self) -> Vec<f64> {
        let codes = self.codes.to_vec_f32();
        codes.iter().map(|code| self.format.decode(*code as u8).into()).collect()
    }

    fn scale(&self, row: usize) -> f32 {
        let scales = self.scales.to_vec_f32();
        scales[if scales.len() == 1 { 0 } else { row }]
    }
}

#[test]
fn sums_of_integers_are_exact() {
    for [m, k, n] in SIZES {
        for (by_row, biased) in [(true, false), (true, true), (false, true)] {
            let of =
                |seed, rows| Side::new(&tensor(seed, &[rows, k], 2.0), EightBits::Int8, by_row);
            let (x, w, bias) = (of(1, m), of(2, n), tensor(3, &[n], 1.0));
            let mut y = poisoned(&[m, n]);
            let given = biased.then(|| bias.view());
            ops::linear_quantised(x.view(), w.view(), given, &mut y).unwrap();
            // Integers of this size are exact in f64.
            let sums = product(&x.decoded(), &transposed(&w.decoded(), n, k), [m, k, n]);
            let bias = bias.to_vec_f32();
            let want = (0..m * n).map(|i| {
                let scale = x.scale(i / n) * w.scale(i % n);
                sums[i] as f32 * scale + if biased { bias[i % n] } else { 0.0 }
            });
            assert_eq!(y.to_vec_f32(), want.collect::<Vec<_>>(), "{m} {k} {n}");
        }
    }
}

/// Packed weights give the same bits.
#[test]
fn packed_weights_are_the_same() {
    for [m, k, n] in [
        [1, 1, 1],
        [3, 17, 5],
        [33, 272, 19],
        [256, 384, 130],
        [70, 6145, 33],
        [9, 17000, 50],
        [5, 0, 3],
    ] {
        let of = |seed, rows: usize| {
            let mut data = uniform(seed, rows * k, 2.0);
            // A row that is much smaller, one of zeros, and one near the smallest numbers.
            data.iter_mut().take(k).for_each(|x| *x *= 1e-20);
            data.iter_mut().skip(k).take(k).for_each(|x| *x *= if rows > 3 { 1e-43 } else { 1.0 });
            data.iter_mut().skip(2 * k).take(k).for_each(|x| *x = 0.0);
            from(&data, &[rows, k])
        };
        let (x, w, bias) = (of(1, m), of(2, n), tensor(3, &[n], 1.0));
        let packed = PackedWeight::with_products(Device::Cpu, Products::Int8, &w).unwrap();
        let mut got = poisoned(&[m, n]);
        ops::linear(&x, &packed, Some(bias.view()), Activation::None, None, &mut got).unwrap();
        let (x, w) = (Side::new(&x, EightBits::Int8, true), Side::new(&w, EightBits::Int8, true));
        let mut want = poisoned(&[m, n]);
        ops::linear_quantised(x.view(), w.view(), Some(bias.view()), &mut want).unwrap();
        assert_eq!(bits(&got), bits(&want), "{m} {k} {n}");
    }
}

#[test]
fn sums_at_their_largest() {
    let k = 133_144;
    let all = |x: f32| Side::new(&from(&vec![x; k], &[1, k]), EightBits::Int8, true);
    let mut y = poisoned(&[1, 1]);
    for (a, b, want) in [(1.0, 1.0, 1.0), (1.0, -1.0, -1.0)] {
        ops::linear_quantised(all(a).view(), all(b).view(), None, &mut y).unwrap();
        assert_close("largest", &f64s(&y), &[want * k as f64], 3e-7);
    }
}

#[test]
fn floats_are_those_of_their_codes() {
    for [m, k, n] in SIZES {
        for by_row in [true, false] {
            let of =
                |seed, rows| Side::new(&tensor(seed, &[rows, k], 2.0), EightBits::E4m3, by_row);
            let (x, w, bias) = (of(1, m), of(2, n), tensor(3, &[n], 1.0));
            let mut y = poisoned(&[m, n]);
            ops::linear_quantised(x.view(), w.view(), Some(bias.view()), &mut y).unwrap();
            let sums = product(&x.decoded(), &transposed(&w.decoded(), n, k), [m, k, n]);
            let bias = f64s(&bias);
            let scale = |i| f64::from(x.scale(i / n)) * f64::from(w.scale(i % n));
            let want = (0..m * n).map(|i| sums[i] * scale(i) + bias[i % n]);
            assert_close(&format!("{m} {k} {n}"), &f64s(&y), &want.collect::<Vec<_>>(), 1e-6);
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    for format in FORMATS {
        let mut data = uniform(1, 60, 1.0);
        data[25] = f32::INFINITY;
        let x = Side::new(&from(&data, &[3, 20]), format, true);
        let w = Side::new(&tensor(2, &[4, 20], 1.0), format, true);
        let mut y = poisoned(&[3, 4]);
        ops::linear_quantised(x.view(), w.view(), None, &mut y).unwrap();
        let nan: Vec<bool> = y.to_vec_f32().iter().map(|y| y.is_nan()).collect();
        assert_eq!(nan, [[false; 4], [true; 4], [false; 4]].concat());
    }
}

#[test]
fn threads_do_not_matter() {
    for format in FORMATS {
        let x = Side::new(&tensor(1, &[70, 33], 1.0), format, true);
        let w = Side::new(&tensor(2, &[50, 33], 1.0), format, true);
        assert_threads_do_not_matter(|| {
            let mut y = poisoned(&[70, 50]);
            ops::linear_quantised(x.view(), w.view(), None, &mut y).unwrap();
            [y]
        });
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let of = |shape: &[usize], format| Side::new(&tensor(1, shape, 1.0), format, false);
    let int8 = |shape: &[usize]| of(shape, EightBits::Int8);
    let run =
        |x: &Side, w: &Side, mut y: Tensor| ops::linear_quantised(x.view(), w.view(), None, &mut y);
    assert_refused(
        run(&int8(&[2, 3]), &int8(&[5, 4]), poisoned(&[2, 5])),
        "linear_quantised: `x` should have shape (…, 4), got [2, 3]",
    );
    assert_refused(
        run(&int8(&[2, 4]), &int8(&[5, 4]), poisoned(&[5, 2])),
        "linear_quantised: `y` should have shape [2, 5], got [5, 2]",
    );
    let floats = of(&[5, 4], EightBits::E4m3);
    assert_refused(
        run(&int8(&[2, 4]), &floats, poisoned(&[2, 5])),
        "linear_quantised: `weight` should be Int8, as x is, got E4m3",
    );
    let (x, w) = (int8(&[1, 133_145]), int8(&[1, 133_145]));
    assert_refused(
        run(&x, &w, poisoned(&[1, 1])),
        "linear_quantised: `weight` should be of at most 133144 terms, got 133145",
    );
    let mut three = int8(&[2, 4]);
    three.scales = poisoned(&[3]);
    assert_refused(
        run(&three, &int8(&[5, 4]), poisoned(&[2, 5])),
        "linear_quantised: `x's scales` should have shape [2] or [1], got [3]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use half::f16;
    use invad::{DType, Precision};

    use super::super::gpu::*;
    use super::*;

    /// Rows, terms and columns; those of the last have large tiles.
    const SIZES: [[usize; 3]; 6] = [
        [1, 16, 1],
        [5, 48, 7],
        [130, 144, 129],
        [257, 272, 40],
        [300, 1040, 136],
        [258, 208, 1286],
    ];

    fn quantised_on(gpu: Device, x: &Tensor) -> (Tensor, Tensor) {
        let mut codes = Tensor::zeros(x.shape(), DType::U8, gpu).unwrap();
        codes.view_mut().fill(85.0).unwrap();
        let mut scales = Tensor::zeros(&x.shape()[..1], DType::F32, gpu).unwrap();
        scales.view_mut().fill(f32::NAN).unwrap();
        ops::quantise(x, EightBits::Int8, &mut codes, &mut scales).unwrap();
        (codes, scales)
    }

    #[test]
    fn codes_are_those_of_the_cpu() {
        let Some(gpu) = gpu() else { return };
        for [rows, k] in [[1, 8], [7, 16], [40, 264], [3, 2056], [33, 4096]] {
            let mut data = halves(1, rows * k, 3.0);
            data[..k].iter_mut().for_each(|x| *x *= 1e-4);
            if rows > 3 {
                data[k..2 * k].fill(0.0);
                data[2 * k + 5] = f32::NAN;
                data[3 * k] = f32::NEG_INFINITY;
            }
            for dtype in [DType::F32, DType::F16] {
                let data: Vec<f32> = match dtype {
                    DType::F16 => data.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
                    _ => data.clone(),
                };
                let (want, scale) = quantised(&from(&data, &[rows, k]), EightBits::Int8, rows);
                let (got, got_scale) = quantised_on(gpu, &upload(&data, &[rows, k], dtype, gpu));
                let (want, got) = (want.to_vec_f32(), got.to_vec_f32());
                for (row, (a, b)) in
                    scale.to_vec_f32().iter().zip(got_scale.to_vec_f32()).enumerate()
                {
                    assert!(
                        *a == b || (a.is_nan() && b.is_nan()),
                        "{rows} {k} row {row}: {b}, not {a}"
                    );
                    let of = row * k..(row + 1) * k;
                    assert!(a.is_nan() || want[of.clone()] == got[of], "{rows} {k} row {row}");
                }
            }
        }
    }

    #[test]
    fn follows_the_cpu() {
        let Some(gpu) = gpu() else { return };
        for [m, k, n] in SIZES {
            let (x, w, bias) =
                (tensor(1, &[m, k], 2.0), tensor(2, &[n, k], 1.0), tensor(3, &[n], 1.0));
            let (xs, ws) =
                (Side::new(&x, EightBits::Int8, true), Side::new(&w, EightBits::Int8, true));
            let mut want = poisoned(&[m, n]);
            ops::linear_quantised(xs.view(), ws.view(), Some(bias.view()), &mut want).unwrap();
            let on = |of: &Tensor| of.view().copied_to(gpu, DType::F32).unwrap();
            let [x, w] = [&x, &w].map(|of| {
                let (codes, scales) = quantised_on(gpu, &on(of));
                Side { codes, scales, format: EightBits::Int8 }
            });
            let bias = on(&bias);
            let mut y = Guarded::new(&[m, n], DType::F32, gpu);
            ops::linear_quantised(x.view(), w.view(), Some(bias.view()), y.view_mut()).unwrap();
            for (i, (got, want)) in y.f64s().into_iter().zip(want.to_vec_f32()).enumerate() {
                // Sums are the same; scale and bias may be one operation or two.
                let want = f64::from(want);
                assert!(
                    (got - want).abs() <= 3e-7 * (1.0 + want.abs()),
                    "{m} {k} {n} at {i}: {got}, {want}"
                );
            }
        }
    }

    /// Warps that share a largest number, and slots that are used again.
    #[test]
    fn tiny() {
        let Some(gpu) = gpu() else { return };
        let [m, k, n] = [3, 528, 5];
        let (mut x, w) = (halves(1, m * k, 1.0), tensor(2, &[n, k], 1.0));
        // The largest of a row is another warp's than the one that writes its first codes.
        x.iter_mut().skip(300).step_by(k).for_each(|x| *x = 8.0);
        x.iter_mut().step_by(k).skip(1).for_each(|x| *x = -9.0);
        let on_cpu = PackedWeight::with_products(Device::Cpu, Products::Int8, &w).unwrap();
        let mut want = poisoned(&[m, n]);
        ops::linear(&from(&x, &[m, k]), &on_cpu, None, Activation::None, None, &mut want).unwrap();
        let on_gpu = PackedWeight::with_products(gpu, Products::Int8, &w).unwrap();
        let mut y = Guarded::new(&[m, n], DType::F32, gpu);
        let x = upload(&x, &[m, k], DType::F16, gpu);
        ops::linear(&x, &on_gpu, None, Activation::None, None, y.view_mut()).unwrap();
        for (got, want) in y.f64s().into_iter().zip(want.to_vec_f32()) {
            let want = f64::from(want);
            assert!((got - want).abs() <= 1e-6 * (1.0 + want.abs()), "{got}, {want}");
        }
    }

    /// Layers with packed codes: what follows a product, and rows that do not depend on others.
    #[test]
    fn layers_follow_the_cpu() {
        let Some(gpu) = gpu() else { return };
        for [m, k, n] in [[3, 32, 8], [140, 144, 136], [257, 272, 24]] {
            let x = halves(1, m * k, 2.0);
            let (w, bias) = (tensor(2, &[n, k], 1.0), halves(3, n, 1.0));
            let on_cpu = PackedWeight::with_products(Device::Cpu, Products::Int8, &w).unwrap();
            let on_gpu = PackedWeight::with_products(gpu, Products::Int8, &w).unwrap();
            for activation in [Activation::None, Activation::Gelu] {
                let mut want = poisoned(&[m, n]);
                let (x_cpu, bias_cpu) = (from(&x, &[m, k]), from(&bias, &[n]));
                ops::linear(&x_cpu, &on_cpu, Some(bias_cpu.view()), activation, None, &mut want)
                    .unwrap();
                let rows_of = |rows: usize| {
                    let x = upload(&x[..rows * k], &[rows, k], DType::F16, gpu);
                    let bias = upload(&bias, &[n], DType::F16, gpu);
                    let mut y = Guarded::new(&[rows, n], DType::F16, gpu);
                    ops::linear(&x, &on_gpu, Some(bias.view()), activation, None, y.view_mut())
                        .unwrap();
                    y.f64s()
                };
                let all = rows_of(m);
                for (i, (got, want)) in all.iter().zip(want.to_vec_f32()).enumerate() {
                    let want = f64::from(want);
                    assert!(
                        (got - want).abs() <= 1e-3 * (0.01 + want.abs()),
                        "{m} {k} {n} at {i}: {got}, {want}"
                    );
                }
                for rows in [1, 2, m / 2 + 1] {
                    assert!(rows_of(rows) == all[..rows * n], "{rows} of {m} rows");
                }
            }
        }
    }

    #[test]
    fn refuses_what_the_kernels_cannot() {
        let Some(gpu) = gpu() else { return };
        let odd = tensor(1, &[4, 24], 1.0);
        let packed = PackedWeight::with_products(gpu, Products::Int8, &odd).unwrap();
        let x = upload(&[1.0; 48], &[2, 24], DType::F16, gpu);
        let mut y = Tensor::zeros(&[2, 4], DType::F16, gpu).unwrap();
        let run = ops::linear(&x, &packed, None, Activation::None, None, &mut y);
        assert_refused(
            run,
            "linear: `x` should have shape (…, a multiple of 16) on a GPU, got [2, 24]",
        );
        let fp8 = PackedWeight::with_products(gpu, Products::Fp8, &odd).unwrap_err().to_string();
        assert!(fp8.contains("fp8"), "{fp8}");
        assert!(
            Precision::of(gpu).with_products(Some(Products::Int8)).require("test", gpu).is_ok()
        );
    }
}
