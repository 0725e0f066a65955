//! Philox and normal numbers on the host.

use multiversion::multiversion;
use rayon::prelude::*;

use super::math::{ln, sin_cos_turns};
use crate::ops::Random;

const SPLIT: usize = 4096;
const LANES: usize = 16;

/// Philox4x32-10.
#[inline(always)]
pub(crate) fn philox(mut c: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        c = [
            (p1 >> 32) as u32 ^ c[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ c[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

pub(crate) fn normal(random: Random, out: &mut [f32]) {
    out.par_chunks_mut(SPLIT).enumerate().for_each(|(i, out)| {
        let first = (i * SPLIT / 4) as u64;
        for (j, out) in out.chunks_mut(4 * LANES).enumerate() {
            let mut block = [0.0; 4 * LANES];
            normal_blocks(random, first + (j * LANES) as u64, &mut block);
            let n = out.len();
            out.copy_from_slice(&block[..n]);
        }
    });
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn normal_blocks(random: Random, first: u64, out: &mut [f32; 4 * LANES]) {
    let key = [random.seed as u32, (random.seed >> 32) as u32];
    let mut words = [[0u32; LANES]; 4];
    for i in 0..LANES {
        let block = first + i as u64;
        let counter =
            [block as u32, (block >> 32) as u32, random.step as u32, random.stream as u32];
        let w = philox(counter, key);
        for (words, w) in words.iter_mut().zip(w) {
            words[i] = w;
        }
    }
    let mut normals = [[0.0f32; LANES]; 4];
    for pair in 0..2 {
        for i in 0..LANES {
            let (radius, angle) = (words[2 * pair][i], words[2 * pair + 1][i]);
            let u = (radius as f32 + 0.5) * (1.0 / 4_294_967_296.0);
            let r = (-2.0 * ln(u)).max(0.0).sqrt();
            let (s, c) = sin_cos_turns(angle);
            normals[2 * pair][i] = r * c;
            normals[2 * pair + 1][i] = r * s;
        }
    }
    for i in 0..LANES {
        for (k, normals) in normals.iter().enumerate() {
            out[4 * i + k] = normals[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The known answers published with Random123.
    #[test]
    fn known_answers() {
        for (counter, key, want) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (
                [0xffff_ffff; 4],
                [0xffff_ffff; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), want, "{counter:x?} {key:x?}");
        }
    }
}
