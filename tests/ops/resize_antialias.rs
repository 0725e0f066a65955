use crate::common::*;
use invad::ops;

/// One axis in f64: every output is the mean of all inputs under its triangle.
fn shrink(x: &[f64], output: usize) -> Vec<f64> {
    let scale = x.len() as f64 / output as f64;
    let reach = scale.max(1.0);
    (0..output)
        .map(|o| {
            let centre = (o as f64 + 0.5) * scale;
            let weight = |i: usize| (1.0 - ((i as f64 + 0.5 - centre) / reach).abs()).max(0.0);
            let total: f64 = (0..x.len()).map(weight).sum();
            x.iter().enumerate().map(|(i, v)| v * weight(i)).sum::<f64>() / total
        })
        .collect()
}

/// Rows, rounded, then columns, rounded.
fn oracle(src: &[u8], [h, w]: [usize; 2], [oh, ow]: [usize; 2]) -> Vec<f64> {
    let mut dst = vec![0.0; oh * ow * 3];
    for c in 0..3 {
        let rows: Vec<Vec<f64>> = (0..h)
            .map(|y| {
                let row: Vec<f64> = (0..w).map(|x| f64::from(src[(y * w + x) * 3 + c])).collect();
                shrink(&row, ow).iter().map(|v| v.round()).collect()
            })
            .collect();
        for x in 0..ow {
            let column: Vec<f64> = rows.iter().map(|row| row[x]).collect();
            for (y, v) in shrink(&column, oh).into_iter().enumerate() {
                dst[(y * ow + x) * 3 + c] = v.round();
            }
        }
    }
    dst
}

#[test]
fn follows_f64_to_a_rounding() {
    for (from, to) in [
        ([1, 1], [1, 1]),
        ([1, 1], [3, 2]),
        ([97, 141], [64, 64]),
        ([40, 50], [64, 64]),
        ([200, 128], [32, 32]),
        ([7, 300], [7, 11]),
        ([300, 7], [11, 7]),
        ([1, 90], [5, 1]),
        ([90, 2], [1, 33]),
        ([33, 31], [33, 31]),
    ] {
        let pixels = uniform(from[0] as u64, from[0] * from[1] * 3, 128.0);
        let src: Vec<u8> = pixels.iter().map(|v| (v + 128.0) as u8).collect();
        let mut dst = vec![0; to[0] * to[1] * 3];
        ops::resize_antialias(&src, from, &mut dst, to).unwrap();
        let want = oracle(&src, from, to);
        // Weights in fixed point may round the other way where f64 is within 1e-6 of a half.
        let differences: Vec<f64> =
            dst.iter().zip(&want).map(|(&g, w)| (f64::from(g) - w).abs()).collect();
        let ones = differences.iter().filter(|&&d| d == 1.0).count();
        assert!(differences.iter().all(|&d| d <= 1.0), "{from:?} to {to:?}");
        assert!(ones * 500 <= dst.len(), "{from:?} to {to:?}: {ones} of {} differ", dst.len());
    }
}

/// What Pillow 12 makes of a ramp.
#[test]
fn is_pillow_bit_for_bit() {
    let src: Vec<u8> = (0..5 * 7 * 3).map(|i| (i * i * 31 % 256) as u8).collect();
    let mut dst = [0; 2 * 3 * 3];
    ops::resize_antialias(&src, [5, 7], &mut dst, [2, 3]).unwrap();
    assert_eq!(dst, PILLOW_5X7_TO_2X3);
    let mut dst = [0; 3 * 3 * 3];
    ops::resize_antialias(&src[..12], [2, 2], &mut dst, [3, 3]).unwrap();
    assert_eq!(dst, PILLOW_2X2_TO_3X3);
}

const PILLOW_5X7_TO_2X3: [u8; 18] =
    [89, 165, 127, 158, 139, 128, 129, 145, 163, 128, 142, 153, 127, 139, 145, 148, 146, 118];
const PILLOW_2X2_TO_3X3: [u8; 27] = [
    0, 31, 124, 12, 136, 66, 23, 240, 7, 46, 135, 158, 81, 135, 123, 115, 134, 87, 92, 239, 192,
    150, 134, 180, 207, 28, 167,
];

#[test]
fn refuses_what_is_no_image() {
    let run = |from, to| ops::resize_antialias(&[0; 12], from, &mut [0; 3], to).unwrap_err();
    assert!(run([2, 3], [1, 1]).to_string().contains("`src` should have shape [18]"));
    assert!(run([2, 2], [1, 2]).to_string().contains("`dst`"));
    assert!(run([2, 2], [0, 1]).to_string().contains("`to`"));
    assert!(run([usize::MAX, 2], [1, 1]).to_string().contains("`from`"));
}
