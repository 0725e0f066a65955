use std::collections::HashSet;

use crate::support::numbers::*;
use invad::ops::{self, Random, Stream};

const RANDOM: Random = Random { seed: 0x0123_4567_89ab_cdef, stream: Stream::Noise, step: 12 };

const STREAMS: [Stream; 8] = [
    Stream::Init,
    Stream::Order,
    Stream::Timestep,
    Stream::Noise,
    Stream::HeldOut,
    Stream::Reconstruction,
    Stream::Rounding,
    Stream::Lists,
];

fn normals(random: Random, n: usize) -> Vec<f32> {
    let mut out = poisoned(&[n]);
    ops::normal(random, &mut out).unwrap();
    out.to_vec_f32()
}

/// Random123's known answer for a counter and a key of zeros.
#[test]
fn known_answer() {
    let random = Random { seed: 0, stream: Stream::Init, step: 0 };
    assert_eq!(random.words(0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
}

/// The radius comes from an f32, whose rounding near 1 the oracle shares.
#[test]
fn normal_follows_box_muller() {
    const TURN: f64 = 4_294_967_296.0;
    let pair = |radius: u32, angle: u32| {
        let u = f64::from((radius as f32 + 0.5) / TURN as f32);
        let (sin, cos) = (f64::from(angle) / TURN * std::f64::consts::TAU).sin_cos();
        [cos, sin].map(|x| (-2.0 * u.ln()).sqrt() * x)
    };
    for seed in [0, 1, 0xffff_ffff_ffff_ffff] {
        for (stream, step) in [(Stream::Init, 0), (Stream::Reconstruction, 0xffff_ffff)] {
            let random = Random { seed, stream, step };
            let want: Vec<f64> = (0..50_000)
                .map(|block| random.words(block))
                .flat_map(|w| [pair(w[0], w[1]), pair(w[2], w[3])].concat())
                .collect();
            let got: Vec<f64> = normals(random, want.len()).into_iter().map(f64::from).collect();
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let error = (got - want).abs() / want.abs().max(1e-3);
                assert!(error <= 1e-6, "{random:?}: [{i}] got {got}, want {want}");
            }
        }
    }
}

/// P(X ≤ x) of a standard normal X: ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …).
fn normal_cdf(x: f64) -> f64 {
    let (mut sum, mut term, mut k) = (0.0, x, 1.0);
    while sum + term != sum {
        sum += term;
        k += 2.0;
        term *= x * x / k;
    }
    0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
}

/// Moments within four standard errors, and Kolmogorov and Smirnov's distance within what one
/// sample in a thousand exceeds.
#[test]
fn a_million_are_normal() {
    let mut x: Vec<f64> = normals(RANDOM, 1_000_000).into_iter().map(f64::from).collect();
    let n = x.len() as f64;
    let error = 4.0 / n.sqrt();
    let moment = |k: i32| x.iter().map(|x| x.powi(k)).sum::<f64>() / n;
    for (k, want, variance) in [(1, 0.0, 1.0f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
        let got = moment(k);
        assert!((got - want).abs() <= error * variance.sqrt(), "moment {k}: {got}");
    }
    for lag in [1, 2, 3, 4, 4096] {
        let correlation = dot(&x[lag..], &x) / n;
        assert!(correlation.abs() <= error, "lag {lag}: {correlation}");
    }
    x.sort_by(f64::total_cmp);
    let distance = x.iter().enumerate().fold(0.0f64, |d, (i, &x)| {
        let p = normal_cdf(x);
        d.max((p - i as f64 / n).abs()).max((p - (i + 1) as f64 / n).abs())
    });
    assert!(distance <= 1.95 / n.sqrt(), "distance {distance}");
}

#[test]
fn numbers_do_not_depend_on_how_many_are_drawn() {
    let all = normals(RANDOM, 20_000);
    assert!(all.iter().all(|x| x.is_finite()));
    for n in (0..140).chain([4095, 4096, 4097, 4100, 8191, 8193, 12_345]) {
        assert_eq!(normals(RANDOM, n), all[..n], "{n} numbers");
    }
}

#[test]
fn seeds_streams_and_steps_differ() {
    let mut seen = HashSet::new();
    for seed in [0, 1, 1 << 32, u64::MAX] {
        for stream in STREAMS {
            for step in [0, 1, 999] {
                let random = Random { seed, stream, step };
                for block in [0, 1, 1 << 32] {
                    assert!(seen.insert(random.words(block)), "{random:?} block {block}");
                }
                let x = normals(random, 8).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert!(seen.insert(x[..4].try_into().unwrap()), "{random:?}");
            }
        }
    }
}

#[test]
fn below_is_the_high_word_and_uniform() {
    for n in [1, 2, 7, 1000, u32::MAX] {
        let mut sum = 0.0;
        for element in 0..10_000u64 {
            let got = RANDOM.below(n, element);
            let word = RANDOM.words(element / 4)[element as usize % 4];
            assert_eq!(u64::from(got), (u64::from(word) * u64::from(n)) >> 32);
            assert!(got < n);
            sum += f64::from(got) / f64::from(n);
        }
        // 0..n divided by n has the mean (n − 1)/2n, and a variance of at most 1/12.
        let mean = 0.5 - 0.5 / f64::from(n);
        assert!((sum / 1e4 - mean).abs() <= 4.0 * (1.0 / 12.0f64).sqrt() / 100.0, "n {n}");
    }
    let mut counts = [0.0f64; 10];
    (0..100_000).for_each(|element| counts[RANDOM.below(10, element) as usize] += 1.0);
    // χ² with 9 degrees of freedom exceeds 27.9 once in a thousand.
    let chi2: f64 = counts.iter().map(|c| (c - 1e4).powi(2) / 1e4).sum();
    assert!(chi2 <= 27.9, "{counts:?}");
}

#[test]
fn permutations_permute() {
    for n in [0, 1, 2, 3, 17, 1000] {
        let mut order = RANDOM.permutation(n);
        assert_eq!(order.len(), n);
        order.sort_unstable();
        assert!(order.into_iter().eq(0..n));
    }
    let other = Random { step: 13, ..RANDOM };
    assert_ne!(RANDOM.permutation(100), other.permutation(100));
    assert_eq!(RANDOM.permutation(100), RANDOM.permutation(100));
    // Each of the 24 orders of four: χ² with 23 degrees of freedom exceeds 49.7 once in a thousand.
    let mut counts = std::collections::HashMap::new();
    for step in 0..24_000 {
        *counts.entry(Random { step, ..RANDOM }.permutation(4)).or_insert(0.0) += 1.0;
    }
    let chi2: f64 = counts.values().map(|c: &f64| (c - 1e3).powi(2) / 1e3).sum();
    assert!(counts.len() == 24 && chi2 <= 49.7, "{chi2} {counts:?}");
}

#[test]
fn threads_do_not_matter() {
    assert_threads_do_not_matter(|| [from(&normals(RANDOM, 30_001), &[30_001])]);
}

#[test]
fn refuses_other_types() {
    let mut out = invad::Tensor::zeros(&[4], invad::DType::F16, invad::Device::Cpu).unwrap();
    assert_refused(ops::normal(RANDOM, &mut out), "normal: `out` should hold F32, got F16");
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    /// Bit for bit, words and normal numbers.
    #[test]
    fn as_on_the_cpu() {
        let Some(gpu) = gpu() else { return };
        let whole = Random { seed: u64::MAX, stream: Stream::Reconstruction, step: u64::MAX };
        for random in [RANDOM, whole, Random { seed: 0, stream: Stream::Init, step: 0 }] {
            for n in [0, 1, 2, 3, 4, 5, 1023, 1024, 1026, 20_001] {
                let mut out = Guarded::new(&[n], DType::F32, gpu);
                ops::normal(random, out.view_mut()).unwrap();
                let want: Vec<f64> = normals(random, n).into_iter().map(f64::from).collect();
                assert_eq!(out.f64s(), want, "{random:?}, {n} numbers");
            }
        }
    }
}
