//! Cubic resizing of a map.

use rayon::prelude::*;

/// Numbers along an axis that an output reads.
const TAPS: usize = 4;

/// Enlarges a map, (height, width), with the filter of Mitchell and Netravali (1988, B = C = ⅓), which
/// leaves neither the edges of cells nor ringing; beyond the border the border's values go on.
pub(crate) fn resize_cubic(input: [usize; 2], output: [usize; 2], x: &[f32], y: &mut [f32]) {
    let [vertical, horizontal] = [0, 1].map(|axis| taps(input[axis], output[axis]));
    let width = input[1];
    y.par_chunks_exact_mut(output[1]).zip(&vertical).for_each_init(Vec::new, |line, (y, taps)| {
        line.clear();
        line.extend((0..width).map(|column| {
            taps.iter().map(|&(row, weight)| weight * x[row * width + column]).sum::<f32>()
        }));
        for (y, taps) in y.iter_mut().zip(&horizontal) {
            *y = taps.iter().map(|&(column, weight)| weight * line[column]).sum();
        }
    });
}

/// What each output reads along an axis, with weights whose sum is 1.
fn taps(input: usize, output: usize) -> Vec<[(usize, f32); TAPS]> {
    let of = |output_index: usize| {
        let centre = (output_index as f64 + 0.5) * input as f64 / output as f64 - 0.5;
        std::array::from_fn(|i| {
            let at = centre.floor() - 1.0 + i as f64;
            (at.clamp(0.0, input as f64 - 1.0) as usize, mitchell((centre - at).abs()) as f32)
        })
    };
    (0..output).map(of).collect()
}

fn mitchell(distance: f64) -> f64 {
    let x = distance;
    if x < 1.0 {
        ((21.0 * x - 36.0) * x * x + 16.0) / 18.0
    } else if x < 2.0 {
        (((-7.0 * x + 36.0) * x - 60.0) * x + 32.0) / 18.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The filter as its paper writes it, for any B and C, summed over all cells and those beyond the border.
    #[test]
    fn follows_sums_in_f64() {
        let filter = |x: f64| {
            let (b, c, x) = (1.0 / 3.0, 1.0 / 3.0, x.abs());
            let (square, cube) = (x.powi(2), x.powi(3));
            let sum = match x {
                ..1.0 => {
                    (12.0 - 9.0 * b - 6.0 * c) * cube
                        + (-18.0 + 12.0 * b + 6.0 * c) * square
                        + (6.0 - 2.0 * b)
                }
                1.0..2.0 => {
                    (-b - 6.0 * c) * cube
                        + (6.0 * b + 30.0 * c) * square
                        + (-12.0 * b - 48.0 * c) * x
                        + (8.0 * b + 24.0 * c)
                }
                _ => 0.0,
            };
            sum / 6.0
        };
        for [h, w, oh, ow] in
            [[1, 1, 4, 3], [2, 3, 9, 7], [5, 4, 5, 4], [16, 16, 61, 40], [6, 5, 3, 2]]
        {
            let x: Vec<f32> = (0..w * h).map(|i| (i as f32 * 1.7).sin()).collect();
            let mut got = vec![f32::NAN; ow * oh];
            resize_cubic([h, w], [oh, ow], &x, &mut got);
            let centre = |at: usize, input: usize, output: usize| {
                (at as f64 + 0.5) * input as f64 / output as f64 - 0.5
            };
            let inside = |at: isize, n: usize| at.clamp(0, n as isize - 1) as usize;
            for (i, &got) in got.iter().enumerate() {
                let [v, u] = [centre(i / ow, h, oh), centre(i % ow, w, ow)];
                let mut want = 0.0;
                for row in -4..h as isize + 4 {
                    for column in -4..w as isize + 4 {
                        let weight = filter(v - row as f64) * filter(u - column as f64);
                        want += weight * f64::from(x[inside(row, h) * w + inside(column, w)]);
                    }
                }
                assert!(
                    (f64::from(got) - want).abs() < 1e-6,
                    "{h}×{w} → {oh}×{ow} [{i}]: {got}, {want}"
                );
            }
        }
    }

    #[test]
    fn keeps_a_constant() {
        let mut got = vec![f32::NAN; 33 * 17];
        resize_cubic([3, 5], [33, 17], &[2.5; 15], &mut got);
        assert!(got.iter().all(|v| (v - 2.5).abs() < 1e-6));
    }
}
