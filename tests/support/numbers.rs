//! Numbers to compute with, and comparisons of what is computed.

use invad::ops::{Random, Stream};
use invad::{Device, Tensor};

/// Whole numbers below a bound, different for each `seed`.
pub struct Numbers {
    random: Random,
    drawn: u64,
}

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self { random: Random { seed, stream: Stream::Order, step: 0 }, drawn: 0 }
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        self.random.below(n as u32, self.drawn) as usize
    }
}

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

/// A tensor of these numbers.
pub fn from(data: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_f32(data.to_vec(), shape, Device::Cpu).unwrap()
}

/// a (M, K) · b (K, N) in f64.
pub fn product(a: &[f64], b: &[f64], [m, k, n]: [usize; 3]) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        let row = &mut out[i * n..][..n];
        for l in 0..k {
            for (o, b) in row.iter_mut().zip(&b[l * n..][..n]) {
                *o += a[i * k + l] * b;
            }
        }
    }
    out
}

/// The transpose of x (rows, cols).
pub fn transposed(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}

/// GELU with the error function, by its series of positive terms and by the continued fraction of its complement.
pub fn gelu_erf(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let scale = (-z * z).exp() / std::f64::consts::PI.sqrt();
    let complement = if z < 2.5 {
        let terms = (0..200).scan(z, |term, n| {
            let now = *term;
            *term *= 2.0 * z * z / f64::from(2 * n + 3);
            Some(now)
        });
        1.0 - 2.0 * scale * terms.sum::<f64>()
    } else {
        let rest = (1..500).rev().fold(0.0, |rest, k| f64::from(k) / 2.0 / (z + rest));
        scale / (z + rest)
    };
    x * 0.5 * if x < 0.0 { complement } else { 2.0 - complement }
}

/// The gradient of `f` at `x` by central differences.
pub fn numeric_gradient(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let above = f(&x);
            x[i] = at - STEP;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// Σ a·b.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Asserts that an operation refuses its arguments with this message.
#[track_caller]
pub fn assert_refused(result: invad::Result<()>, message: &str) {
    assert_eq!(result.unwrap_err().to_string(), message);
}

/// Asserts that `run` returns the same bits on one thread and on three.
#[track_caller]
pub fn assert_threads_do_not_matter<const N: usize>(run: impl Fn() -> [Tensor; N] + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&run).map(|t| bits(&t))
    };
    assert!(on(1) == on(3), "other bits with other threads");
}

/// The bits of a tensor's numbers.
pub fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec_f32().into_iter().map(f32::to_bits).collect()
}
