//! Gaussian smoothing of a map.

use multiversion::multiversion;
use rayon::prelude::*;

/// Standard deviations after which the kernel ends.
const TRUNCATE: f64 = 4.0;

/// Smooths along both axes; beyond the border the border's pixels are mirrored, the edge included.
pub(crate) fn gaussian_blur(map: &mut [f32], width: usize, height: usize, sx: f64, sy: f64) {
    let (kx, ky) = (kernel(sx), kernel(sy));
    let reach = kx.len() / 2;
    map.par_chunks_exact_mut(width).for_each_init(Vec::new, |line, row| {
        line.clear();
        let end = (width + reach) as isize;
        line.extend((-(reach as isize)..end).map(|x| row[mirror(x, width)]));
        row.fill(0.0);
        for (k, &w) in kx.iter().enumerate() {
            add_scaled(row, w, &line[k..][..width]);
        }
    });
    let source = map.to_vec();
    let reach = (ky.len() / 2) as isize;
    map.par_chunks_exact_mut(width).enumerate().for_each(|(y, row)| {
        row.fill(0.0);
        for (k, &w) in ky.iter().enumerate() {
            let y = mirror(y as isize + k as isize - reach, height);
            add_scaled(row, w, &source[y * width..][..width]);
        }
    });
}

fn kernel(sigma: f64) -> Vec<f32> {
    let reach = (TRUNCATE * sigma + 0.5) as i64;
    let weight = |x: i64| (-0.5 * (x as f64 / sigma).powi(2)).exp();
    let total: f64 = (-reach..=reach).map(weight).sum();
    if reach == 0 {
        return vec![1.0];
    }
    (-reach..=reach).map(|x| (weight(x) / total) as f32).collect()
}

fn mirror(x: isize, n: usize) -> usize {
    let n = n as isize;
    let x = x.rem_euclid(2 * n);
    (if x < n { x } else { 2 * n - 1 - x }) as usize
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn add_scaled(out: &mut [f32], w: f32, x: &[f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o += w * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_sums_in_f64() {
        for (w, h, sx, sy) in [(1, 1, 4.0, 4.0), (7, 3, 2.0, 0.1), (40, 33, 1.3, 3.9)] {
            let map: Vec<f32> = (0..w * h).map(|i| (i as f32 * 1.7).sin()).collect();
            let mut got = map.clone();
            gaussian_blur(&mut got, w, h, sx, sy);
            let weights = |s: f64| -> Vec<(isize, f64)> {
                let r = (4.0 * s + 0.5) as isize;
                let g = |x: isize| (-0.5 * (x as f64 / s).powi(2)).exp();
                let total: f64 = (-r..=r).map(g).sum();
                (-r..=r).map(|x| (x, g(x) / total)).collect()
            };
            let reflect = |mut x: isize, n: usize| -> usize {
                let n = n as isize;
                loop {
                    if x < 0 {
                        x = -1 - x;
                    } else if x >= n {
                        x = 2 * n - 1 - x;
                    } else {
                        return x as usize;
                    }
                }
            };
            for y in 0..h {
                for x in 0..w {
                    let mut want = 0.0;
                    for &(dy, wy) in &weights(sy) {
                        for &(dx, wx) in &weights(sx) {
                            let at = reflect(y as isize + dy, h) * w + reflect(x as isize + dx, w);
                            want += wy * wx * f64::from(map[at]);
                        }
                    }
                    assert!((f64::from(got[y * w + x]) - want).abs() < 1e-6);
                }
            }
        }
    }
}
