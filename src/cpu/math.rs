//! Elementary functions in plain arithmetic, so that loops over them become vector code.

use multiversion::multiversion;

/// a·b + c, with one rounding if `FMA`, which says that the processor that the caller is compiled
/// for has such an instruction; without it, `mul_add` would be a call.
#[inline(always)]
fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// eˣ, within 2 ulp; 0 below −86.6, ∞ above 88.8, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // x = n·ln 2 + r with |r| ≤ ln 2 / 2; ln 2 in two parts so that n·LN2_HI is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer
    const LOWEST: f32 = -86.6;
    let clamped = x.clamp(LOWEST, 89.0);
    let shifted = mul_add::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2_LO, mul_add::<FMA>(n, -LN2_HI, clamped));
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = mul_add::<FMA>(p, r, c);
    }
    let y = mul_add::<FMA>(p, r * r, r) + 1.0;
    // 2ⁿ as 2·2ⁿ⁻¹, because 2ⁿ overflows at n = 128.
    let bits = (shifted.to_bits() << 23).wrapping_add(126 << 23);
    let y = (y + y) * f32::from_bits(bits);
    if x < LOWEST { 0.0 } else { y }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// Φ(−x) for 0 ≤ x ≤ 14, the normal distribution's tail, within (4 + x²) · 1e-7 of itself.
#[inline(always)]
pub(crate) fn lower_tail<const FMA: bool>(x: f32) -> f32 {
    // What is left beside the exponential is smooth in t, and fitted so that relative errors are equally large.
    let t = 1.0 / mul_add::<FMA>(0.3, x, 1.0);
    let mut p = 0.035_516_385;
    for c in [
        -0.156_543_5,
        0.205_218,
        -0.052_639_97,
        0.128_010_57,
        0.100_080_03,
        0.120_727_37,
        0.119_631_02,
    ] {
        p = mul_add::<FMA>(p, t, c);
    }
    exp::<FMA>(-0.5 * x * x) * t * p
}

/// ln x for normal x > 0, within 2 ulp.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    // x = 2ᵉ·m with m in [√½, √2); ln m by its odd polynomial in s = (m − 1)/(m + 1).
    let bits = x.to_bits();
    let e = (bits.wrapping_sub(0x3f35_04f3) as i32) >> 23;
    let m = f32::from_bits(bits.wrapping_sub((e << 23) as u32));
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let p = z * (0.666_666_6 + z * (0.400_000_96 + z * (0.284_987_87 + z * 0.242_790_79)));
    let half = 0.5 * f * f;
    let e = e as f32;
    // ln 2 in two parts; e·high is exact.
    e * 0.693_138_1 - ((half - (s * (half + p) + e * 9.058_001e-6)) - f)
}

/// (sin, cos) of 2π·w/2³², within 2 ulp of the value's own size.
#[inline(always)]
pub(crate) fn sin_cos_turns(w: u32) -> (f32, f32) {
    // The nearest quarter turn, and what is left of it: a signed fraction of a turn that has at
    // most 30 bits, exact as the sum of two f32.
    let quarter = w.wrapping_add(1 << 29) >> 30;
    let rest = w.wrapping_sub(quarter << 30) as i32;
    let high = (rest & !0x7f) as f32;
    let low = (rest & 0x7f) as f32;
    const TURN: f32 = 1.462_918_1e-9; // 2π/2³²
    const TURN_REST: f32 = -4.070_940_4e-17;
    let x = high * TURN + (low * TURN + high * TURN_REST);
    let z = x * x;
    let sin =
        x + x * z * (-0.166_666_66 + z * (8.333_331e-3 + z * (-1.984_086e-4 + z * 2.752_55e-6)));
    let cos = 1.0 - 0.5 * z
        + z * z * (4.166_666_4e-2 + z * (-1.388_888_8e-3 + z * (2.480_063e-5 + z * -2.752_5e-7)));
    let (s, c) = if quarter & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let s = if quarter & 2 == 0 { s } else { -s };
    let c = if (quarter + 1) & 2 == 0 { c } else { -c };
    (s, c)
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
            let x = i as f32 * 4.35e-4;
            let (exponential, logistic) = (f64::from(x).exp(), 1.0 / (1.0 + (-f64::from(x)).exp()));
            for e in [exp::<false>(x), exp::<true>(x)] {
                assert!(ulps(e, exponential) <= 2.0 || x < -86.6 && e == 0.0, "exp {x} {e}");
            }
            for s in [sigmoid::<false>(x), sigmoid::<true>(x)] {
                assert!(ulps(s, logistic) <= 4.0, "sigmoid {x} {s}");
            }
        }
        for e in [exp::<false>, exp::<true>] {
            assert_eq!(e(f32::NEG_INFINITY), 0.0);
            assert_eq!(e(100.0), f32::INFINITY);
            assert!(e(f32::NAN).is_nan());
        }
        assert!(sigmoid::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn tails_follow_a_continued_fraction() {
        // Φ(−x) = φ(x)/(x + 1/(x + 2/(x + …))), which converges slowly where x is small.
        let far = |x: f64| {
            let rest = (1..4000).rev().fold(0.0, |rest, k| f64::from(k) / (x + rest));
            (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt() / (x + rest)
        };
        for i in 300..14_000 {
            let x = i as f32 * 1e-3;
            let want = far(x.into());
            for got in [lower_tail::<false>(x), lower_tail::<true>(x)] {
                let off = (f64::from(got) - want).abs();
                let allowed = (5.0 + f64::from(x).powi(2)) * 1e-7 * want + 1e-37;
                assert!(off <= allowed, "Φ(−{x}) {got}, {want}");
            }
        }
        assert!((lower_tail::<false>(0.0) - 0.5).abs() <= 1e-7);
    }

    #[test]
    fn logarithm_and_angles_follow_f64() {
        for i in 0..400_000u32 {
            let w = i.wrapping_mul(2_654_435_769);
            let u = (w as f32 + 0.5) * (1.0 / 4_294_967_296.0);
            assert!(ulps(ln(u), f64::from(u).ln()) <= 2.0, "ln {u} {}", ln(u));
            let angle = f64::from(w) / 4_294_967_296.0 * std::f64::consts::TAU;
            let (s, c) = sin_cos_turns(w);
            let near = |got: f32, want: f64| (f64::from(got) - want).abs() <= 1.8e-7 * want.abs();
            assert!(near(s, angle.sin()), "sin {w} {s} {}", angle.sin());
            assert!(near(c, angle.cos()), "cos {w} {c} {}", angle.cos());
        }
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
