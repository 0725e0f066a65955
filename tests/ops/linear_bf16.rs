use crate::support::numbers::*;
use half::bf16;
use invad::ops::{Activation, PackedWeight};
use invad::{Device, Products, Tensor, ops};

/// x · wᵀ + bias with both sides in bf16.
fn product(x: &Tensor, w: &Tensor, bias: &Tensor) -> Vec<f32> {
    let packed = PackedWeight::with_products(Device::Cpu, Products::Bf16, w).unwrap();
    let mut y = poisoned(&[x.shape()[0], w.shape()[0]]);
    ops::linear(x, &packed, Some(bias.view()), Activation::None, None, &mut y).unwrap();
    y.to_vec_f32()
}

#[test]
fn follows_f64_of_rounded_numbers() {
    for [m, k, n] in
        [[1, 1, 1], [3, 17, 5], [33, 272, 19], [256, 384, 130], [70, 2100, 33], [5, 0, 3]]
    {
        let (x, w, bias) = (tensor(1, &[m, k], 2.0), tensor(2, &[n, k], 1.0), tensor(3, &[n], 1.0));
        let got = product(&x, &w, &bias);
        let [xs, ws] = [&x, &w].map(|of| -> Vec<f64> {
            of.to_vec_f32().iter().map(|&x| bf16::from_f32(x).to_f64()).collect()
        });
        let bias = bias.to_vec_f32();
        for (i, got) in got.iter().enumerate() {
            let (row, col) = (i / n, i % n);
            let terms = xs[row * k..][..k].iter().zip(&ws[col * k..][..k]).map(|(a, b)| a * b);
            let (sum, size) =
                terms.fold((f64::from(bias[col]), 1.0), |(sum, size), x| (sum + x, size + x.abs()));
            assert!(
                (f64::from(*got) - sum).abs() <= 1e-6 * size,
                "{m} {k} {n} at {i}: {got}, {sum}"
            );
        }
    }
}

/// Of two nearest numbers the even one, on both sides: sums of what is exact are exact.
#[test]
fn ties_go_to_even() {
    // 1 + 2⁻⁸ is between 1 and 1 + 2⁻⁷, 1 + 3·2⁻⁸ between 1 + 2⁻⁷ and 1 + 2⁻⁶.
    let near = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -(1.0 + 1.0 / 256.0), 1.0 + 1.01 / 256.0];
    let to = [1.0, 1.0 + 1.0 / 64.0, -1.0, 1.0 + 1.0 / 128.0];
    let k = 40;
    for (from_number, number) in near.into_iter().zip(to) {
        let ones = from(&vec![1.0; k], &[1, k]);
        let numbers = from(&vec![from_number; k], &[1, k]);
        let bias = from(&[0.0], &[1]);
        let want = k as f32 * number;
        assert_eq!(product(&numbers, &ones, &bias), [want]);
        assert_eq!(product(&ones, &numbers, &bias), [want]);
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (m, k, n) = (40, 70, 33);
    let mut x = uniform(1, m * k, 1.0);
    (x[3 * k + 5], x[7 * k], x[9 * k + 69]) =
        (f32::NAN, f32::INFINITY, f32::from_bits(0x7fff_ffff));
    let y = product(&from(&x, &[m, k]), &tensor(2, &[n, k], 1.0), &tensor(3, &[n], 1.0));
    for (row, y) in y.chunks_exact(n).enumerate() {
        let wrong = [3, 7, 9].contains(&row);
        assert!(y.iter().all(|y| y.is_finite() != wrong), "row {row}: {y:?}");
        assert!(row == 7 || !wrong || y.iter().all(|y| y.is_nan()), "row {row}: {y:?}");
    }
}
