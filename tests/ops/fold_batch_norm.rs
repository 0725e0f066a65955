use crate::support::numbers::*;
use invad::ops::{self, BatchNorm};

#[test]
fn is_a_convolution_then_a_normalisation() {
    let (rows, o) = (7, 5);
    let numbers = |seed, n| uniform(seed, n, 1.0);
    let (weight, x) = (numbers(1, rows * o), numbers(2, rows));
    let (scale, shift, mean) = (numbers(3, o), numbers(4, o), numbers(5, o));
    let variance: Vec<f32> = numbers(6, o).iter().map(|v| 1e-4 + v * v).collect();
    let norm =
        BatchNorm { scale: &scale, shift: &shift, mean: &mean, variance: &variance, eps: 1e-3 };
    let (mut folded, mut bias) = (weight.clone(), vec![f32::NAN; o]);
    ops::fold_batch_norm(norm, &mut folded, &mut bias).unwrap();
    let product = |weight: &[f32], i: usize| -> f64 {
        (0..rows).map(|r| f64::from(x[r]) * f64::from(weight[r * o + i])).sum()
    };
    let (got, want): (Vec<f64>, Vec<f64>) = (0..o)
        .map(|i| {
            let [scale, shift, mean, variance] =
                [&scale, &shift, &mean, &variance].map(|v| f64::from(v[i]));
            let normalised = (product(&weight, i) - mean) / (variance + 1e-3).sqrt();
            (product(&folded, i) + f64::from(bias[i]), normalised * scale + shift)
        })
        .unzip();
    assert_close("folded", &got, &want, 1e-6);
}

#[test]
fn refuses_other_lengths() {
    let (three, four) = ([1.0f32; 3], [1.0f32; 4]);
    let norm = BatchNorm { scale: &three, shift: &three, mean: &four, variance: &three, eps: 1e-3 };
    let error = ops::fold_batch_norm(norm, &mut [0.0; 6], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "fold_batch_norm: `mean` should have shape [3], got [4]");
    let norm = BatchNorm { mean: &three, ..norm };
    assert!(ops::fold_batch_norm(norm, &mut [0.0; 7], &mut [0.0; 3]).is_err());
    let norm = BatchNorm { variance: &[1.0, -1e-3 - 1e-9, 1.0], ..norm };
    let error = ops::fold_batch_norm(norm, &mut [0.0; 6], &mut [0.0; 3]).unwrap_err();
    assert!(error.to_string().contains("`variance` should be positive"), "{error}");
}
