use crate::support::numbers::*;
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

/// Along one axis, rounded, then along the other.
fn oracle(src: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<f64> {
    let shrinks = [0, 1].map(|axis| from[axis] as f64 - to[axis] as f64);
    let order = if shrinks[0] > 0.0 && shrinks[0] > 2.0 * shrinks[1] { [0, 1] } else { [1, 0] };
    let mut pixels: Vec<f64> = src.iter().map(|&v| f64::from(v)).collect();
    let mut size = [from[0], from[1], 3];
    for axis in order {
        let mut resized = size;
        resized[axis] = to[axis];
        let mut out = vec![f64::NAN; resized.iter().product()];
        let at = |[_, w, _]: [usize; 3], i: usize, across: usize, c: usize| match axis {
            0 => (i * w + across) * 3 + c,
            _ => (across * w + i) * 3 + c,
        };
        for across in 0..size[1 - axis] {
            for c in 0..3 {
                let line: Vec<f64> =
                    (0..size[axis]).map(|i| pixels[at(size, i, across, c)]).collect();
                for (i, v) in shrink(&line, to[axis]).into_iter().enumerate() {
                    out[at(resized, i, across, c)] = v.round();
                }
            }
        }
        (pixels, size) = (out, resized);
    }
    pixels
}

#[test]
fn follows_f64_to_a_rounding() {
    for (from, to) in [
        ([1, 1], [1, 1]),
        ([1, 1], [3, 2]),
        ([97, 141], [64, 64]),
        ([40, 50], [64, 64]),
        ([200, 128], [32, 32]),
        ([111, 73], [48, 48]),
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

/// Sizes, also at the edge between the two orders, with the FNV-1a hash of what Pillow 13.0 makes of the picture whose
/// byte i is (31·i² + ⌊i/7⌋) mod 256.
#[test]
fn is_pillow_bit_for_bit() {
    for (from, to, want) in PILLOW_13 {
        let bytes = (from[0] * from[1] * 3) as u64;
        let src: Vec<u8> = (0..bytes).map(|i| ((31 * i * i + i / 7) % 256) as u8).collect();
        let mut dst = vec![0; to[0] * to[1] * 3];
        ops::resize_antialias(&src, from, &mut dst, to).unwrap();
        let hash = dst.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        assert_eq!(hash, want, "{from:?} to {to:?}");
    }
}

const PILLOW_13: [([usize; 2], [usize; 2], u64); 64] = [
    ([111, 73], [48, 48], 0x84ae_b474_f57a_22aa),
    ([73, 60], [48, 48], 0x54de_e496_d133_8a45),
    ([300, 150], [48, 48], 0xd8ca_f13a_1ac7_be56),
    ([200, 128], [64, 64], 0xd46b_4e33_9375_6018),
    ([90, 73], [48, 48], 0x5eb9_707d_fd08_af59),
    ([200, 150], [48, 48], 0x240b_a117_92f0_eeb4),
    ([200, 128], [32, 32], 0x9fae_a444_ef54_9b57),
    ([57, 49], [40, 40], 0x3aa3_1faa_063f_9a3e),
    ([58, 49], [40, 40], 0x2df1_9d4a_565e_381f),
    ([59, 49], [40, 40], 0x951b_77f8_66ff_cb4a),
    ([41, 40], [40, 40], 0xbbad_54d8_1326_f207),
    ([41, 40], [40, 50], 0x3bb0_0bc9_7385_151c),
    ([40, 90], [40, 20], 0x27c7_08b5_943f_52da),
    ([30, 20], [40, 10], 0x2974_598c_85f3_377a),
    ([60, 20], [40, 30], 0xaabb_07d2_7dd8_7442),
    ([60, 20], [40, 20], 0xfd2f_a973_dd16_fbce),
    ([1, 1], [3, 2], 0x150e_df4e_4e19_b033),
    ([97, 5], [1, 5], 0x142f_339b_8051_d52e),
    ([97, 5], [2, 9], 0x84f1_a155_97bd_ef4d),
    ([48, 60], [13, 33], 0x7177_6744_d22d_9dd0),
    ([8, 33], [13, 8], 0x13a2_10b2_4f6b_9437),
    ([3, 24], [60, 1], 0x3ce5_1abd_9aa4_00b7),
    ([111, 8], [1, 48], 0x667b_0b11_81b5_28f4),
    ([8, 3], [48, 128], 0xe86a_fbc5_f395_cc0a),
    ([111, 8], [48, 73], 0xe9e6_0e06_cd73_a55f),
    ([33, 150], [111, 73], 0x637a_bf25_5cac_3fe9),
    ([111, 64], [5, 73], 0x01c6_0e9c_2872_89f8),
    ([48, 128], [8, 128], 0x55c4_1781_eed6_e1bf),
    ([128, 13], [60, 24], 0x6cf9_726a_f581_6aa9),
    ([13, 73], [48, 73], 0x204c_0b04_7653_db99),
    ([128, 48], [48, 90], 0x9643_9b9a_d58f_b265),
    ([8, 150], [33, 33], 0x8d50_fba6_23b5_84a7),
    ([24, 73], [8, 3], 0x041c_b8be_772b_1d33),
    ([111, 128], [90, 1], 0xd35e_9529_bdfd_e7f1),
    ([111, 2], [33, 8], 0x8e60_3149_56d0_3985),
    ([150, 128], [48, 13], 0xb9ed_6dc6_24b5_4c7f),
    ([111, 48], [73, 24], 0xc133_ca85_6c39_23f6),
    ([73, 8], [33, 150], 0xc30b_f6c5_f256_c7ab),
    ([24, 2], [2, 73], 0x0eea_bb5d_81c1_43a2),
    ([64, 13], [60, 24], 0x0cf8_a18e_f8af_dbe1),
    ([13, 5], [33, 13], 0x1031_0219_1352_0296),
    ([3, 111], [2, 128], 0x42f2_4309_432c_6b2f),
    ([64, 3], [1, 8], 0x13b8_de35_3e59_5617),
    ([60, 5], [111, 60], 0x8fe4_96d5_cf60_e2ab),
    ([48, 3], [150, 73], 0xa5e5_2c6b_f8c8_baae),
    ([2, 1], [64, 64], 0x40fe_6102_629d_8d25),
    ([8, 150], [150, 33], 0xae17_65ef_f315_b5c3),
    ([24, 60], [2, 90], 0xb799_c91f_a4a5_f16c),
    ([13, 8], [48, 111], 0xb0a8_dec1_9cf8_2d7c),
    ([24, 48], [111, 33], 0x56bd_6272_0849_ec2b),
    ([73, 33], [60, 111], 0xe86c_1871_535d_4eb4),
    ([24, 73], [111, 2], 0xe7c2_8802_4075_2dff),
    ([64, 90], [128, 3], 0x5097_d65a_8fb0_6683),
    ([3, 2], [1, 60], 0x1277_33a9_36da_1b47),
    ([24, 128], [150, 90], 0x1721_0a1b_37d9_0d3b),
    ([64, 2], [60, 111], 0xfb2e_661a_741c_f80b),
    ([8, 8], [2, 5], 0x3baa_bf6e_adc4_89da),
    ([73, 13], [24, 60], 0x9b99_8ac9_f2ad_c4a9),
    ([60, 90], [60, 2], 0x689c_61b6_7619_9981),
    ([73, 8], [5, 73], 0xaa5a_d44b_e138_0bce),
    ([150, 128], [111, 2], 0x3658_707a_837f_1d0f),
    ([73, 60], [8, 2], 0xcaf3_9c16_9c39_12c0),
    ([64, 13], [8, 1], 0x29e0_e71c_e086_7fe5),
    ([33, 8], [3, 150], 0xe3aa_aafc_8f10_024f),
];
