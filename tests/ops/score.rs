use crate::support::numbers::*;
use invad::Tensor;
use invad::ops::{self, SCORE_STATS};

fn run(latent: &Tensor) -> [Tensor; 2] {
    let (b, n) = (latent.shape()[0], latent.shape()[1]);
    let (mut map, mut stats) = (poisoned(&[b, n]), poisoned(&[b, SCORE_STATS]));
    ops::score(latent, &mut map, &mut stats).unwrap();
    [map, stats]
}

/// Map and stats of one image.
fn oracle(z: &[f64], channels: usize) -> (Vec<f64>, [f64; SCORE_STATS]) {
    let map: Vec<f64> = z.chunks_exact(channels).map(|z| dot(z, z).sqrt()).collect();
    let mut sorted = map.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (max, min) = (sorted[0], sorted[sorted.len() - 1]);
    sorted.truncate(5);
    let top = sorted.iter().sum::<f64>() / sorted.len() as f64;
    (map, [max, min, max - min, top, 0.5 * dot(z, z)])
}

fn check(case: &str, latent: &Tensor) {
    let [_, n, c] = latent.shape().try_into().unwrap();
    let [map, stats] = run(latent).map(|t| f64s(&t));
    let z = f64s(latent);
    for (b, z) in z.chunks_exact(n * c).enumerate() {
        let (want_map, want) = oracle(z, c);
        assert_close(&format!("{case}: map {b}"), &map[b * n..][..n], &want_map, 3e-7);
        let got = &stats[b * SCORE_STATS..][..SCORE_STATS];
        assert_close(&format!("{case}: norms {b}"), &got[..4], &want[..4], 3e-7);
        assert_close(&format!("{case}: ½Σz² {b}"), &got[4..], &want[4..], 3e-7);
    }
}

#[test]
fn forward() {
    for shape in
        [[1, 1, 1], [2, 2, 3], [1, 4, 17], [3, 5, 7], [2, 6, 16], [3, 65, 33], [4, 256, 272]]
    {
        check(&format!("{shape:?}"), &tensor(1, &shape, 1.7));
    }
}

/// Of latents as small as those of a network that has hardly been trained: the log density of each number, summed in
/// f64, whose constant part is a billion times what differs.
#[test]
fn likelihoods_of_small_latents_differ() {
    let shape @ [b, n, c] = [6, 256, 192];
    let latent = tensor(3, &shape, 6e-5);
    let stats = run(&latent)[1].to_vec_f32();
    let density = |z: &f64| 0.5 * z * z + 0.5 * std::f64::consts::TAU.ln();
    let z = f64s(&latent);
    let nll = |b: usize| ops::negative_log_likelihood(stats[b * SCORE_STATS + 4], n * c);
    for (image, z) in z.chunks_exact(n * c).enumerate() {
        let squares = 0.5 * dot(z, z);
        let want: f64 = z.iter().map(density).sum();
        assert!(squares < 1e-4 && (nll(image) / want - 1.0).abs() < 1e-12, "{image}");
        // What is above that of a latent of zeros.
        let above = nll(image) - ops::negative_log_likelihood(0.0, n * c);
        assert!((above / squares - 1.0).abs() < 1e-6, "{image}: {above} {squares}");
    }
    let all: std::collections::BTreeSet<u64> = (0..b).map(|b| nll(b).to_bits()).collect();
    assert_eq!(all.len(), b);
}

/// Map and stats of each image of the latent a·x + b·output.
fn oracle_of_step(x: &[f64], output: &[f64], [a, b]: [f32; 2], shape: [usize; 3]) -> [Vec<f64>; 2] {
    let [_, n, c] = shape;
    let (a, b) = (f64::from(a), f64::from(b));
    let z: Vec<f64> = x.iter().zip(output).map(|(x, o)| a * x + b * o).collect();
    let (mut maps, mut rows) = (Vec::new(), Vec::new());
    for z in z.chunks_exact(n * c) {
        let (map, row) = oracle(z, c);
        maps.extend(map);
        rows.extend(row);
    }
    [maps, rows]
}

const STEPS: [[f32; 2]; 3] = [[1.25, -0.5], [0.0, 1.0], [100.0, 0.375]];

#[test]
fn step() {
    for shape @ [b, n, _] in [[1, 1, 1], [3, 5, 7], [2, 64, 33]] {
        for factors in STEPS {
            let (mut x, output) = (tensor(1, &shape, 1.7), tensor(2, &shape, 2.3));
            let [want_map, want] = oracle_of_step(&f64s(&x), &f64s(&output), factors, shape);
            let (mut map, mut stats) = (poisoned(&[b, n]), poisoned(&[b, SCORE_STATS]));
            ops::score_step(&mut x, &output, factors, &mut map, &mut stats).unwrap();
            let case = format!("{shape:?} {factors:?}");
            assert_close(&format!("{case}: map"), &f64s(&map), &want_map, 5e-7);
            assert_close(&format!("{case}: stats"), &f64s(&stats), &want, 5e-7);
        }
    }
}

#[test]
fn the_largest_may_stand_anywhere() {
    for start in 0..9 {
        let z: Vec<f32> = (0..9).map(|i| ((i * 4 + start) % 9) as f32).collect();
        let stats = run(&from(&z, &[1, 9, 1]))[1].to_vec_f32();
        assert_eq!(stats[..4], [8.0, 0.0, 8.0, 6.0], "{z:?}");
    }
    let rising: Vec<f32> = (0..50).map(|i| i as f32).collect();
    let falling: Vec<f32> = rising.iter().rev().copied().collect();
    for z in [rising, falling] {
        assert_eq!(run(&from(&z, &[1, 50, 1]))[1].to_vec_f32()[..4], [49.0, 0.0, 49.0, 47.0]);
    }
}

#[test]
fn ties_count_as_often_as_they_come() {
    for (z, want) in [
        (&[2.0; 7][..], [2.0, 2.0, 0.0, 2.0]),
        (&[3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 1.0], [3.0, 1.0, 2.0, 2.2]),
        (&[0.0; 6], [0.0; 4]),
        (&[-4.0, 4.0], [4.0, 4.0, 0.0, 4.0]),
    ] {
        let stats = run(&from(z, &[1, z.len(), 1]))[1].to_vec_f32();
        assert_eq!(stats[..4], want, "{z:?}");
    }
}

#[test]
fn nan_makes_all_of_its_images_stats_nan() {
    for at in [0, 1, 77, 119] {
        let mut z = tensor(1, &[3, 40, 3], 1.0).to_vec_f32();
        z[120 + at] = f32::NAN;
        let [map, stats] = run(&from(&z, &[3, 40, 3])).map(|t| t.to_vec_f32());
        let nan: Vec<usize> = (0..15).filter(|&i| stats[i].is_nan()).collect();
        assert_eq!(nan, [5, 6, 7, 8, 9], "NaN at {at}");
        assert!((0..120).all(|i| map[i].is_nan() == (i == 40 + at / 3)), "NaN at {at}");
    }
}

#[test]
fn threads_do_not_matter() {
    let latent = tensor(1, &[7, 64, 50], 1.7);
    assert_threads_do_not_matter(|| run(&latent));
}

#[test]
fn refuses_other_shapes() {
    let mut stats = poisoned(&[2, SCORE_STATS]);
    assert_refused(
        ops::score(&tensor(1, &[2, 3, 4], 1.0), &mut poisoned(&[2, 4]), &mut stats),
        "score: `map` should have shape [2, 3], got [2, 4]",
    );
    assert_refused(
        ops::score(&poisoned(&[2, 0, 4]), &mut poisoned(&[2, 0]), &mut stats),
        "score: `latent` should have shape (B, N ≥ 1, C ≥ 1), got [2, 0, 4]",
    );
    let (mut x, output) = (tensor(1, &[2, 3, 4], 1.0), tensor(1, &[2, 3, 5], 1.0));
    assert_refused(
        ops::score_step(&mut x, &output, [1.0, 1.0], &mut poisoned(&[2, 3]), &mut stats),
        "score: `output` should have shape [2, 3, 4], got [2, 3, 5]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    fn run(latent: &[f32], [b, n, c]: [usize; 3]) -> Option<[Vec<f64>; 2]> {
        let gpu = gpu()?;
        let latent = upload(latent, &[b, n, c], DType::F32, gpu);
        let mut map = Guarded::new(&[b, n], DType::F32, gpu);
        let mut stats = Guarded::new(&[b, SCORE_STATS], DType::F32, gpu);
        ops::score(&latent, map.view_mut(), stats.view_mut()).unwrap();
        Some([map.f64s(), stats.f64s()])
    }

    #[test]
    fn forward() {
        for shape @ [_, n, c] in
            [[1, 1, 1], [2, 2, 3], [1, 4, 17], [3, 5, 7], [2, 6, 16], [3, 65, 33], [4, 256, 272]]
        {
            let latent = uniform(1, shape.iter().product(), 1.7);
            let Some([map, stats]) = run(&latent, shape) else { return };
            let z: Vec<f64> = latent.iter().map(|&z| z.into()).collect();
            for (b, z) in z.chunks_exact(n * c).enumerate() {
                let case = format!("{shape:?}, image {b}");
                let (want_map, want) = oracle(z, c);
                assert_close(&format!("{case}: map"), &map[b * n..][..n], &want_map, 1e-6);
                let got = &stats[b * SCORE_STATS..][..SCORE_STATS];
                assert_close(&format!("{case}: norms"), &got[..4], &want[..4], 1e-6);
                assert_close(&format!("{case}: ½Σz²"), &got[4..], &want[4..], 1e-6);
            }
        }
    }

    #[test]
    fn step() {
        let Some(gpu) = gpu() else { return };
        for shape @ [b, n, c] in [[1, 1, 1], [3, 5, 7], [2, 65, 33]] {
            for factors in STEPS {
                let (x, output) = (uniform(1, b * n * c, 1.7), halves(2, b * n * c, 2.3));
                let f64s = |v: &[f32]| -> Vec<f64> { v.iter().map(|&v| v.into()).collect() };
                let [want_map, want] = oracle_of_step(&f64s(&x), &f64s(&output), factors, shape);
                let mut x = upload(&x, &shape, DType::F32, gpu);
                let output = upload(&output, &shape, DType::F16, gpu);
                let mut map = Guarded::new(&[b, n], DType::F32, gpu);
                let mut stats = Guarded::new(&[b, SCORE_STATS], DType::F32, gpu);
                let (map_out, stats_out) = (map.view_mut(), stats.view_mut());
                ops::score_step(&mut x, &output, factors, map_out, stats_out).unwrap();
                let case = format!("{shape:?} {factors:?}");
                assert_close(&format!("{case}: map"), &map.f64s(), &want_map, 1e-6);
                assert_close(&format!("{case}: stats"), &stats.f64s(), &want, 1e-6);
            }
        }
    }

    #[test]
    fn ties_and_orders() {
        for (z, want) in [
            (&[2.0; 7][..], [2.0, 2.0, 0.0, 2.0]),
            (&[3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 1.0], [3.0, 1.0, 2.0, 2.2]),
            (&[0.0; 6], [0.0; 4]),
            (&[-4.0, 4.0], [4.0, 4.0, 0.0, 4.0]),
            (&[0.0, 4.0, 8.0, 3.0, 7.0, 2.0, 6.0, 1.0, 5.0], [8.0, 0.0, 8.0, 6.0]),
        ] {
            let Some([_, stats]) = run(z, [1, z.len(), 1]) else { return };
            assert_close(&format!("{z:?}"), &stats[..4], &want, 1e-7);
        }
    }

    #[test]
    fn nan_makes_all_of_its_images_stats_nan() {
        for at in [0, 1, 77, 119] {
            let mut z = uniform(1, 360, 1.0);
            z[120 + at] = f32::NAN;
            let Some([map, stats]) = run(&z, [3, 40, 3]) else { return };
            let nan: Vec<usize> = (0..15).filter(|&i| stats[i].is_nan()).collect();
            assert_eq!(nan, [5, 6, 7, 8, 9], "NaN at {at}");
            assert!((0..120).all(|i| map[i].is_nan() == (i == 40 + at / 3)), "NaN at {at}");
        }
    }
}
