//! Elementary functions in plain arithmetic, so that loops over them become vector code.

use multiversion::multiversion;

/// eˣ, within 2 ulp; 0 below −87.3, ∞ above 88.7, NaN for NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n·ln 2 + r with |r| ≤ ln 2 / 2; ln 2 in two parts so that n·LN2_HI is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer
    let clamped = x.clamp(-87.336_54, 88.722_83);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * LN2_HI) - n * LN2_LO;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_1e-1;
    let y = p * (r * r) + r + 1.0;
    // Two factors, because 2ⁿ alone overflows at n = 128.
    let half = (n * 0.5) as i32;
    let rest = n as i32 - half;
    let pow2 = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
    let y = y * pow2(half) * pow2(rest);
    if x > 88.722_83 {
        f32::INFINITY
    } else if x < -87.336_54 {
        0.0
    } else if x.is_nan() {
        x
    } else {
        y
    }
}

/// tanh x, within 4 ulp.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    // Near zero (1 − e)/(1 + e) cancels; there the odd polynomial is used.
    let a = x.abs();
    let e = exp(-2.0 * a);
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    let s = x * x;
    let mut p = -5.704_988_7e-3;
    p = p * s + 2.063_908_9e-2;
    p = p * s - 5.373_971_6e-2;
    p = p * s + 1.333_144_3e-1;
    p = p * s - 3.333_328e-1;
    let near = p * s * x + x;
    if a < 0.625 { near } else { far }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Σ x, in a fixed order: 16 running sums, then pairwise.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    let tail = chunks.remainder();
    for c in chunks {
        for (l, &v) in lanes.iter_mut().zip(c) {
            *l += v;
        }
    }
    for (l, &v) in lanes.iter_mut().zip(tail) {
        *l += v;
    }
    reduce(lanes)
}

/// Σ x·y, in a fixed order: 16 running sums, then pairwise.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
    let (x_tail, y_tail) = (xs.remainder(), ys.remainder());
    for (a, b) in xs.zip(ys) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    for (l, (&a, &b)) in lanes.iter_mut().zip(x_tail.iter().zip(y_tail)) {
        *l += a * b;
    }
    reduce(lanes)
}

#[inline(always)]
pub(crate) fn reduce(mut lanes: [f32; 16]) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(got: f32, want: f64) -> f64 {
        let w = want as f32;
        let ulp = (w.abs().next_up() - w.abs()).max(f32::MIN_POSITIVE * f32::EPSILON);
        (f64::from(got) - want).abs() / f64::from(ulp)
    }

    #[test]
    fn elementary_functions_follow_f64() {
        for i in -200_000..=200_000 {
            let x = i as f32 * 4.37e-4;
            assert!(ulps(exp(x), f64::from(x).exp()) <= 2.0 || exp(x) == 0.0, "exp {x} {}", exp(x));
            assert!(ulps(tanh(x), f64::from(x).tanh()) <= 4.0, "tanh {x}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
        assert_eq!((tanh(0.0), tanh(50.0), tanh(-50.0)), (0.0, 1.0, -1.0));
    }

    #[test]
    fn sums_do_not_depend_on_where_vectors_end() {
        for n in [0, 1, 15, 16, 17, 1000] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let want: f64 = x.iter().map(|&v| f64::from(v)).sum();
            assert!((f64::from(sum(&x)) - want).abs() < 1e-4);
            let want: f64 = x.iter().map(|&v| f64::from(v).powi(2)).sum();
            assert!((f64::from(dot(&x, &x)) - want).abs() < 1e-4);
        }
    }
}
