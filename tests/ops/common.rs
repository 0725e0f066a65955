//! What the tests of all operations share.

use invad::{Device, Tensor};

/// Deterministic numbers, uniform in [-1, 1) × `scale`, different for each `seed`.
pub fn uniform(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            scale * ((z >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
        })
        .collect()
}

/// A tensor of [`uniform`] numbers.
pub fn tensor(seed: u64, shape: &[usize], scale: f32) -> Tensor {
    let data = uniform(seed, shape.iter().product(), scale);
    Tensor::from_f32(data, shape, Device::Cpu).unwrap()
}

/// A tensor of NaN, so that an element nobody writes is found.
pub fn poisoned(shape: &[usize]) -> Tensor {
    Tensor::from_f32(vec![f32::NAN; shape.iter().product()], shape, Device::Cpu).unwrap()
}

/// A tensor's numbers in f64.
pub fn f64s(t: &Tensor) -> Vec<f64> {
    t.to_vec_f32().into_iter().map(f64::from).collect()
}

/// Asserts that the largest difference is at most `tolerance` of the largest expected value.
/// A NaN on either side fails.
#[track_caller]
pub fn assert_close(case: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{case}: lengths");
    let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs())).max(1e-30);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g - w).abs() / scale;
        assert!(
            error <= tolerance,
            "{case}: [{i}] got {g}, want {w} (error {error:.2e} of the largest)"
        );
    }
}
