//! Products of codes of eight bits in the registers of AVX-512 VNNI, four terms with an instruction.
//!
//! The instruction multiplies bytes without a sign by bytes with one. Codes of a have 128 added, and 128 times the sum of a
//! column's codes is taken off again.

use std::arch::x86_64::*;
use std::array;
use std::ops::Range;

use super::Mat;
use super::blocked::{Kernel, LANES, Line, Place, Rows, Side, Size, lanes};
use super::dot;
use crate::types::EightBits;

/// Terms of a step: bytes of a number of 32 bits.
const STEP: usize = 4;
/// What codes of a have added.
const OFFSET: i32 = 128;
/// Lines at the start of a panel of a: scales. Of b: scales, and what is taken off.
const A_HEAD: usize = 1;
const B_HEAD: usize = 2 * dot::VECTORS;
/// The most terms of a sum: those of a span, so that a row has one scale.
pub(super) const MOST_TERMS: usize = Codes::TERMS;

/// A step of a panel of a holds four bytes of 8 rows, one of b those of 3 vectors.
pub(crate) enum Codes {}

// SAFETY: `multiply` reads the heads, and for each step 8 numbers of a and 3 vectors of b.
unsafe impl Kernel for Codes {
    const ROWS: usize = dot::ROWS;
    const COLS: usize = dot::VECTORS * LANES;
    const TERMS: usize = 16384;
    const BLOCK: usize = 144;

    fn panel_lines(side: Side, terms: usize) -> usize {
        let steps = terms.div_ceil(STEP);
        match side {
            Side::A => A_HEAD + steps.div_ceil(LANES / Self::ROWS),
            Side::B => B_HEAD + steps * dot::VECTORS,
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
        let (height, head) = match side {
            Side::A => (Self::ROWS, A_HEAD),
            Side::B => (Self::COLS, B_HEAD),
        };
        lines.fill(Line::ZERO);
        let (head, steps) = lines.split_at_mut(head);
        let steps: &mut [[i32; LANES]] = numbers(steps);
        let head: &mut [[i32; LANES]] = numbers(head);
        for (row, r) in rows.enumerate() {
            let x = Row { x, row: r, start: k0, terms };
            let scale = x.scale();
            head[row / LANES][row % LANES] = scale.to_bits() as i32;
            let mut sum = _mm512_setzero_si512();
            for start in (0..terms).step_by(LANES) {
                let codes = _mm512_cvtps_epi32(_mm512_div_ps(x.load(start), _mm512_set1_ps(scale)));
                sum = _mm512_add_epi32(sum, codes);
                let codes = match side {
                    Side::A => _mm512_add_epi32(codes, _mm512_set1_epi32(OFFSET)),
                    Side::B => codes,
                };
                let mut bytes = [0i32; LANES / STEP];
                // SAFETY: these are 16 bytes.
                unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(codes)) };
                let first = start / STEP;
                for (step, bytes) in (first..terms.div_ceil(STEP)).zip(bytes) {
                    let at = step * height + row;
                    steps[at / LANES][at % LANES] = bytes;
                }
            }
            if side == Side::B {
                head[dot::VECTORS + row / LANES][row % LANES] =
                    (-OFFSET).wrapping_mul(_mm512_reduce_add_epi32(sum));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn multiply(a: Rows, b: &[Line], terms: usize, size: Size, place: Place, next: &[Line]) {
        let Rows::Packed(a) = a else { unreachable!("packed always") };
        let steps = terms.div_ceil(STEP);
        // SAFETY: who packs for this kernel has made sure of VNNI; the rest is this function's contract.
        unsafe { dot::of_size!(size, multiply(a, b, steps, place, next)) }
    }
}

/// The numbers of lines.
fn numbers(lines: &mut [Line]) -> &mut [[i32; LANES]] {
    // SAFETY: a line has the size of 16 numbers and more than their alignment, and any bits are one.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len()) }
}

/// Terms of a row of a matrix.
#[derive(Clone, Copy)]
struct Row<'a> {
    x: Mat<'a>,
    row: usize,
    start: usize,
    terms: usize,
}

impl Row<'_> {
    /// 16 of them; those that are not there are 0.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(&self, at: usize) -> __m512 {
        let Self { x, row, start, terms } = *self;
        let from = row * x.row_stride + (start + at) * x.col_stride;
        let count = LANES.min(terms - at);
        if x.col_stride == 1 {
            let data = &x.data[from..from + count];
            // SAFETY: the mask keeps to what is there.
            return unsafe { _mm512_maskz_loadu_ps(lanes(count), data.as_ptr()) };
        }
        let numbers: [f32; LANES] =
            array::from_fn(|i| if i < count { x.data[from + i * x.col_stride] } else { 0.0 });
        // SAFETY: these are 16 numbers.
        unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
    }

    /// What brings the largest to 127: 1 of zeros alone; NaN where there is an infinity or NaN.
    #[target_feature(enable = "avx512f,avx512dq")]
    fn scale(&self) -> f32 {
        let bits = |x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX));
        let largest = (0..self.terms).step_by(LANES).fold(_mm512_setzero_si512(), |largest, at| {
            _mm512_max_epu32(largest, bits(self.load(at)))
        });
        EightBits::Int8.scale(f32::from_bits(_mm512_reduce_max_epu32(largest)))
    }
}

/// The first rows of a · a panel of b of V vectors.
///
/// # Safety
/// The processor must have VNNI, both panels these steps, and the place room for all rows and vectors.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512dq,avx512vnni")]
unsafe fn multiply<const N: usize, const V: usize>(
    a: &[Line],
    b: &[Line],
    steps: usize,
    place: Place,
    next: &[Line],
) {
    let (a_scales, b_head): (*const f32, *const f32) = (a.as_ptr().cast(), b.as_ptr().cast());
    let zero = _mm512_setzero_si512();
    // SAFETY: by this function's contract; heads have a number of each row and column.
    unsafe {
        let add = |sum, x, column| _mm512_dpbusd_epi32(sum, x, column);
        let sums: [[_; V]; N] = dot::sums(&a[A_HEAD..], &b[B_HEAD..], steps, next, zero, add);
        for v in 0..V {
            let scales = _mm512_load_ps(b_head.add(v * LANES));
            let off = _mm512_load_si512(b_head.add((dot::VECTORS + v) * LANES).cast());
            for (r, sums) in sums.iter().enumerate() {
                let scale = _mm512_mul_ps(_mm512_set1_ps(*a_scales.add(r)), scales);
                let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sums[v], off));
                place.put(r, v, _mm512_mul_ps(sum, scale));
            }
        }
    }
}
