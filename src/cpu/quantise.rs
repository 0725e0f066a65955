//! Numbers as codes of eight bits, on the host.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::types::EightBits;

/// Of each row of `k` numbers where there are as many scales as rows, else of all.
pub(crate) fn quantise(
    x: &[f32],
    format: EightBits,
    codes: &mut [u8],
    scales: &mut [f32],
    k: usize,
) {
    let k = k.max(1);
    let one = scales.len() == 1;
    let largest = |i: usize| largest(x.get(i * k..(i + 1) * k).unwrap_or_default());
    if one {
        let all = (0..x.len() / k).into_par_iter().map(largest).reduce(|| 0.0, larger);
        scales.fill(format.scale(all));
    } else {
        let each = scales.par_iter_mut().enumerate();
        each.for_each(|(i, of)| *of = format.scale(largest(i)));
    }
    let scales = &*scales;
    codes.par_chunks_mut(k).zip(x.par_chunks(k)).enumerate().for_each(|(i, (codes, x))| {
        encode(x, format, scales[if one { 0 } else { i }], codes);
    });
}

/// The larger one; NaN if one is.
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn largest(x: &[f32]) -> f32 {
    // Of what is not negative, the order of the bits is that of the numbers, and NaN is above all.
    let bits = x.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff));
    f32::from_bits(bits)
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn encode(x: &[f32], format: EightBits, scale: f32, codes: &mut [u8]) {
    for (code, x) in codes.iter_mut().zip(x) {
        *code = format.encode(x / scale);
    }
}
