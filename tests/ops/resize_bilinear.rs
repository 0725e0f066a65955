use crate::support::numbers::*;
use invad::ops;

/// For each output along one axis, the weight of every input.
fn weights(input: usize, output: usize) -> Vec<Vec<f64>> {
    let centre = |o: usize| (o as f64 + 0.5) * input as f64 / output as f64 - 0.5;
    (0..output)
        .map(|o| {
            let at = centre(o).clamp(0.0, (input - 1) as f64);
            (0..input).map(|i| (1.0 - (at - i as f64).abs()).max(0.0)).collect()
        })
        .collect()
}

/// Σ over all pixels.
pub fn oracle(x: &[f64], from: [usize; 2], to: [usize; 2], c: usize) -> Vec<f64> {
    let rows = weights(from[0], to[0]);
    let columns = weights(from[1], to[1]);
    let batch = x.len() / (from[0] * from[1] * c).max(1);
    let mut y = Vec::new();
    for b in 0..batch {
        for i in 0..to[0] * to[1] * c {
            let (row, column, c_at) = (&rows[i / c / to[1]], &columns[i / c % to[1]], i % c);
            let mut sum = 0.0;
            for (iy, row) in row.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
                for (ix, column) in column.iter().enumerate() {
                    sum += row * column * x[((b * from[0] + iy) * from[1] + ix) * c + c_at];
                }
            }
            y.push(sum);
        }
    }
    y
}

#[test]
fn forward() {
    for (from, to, b, c) in [
        ([1, 1], [1, 1], 1, 1),
        ([1, 1], [5, 3], 2, 3),
        ([5, 7], [13, 4], 2, 1),
        ([16, 16], [64, 64], 1, 1),
        ([14, 14], [112, 112], 1, 1),
        ([64, 32], [16, 16], 1, 24),
        ([9, 4], [9, 4], 1, 17),
        ([3, 100], [31, 1], 3, 2),
    ] {
        let x = tensor(1, &[b, from[0], from[1], c], 1.0);
        let mut y = poisoned(&[b, to[0], to[1], c]);
        ops::resize_bilinear(&x, &mut y).unwrap();
        let case = format!("{from:?} to {to:?}, {b} of {c}");
        assert_close(&case, &f64s(&y), &oracle(&f64s(&x), from, to, c), 1e-6);
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let run = |x: &[usize], y: &[usize]| ops::resize_bilinear(&tensor(1, x, 1.0), &mut poisoned(y));
    assert!(run(&[2, 3, 3, 1], &[1, 6, 6, 1]).is_err());
    assert!(run(&[2, 3, 3, 1], &[2, 6, 6, 2]).is_err());
    assert!(run(&[2, 0, 3, 1], &[2, 6, 6, 1]).unwrap_err().to_string().contains("one pixel"));
    assert!(run(&[2, 3, 3, 1], &[2, 0, 6, 1]).is_ok());
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn forward() {
        let Some(gpu) = gpu() else { return };
        for (from, to, b, c) in [
            ([1, 1], [1, 1], 1, 1),
            ([1, 1], [5, 3], 2, 3),
            ([5, 7], [13, 4], 2, 1),
            ([16, 16], [64, 300], 1, 1),
            ([64, 32], [16, 16], 1, 24),
            ([3, 100], [31, 1], 3, 2),
        ] {
            let data = uniform(1, b * from[0] * from[1] * c, 1.0);
            let x = upload(&data, &[b, from[0], from[1], c], DType::F32, gpu);
            let mut y = Guarded::new(&[b, to[0], to[1], c], DType::F32, gpu);
            ops::resize_bilinear(&x, y.view_mut()).unwrap();
            let want = oracle(&f64s(&x), from, to, c);
            assert_close(&format!("{from:?} to {to:?}, {b} of {c}"), &y.f64s(), &want, 4e-6);
        }
    }
}
