//! Products of numbers rounded to bf16 in the registers of AVX-512, two terms with an instruction, with sums in f32.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::mem::transmute;
use std::ops::Range;

use super::Mat;
use super::avx512::pack_vector;
use super::blocked::{Kernel, LANES, Line, Place, Rows, Side, Size};
use super::dot;

/// Terms of a step: halves of a number of 32 bits.
const STEP: usize = 2;

/// A step of a panel of a holds a pair of terms of 8 rows, one of b those of 3 vectors.
pub(crate) enum Pairs {}

// SAFETY: `multiply` reads for each step 8 pairs of a and 3 vectors of b.
unsafe impl Kernel for Pairs {
    const ROWS: usize = dot::ROWS;
    const COLS: usize = dot::VECTORS * LANES;
    const TERMS: usize = 1024;
    const BLOCK: usize = 144;

    fn packed_rows(side: Side) -> usize {
        match side {
            Side::A => LANES,
            Side::B => Self::COLS,
        }
    }

    fn panel_lines(side: Side, terms: usize) -> usize {
        let steps = terms.div_ceil(STEP);
        match side {
            Side::A => steps.div_ceil(LANES / Self::ROWS),
            Side::B => steps * dot::VECTORS,
        }
    }

    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn pack(
        side: Side,
        x: Mat,
        rows: Range<usize>,
        k0: usize,
        terms: usize,
        lines: &mut [Line],
    ) {
        let panel = Self::panel_lines(side, terms);
        assert!(lines.len() >= panel);
        let to: *mut i32 = lines.as_mut_ptr().cast();
        // The first term of a pair waits for the second.
        let first = Cell::new(_mm512_setzero_si512());
        let pair = |term: usize, numbers| match term % STEP {
            0 => {
                first.set(_mm512_srli_epi32::<16>(rounded(numbers)));
                (term + 1 == terms).then(|| first.get())
            }
            _ => Some(joined(first.get(), rounded(numbers))),
        };
        match side {
            Side::A => {
                let second = (lines.len() >= 2 * panel).then(|| to.wrapping_add(panel * LANES));
                pack_vector(x, rows, k0, terms, |term, numbers| {
                    let Some(pairs) = pair(term, numbers) else { return };
                    let at = term / STEP * Self::ROWS;
                    // SAFETY: each panel has 8 numbers for each step.
                    unsafe {
                        _mm256_store_si256(to.add(at).cast(), _mm512_castsi512_si256(pairs));
                        if let Some(second) = second {
                            let pairs = _mm512_extracti64x4_epi64::<1>(pairs);
                            _mm256_store_si256(second.add(at).cast(), pairs);
                        }
                    }
                });
            }
            Side::B => {
                for v in 0..rows.len().div_ceil(LANES) {
                    let start = rows.start + v * LANES;
                    let rows = start..(start + LANES).min(rows.end);
                    pack_vector(x, rows, k0, terms, |term, numbers| {
                        let Some(pairs) = pair(term, numbers) else { return };
                        let at = (term / STEP * dot::VECTORS + v) * LANES;
                        // SAFETY: the panel has 3 vectors for each step.
                        unsafe { _mm512_store_si512(to.add(at).cast(), pairs) };
                    });
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn multiply(a: Rows, b: &[Line], terms: usize, size: Size, place: Place, next: &[Line]) {
        let Rows::Packed(a) = a else { unreachable!("packed always") };
        let steps = terms.div_ceil(STEP);
        // SAFETY: who packs for this kernel has made sure of products of bf16; the rest is this function's contract.
        unsafe { dot::of_size!(size, multiply(a, b, steps, place, next)) }
    }
}

/// The first rows of a · a panel of b of V vectors.
///
/// # Safety
/// The processor must have products of bf16, both panels these steps, and the place room for all rows and vectors.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512dq,avx512bf16")]
unsafe fn multiply<const N: usize, const V: usize>(
    a: &[Line],
    b: &[Line],
    steps: usize,
    place: Place,
    next: &[Line],
) {
    // SAFETY: by this function's contract; vectors of pairs and of numbers have the same bits.
    unsafe {
        let pairs = |x| transmute::<__m512i, __m512bh>(x);
        let add = |sum, x, column| _mm512_dpbf16_ps(sum, pairs(x), pairs(column));
        let sums: [[_; V]; N] = dot::sums(a, b, steps, next, _mm512_setzero_ps(), add);
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                place.put(r, v, sum);
            }
        }
    }
}

/// The halves of two vectors of numbers of 32 bits together: lower ones, of which the upper half is 0, and the upper halves
/// of others.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn joined(low: __m512i, high: __m512i) -> __m512i {
    // low | (high & mask)
    _mm512_ternarylogic_epi32::<0xf8>(low, high, _mm512_set1_epi32(!0xffff))
}

/// Numbers of which the upper half is the nearest in bf16, of two the even one; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn rounded(x: __m512) -> __m512i {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
    _mm512_mask_blend_epi32(nan, _mm512_add_epi32(bits, up), quiet)
}
