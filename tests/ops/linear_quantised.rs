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
