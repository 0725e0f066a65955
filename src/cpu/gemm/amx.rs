//! f32 matrix products on Intel's AMX units, which multiply bytes and accumulate in 32-bit integers.
//!
//! The numbers of a row of a, or of a column of b, become integers of 24 bits by one power of two,
//! and those three digits of 8 bits each, −128 to 127: x·2ˢ = 65536·d₀ + 256·d₁ + d₂. Of the nine
//! products of digits the six largest are taken, and summed exactly for each of the three powers of
//! 256 that they have. What is left out and what is rounded are about 5·10⁻⁷ of |row|·|column|/√terms
//! where the largest number is 3 times the root mean square, as much as f32 arithmetic's own rounding
//! in long sums; it grows with the largest numbers. AMX has 32 times the multiply-accumulate rate of AVX-512
//! on the same core, which leaves a factor of 32/6. (The scheme is Ozaki's, on integers as in Ootomo,
//! Ozaki and Yokota 2024, arXiv:2306.11975.)

use std::arch::asm;
use std::arch::x86_64::*;
use std::array;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::Mat;
use super::blocked::{Kernel, LANES, Line, Place, Rows, Side, Size, lanes, transpose};
use crate::types::EightBits;

/// Rows of a of one panel, and columns of b: two tiles of 16.
const PANEL: usize = 32;
/// Terms of the sum in one tile: 64 bytes.
const STEP: usize = 64;
/// Lines of one tile, and the rows it covers.
const TILE: usize = 16;
/// Vectors of numbers whose bytes share the lines of a tile.
const QUARTERS: usize = STEP / LANES;
/// Lines of one digit of a step of a panel: two tiles.
const DIGIT_LINES: usize = 2 * TILE;
/// Lines at the start of a panel: what each row's integers are to be multiplied by.
const SCALE_LINES: usize = PANEL / LANES;

/// The most terms of a sum of codes: those of a span, so that a row has one scale.
pub(super) const MOST_CODES: usize = Tiles::<1>::TERMS;

#[repr(C, align(64))]
struct TileConfig([u8; 64]);

/// Palette 1: eight tiles of 16 rows of 64 bytes.
static TILE_CONFIG: TileConfig = {
    let mut c = [0; 64];
    c[0] = 1;
    let mut i = 0;
    while i < 8 {
        c[16 + 2 * i] = 64;
        c[48 + i] = 16;
        i += 1;
    }
    TileConfig(c)
};

/// A panel consists of its rows' scales, and steps of 64 terms, of two tiles for each digit. Of three digits they are
/// as said above; of one they are codes of [`EightBits::Int8`], by a scale that brings the row's largest number to 127.
pub(crate) enum Tiles<const DIGITS: usize> {}

impl<const DIGITS: usize> Tiles<DIGITS> {
    /// Lines of one step of a panel.
    const STEP_LINES: usize = DIGITS * DIGIT_LINES;
}

// SAFETY: `multiply` reads the scales and whole steps, as many as the terms fill.
unsafe impl<const DIGITS: usize> Kernel for Tiles<DIGITS> {
    const ROWS: usize = PANEL;
    const COLS: usize = PANEL;
    const TERMS: usize = if DIGITS == 1 { 16384 } else { 2048 };
    const BLOCK: usize = 128;

    fn panel_lines(_side: Side, terms: usize) -> usize {
        SCALE_LINES + terms.div_ceil(STEP) * Self::STEP_LINES
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
        let (scale_lines, lines) = lines.split_at_mut(SCALE_LINES);
        for (half, scale_line) in scale_lines.iter_mut().enumerate() {
            let start = (rows.start + half * TILE).min(rows.end);
            let x = x.part(start..rows.end.min(start + TILE), k0..k0 + terms);
            let (forth, back) =
                if DIGITS == 1 { code_scales(largest(x)) } else { scales(largest(x)) };
            // SAFETY: a line is 64 bytes, aligned to 64.
            unsafe { _mm512_store_ps((&raw mut *scale_line).cast(), back) };
            for (s, lines) in lines.chunks_exact_mut(Self::STEP_LINES).enumerate() {
                let terms = s * STEP..terms.min((s + 1) * STEP);
                pack_tiles::<DIGITS>(x.part(0..x.rows, terms), forth, side, half, lines);
            }
        }
    }

    unsafe fn enter() {
        // SAFETY: the configuration is valid; `leave` gives up the state.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &TILE_CONFIG, options(nostack)) };
    }

    unsafe fn leave() {
        // SAFETY: gives up the state that `enter` set.
        unsafe { asm!("tilerelease", options(nostack)) };
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn multiply(a: Rows, b: &[Line], terms: usize, size: Size, place: Place, next: &[Line]) {
        let Rows::Packed(a) = a else { unreachable!("packed always") };
        let mut sums = MaybeUninit::<Sums<DIGITS>>::uninit();
        let ((a_scales, a), (b_scales, b)) = (a.split_at(SCALE_LINES), b.split_at(SCALE_LINES));
        // SAFETY: by this function's contract; all sums are written before they are read.
        unsafe {
            multiply_tiles(a, b, terms.div_ceil(STEP), &mut sums, next);
            combine(sums.assume_init_ref(), a_scales, b_scales, size, place);
        }
    }
}

/// The sums of a product of panels by the power of 256 that they are to be multiplied by: d₀·d₀; then
/// d₀·d₁ + d₁·d₀; then d₀·d₂ + d₁·d₁ + d₂·d₀, which is to be taken as it is. Of one digit there is the first alone.
#[repr(C, align(64))]
struct Sums<const DIGITS: usize>([[[i32; PANEL]; PANEL]; DIGITS]);

/// Adds the product of one digit of a and one of b to tiles 0 to 3; digits are 2048 bytes apart. Asks for
/// [`NEXT_LINES`] of what is wanted next.
macro_rules! multiply_digits {
    ($instruction:literal, $a:literal, $b:literal) => {
        concat!(
            "tileloadd tmm4, [{a} + {s} + 2048 * ",
            $a,
            "]\n",
            "tileloadd tmm6, [{b} + {s} + 2048 * ",
            $b,
            "]\n",
            $instruction,
            " tmm0, tmm4, tmm6\n",
            "prefetcht1 [{next}]\n",
            "prefetcht1 [{next} + 64]\n",
            "tileloadd tmm7, [{b} + {s} + 2048 * ",
            $b,
            " + 1024]\n",
            $instruction,
            " tmm1, tmm4, tmm7\n",
            "tileloadd tmm5, [{a} + {s} + 2048 * ",
            $a,
            " + 1024]\n",
            $instruction,
            " tmm2, tmm5, tmm6\n",
            "prefetcht1 [{next} + 128]\n",
            "prefetcht1 [{next} + 192]\n",
            "add {next}, {next_size}\n",
            $instruction,
            " tmm3, tmm5, tmm7\n",
        )
    };
}

/// Lines that are asked for with each product of digits: with the six of a step, and four panels of a to a
/// task, one panel of b.
const NEXT_LINES: usize = Tiles::<3>::STEP_LINES / 6 / (Tiles::<3>::BLOCK / PANEL);

/// Sums products of digits over all steps, `$forth` bytes from one to the next, and stores them; returns what is
/// to be asked for after that.
macro_rules! multiply_level {
    (($a:expr, $b:expr, $steps:expr, $forth:expr), $next:expr, $sums:expr, $($products:expr),+) => {{
        let after: *const Line;
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "test {steps}, {steps}",
            "jz 3f",
            "2:",
            $($products,)+
            "add {a}, {forth}",
            "add {b}, {forth}",
            "dec {steps}",
            "jnz 2b",
            "3:",
            "tilestored [{sums} + 2 * {s}], tmm0",
            "tilestored [{sums} + 2 * {s} + 64], tmm1",
            "tilestored [{sums} + 2 * {s} + 2048], tmm2",
            "tilestored [{sums} + 2 * {s} + 2112], tmm3",
            a = inout(reg) $a => _,
            b = inout(reg) $b => _,
            steps = inout(reg) $steps => _,
            forth = in(reg) $forth,
            next = inout(reg) $next.0 => after,
            next_size = in(reg) $next.1,
            s = in(reg) 64usize,
            sums = in(reg) $sums,
            options(nostack)
        );
        (after, $next.1)
    }};
}

/// Where to begin to ask for what is wanted next, and how far to go each time; where nothing is, `other` is asked for.
fn ask_for(next: &[Line], other: &[Line]) -> (*const Line, usize) {
    match next.is_empty() {
        true => (other.as_ptr(), 0),
        false => (next.as_ptr(), NEXT_LINES * size_of::<Line>()),
    }
}

/// The sums of a panel of a · a panel of b.
///
/// # Safety
/// The tiles must be configured, and both panels have `steps` steps.
#[inline]
unsafe fn multiply_tiles<const DIGITS: usize>(
    a: &[Line],
    b: &[Line],
    steps: usize,
    sums: &mut MaybeUninit<Sums<DIGITS>>,
    next: &[Line],
) {
    const { assert!(NEXT_LINES == 4, "as many as `multiply_digits` asks for") };
    const { assert!(DIGITS == 1 || DIGITS == 3) };
    let step_lines = Tiles::<DIGITS>::STEP_LINES;
    let forth = (step_lines * size_of::<Line>()) as isize;
    debug_assert!(a.len().min(b.len()) >= steps * step_lines);
    let sums = sums.as_mut_ptr().cast::<u8>();
    let [first, second, third] = array::from_fn(|i| sums.wrapping_add(i * PANEL * PANEL * 4));
    let last = steps.saturating_sub(1) * step_lines;
    let next = ask_for(next, a);
    let (a, b) = (a.as_ptr(), b.as_ptr());
    let (a_last, b_last) = (a.wrapping_add(last), b.wrapping_add(last));
    // SAFETY: loads stay within `steps` steps of each panel, there is room for the stores, and a prefetch of any
    // address is harmless.
    unsafe {
        if DIGITS == 1 {
            multiply_level!((a, b, steps, forth), next, first, multiply_digits!("tdpbssd", 0, 0));
            return;
        }
        // To and fro, because the steps that were used last are still in the first-level cache.
        let next = multiply_level!(
            (a, b, steps, forth),
            next,
            third,
            multiply_digits!("tdpbssd", 0, 2),
            multiply_digits!("tdpbssd", 1, 1),
            multiply_digits!("tdpbssd", 2, 0)
        );
        let next = multiply_level!(
            (a_last, b_last, steps, -forth),
            next,
            second,
            multiply_digits!("tdpbssd", 0, 1),
            multiply_digits!("tdpbssd", 1, 0)
        );
        multiply_level!((a, b, steps, forth), next, first, multiply_digits!("tdpbssd", 0, 0));
    }
}

/// Puts the sums, as the numbers they stand for, where they go.
///
/// # Safety
/// The place must have room for all rows, and columns in whole vectors.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn combine<const DIGITS: usize>(
    Sums(sums): &Sums<DIGITS>,
    a_scales: &[Line],
    b_scales: &[Line],
    size: Size,
    place: Place,
) {
    let a_scales: *const f32 = a_scales.as_ptr().cast();
    let b_scales: *const f32 = b_scales.as_ptr().cast();
    let by = _mm512_set1_ps(256.0);
    for v in 0..size.cols.div_ceil(LANES) {
        // SAFETY: there is a scale for each of 32 rows and columns, and as many sums of each power; the
        // rest is this function's contract.
        unsafe {
            let b_scale = _mm512_load_ps(b_scales.add(v * LANES));
            for r in 0..size.rows {
                let scale = _mm512_mul_ps(_mm512_set1_ps(*a_scales.add(r)), b_scale);
                let mut sum = _mm512_setzero_ps();
                for sums in sums {
                    let sums = _mm512_load_si512(sums[r].as_ptr().add(v * LANES).cast());
                    sum = _mm512_fmadd_ps(sum, by, _mm512_cvtepi32_ps(sums));
                }
                place.put(r, v, _mm512_mul_ps(sum, scale));
            }
        }
    }
}

mod bf16;

pub(crate) use bf16::Halves;

/// Whether the numbers of a row are next to each other; else those of a column are.
fn is_by_row(x: &Mat) -> bool {
    x.col_stride == 1
}

/// The numbers that the lines of a matrix consist of, which are its rows or its columns.
struct Lines<'a> {
    data: &'a [f32],
    stride: usize,
    count: usize,
    length: usize,
}

impl<'a> Lines<'a> {
    fn of(x: Mat<'a>) -> Self {
        let (stride, count, length) = match is_by_row(&x) {
            true => (x.row_stride, x.rows, x.cols),
            false => (x.col_stride, x.cols, x.rows),
        };
        let data = match count.min(length) {
            0 => &[],
            _ => &x.data[..(count - 1) * stride + length],
        };
        Self { data, stride, count, length }
    }

    /// 16 numbers of a line; those that are not there are 0.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(&self, line: usize, at: usize) -> __m512 {
        if line >= self.count || at >= self.length {
            return _mm512_setzero_ps();
        }
        // SAFETY: the line has `length` numbers within `data`; the mask keeps to them.
        unsafe {
            let start = self.data.as_ptr().add(line * self.stride + at);
            _mm512_maskz_loadu_ps(lanes(self.length - at), start)
        }
    }
}

/// The bits of the largest absolute value of each of at most 16 rows; infinities and NaN, whose bits are the largest,
/// among them.
#[target_feature(enable = "avx512f,avx512dq")]
fn largest(x: Mat) -> __m512i {
    let bits = |x: __m512| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX));
    let lines = Lines::of(x);
    if !is_by_row(&x) {
        return (0..lines.count).fold(_mm512_setzero_si512(), |largest, line| {
            _mm512_max_epu32(largest, bits(lines.load(line, 0)))
        });
    }
    let rows: [i32; TILE] = array::from_fn(|row| {
        let largest =
            (0..lines.length).step_by(LANES).fold(_mm512_setzero_si512(), |largest, at| {
                _mm512_max_epu32(largest, bits(lines.load(row, at)))
            });
        _mm512_reduce_max_epu32(largest) as i32
    });
    // SAFETY: these are 16 numbers.
    unsafe { _mm512_loadu_si512(rows.as_ptr().cast()) }
}

/// The largest powers of two by which numbers up to these become integers of three digits, and what undoes
/// that, but for 256: sums of products of such integers are taken without their last 16 bits. NaN where there is an
/// infinity or NaN among the numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales(largest: __m512i) -> (__m512, __m512) {
    let set = |x: i32| _mm512_set1_epi32(x);
    // 127·(65536 + 256 + 1) = 0x7f7f7f is 1.111_1110_1111_1110_1111_111 · 2²²: what has a larger
    // mantissa is carried into the next exponent.
    let exponent = _mm512_srli_epi32::<23>(_mm512_add_epi32(largest, set(0x1_0101)));
    // 2²²·2^−(exponent − 127), but no more than 2¹²⁶, whose inverse is normal.
    let forth = _mm512_min_epi32(_mm512_sub_epi32(set(22 + 2 * 127), exponent), set(126 + 127));
    let back = _mm512_sub_epi32(set(2 * 127 + 8), forth);
    let finite = _mm512_cmplt_epu32_mask(largest, set(0x7f80_0000));
    let number = |exponent| {
        let number = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent));
        _mm512_mask_blend_ps(finite, _mm512_set1_ps(f32::NAN), number)
    };
    (number(forth), number(back))
}

/// The scales by which the largest become 127: what numbers are to be divided by, and what undoes that. 1 of zeros
/// alone; NaN where there is an infinity or NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn code_scales(largest: __m512i) -> (__m512, __m512) {
    let number = _mm512_castsi512_ps(largest);
    let zero = _mm512_cmpeq_epi32_mask(largest, _mm512_setzero_si512());
    let finite = _mm512_cmplt_epu32_mask(largest, _mm512_set1_epi32(0x7f80_0000));
    let scale = _mm512_div_ps(number, _mm512_set1_ps(EightBits::Int8.largest()));
    let scale = _mm512_max_ps(scale, _mm512_set1_ps(f32::MIN_POSITIVE));
    let scale = _mm512_mask_blend_ps(zero, scale, _mm512_set1_ps(1.0));
    let scale = _mm512_mask_blend_ps(finite, _mm512_set1_ps(f32::NAN), scale);
    (scale, scale)
}

/// Packs at most 16 rows × 64 terms as one half of a panel's step, what is not there as 0.
///
/// Line i of a tile has the bytes of the terms j, j + 16, j + 32 and j + 48 together, for a of row i
/// and every j < 16, for b of every row and j = i; the order of terms is the same on both sides, which
/// is all a sum needs.
#[target_feature(enable = "avx512f,avx512dq")]
fn pack_tiles<const DIGITS: usize>(
    x: Mat,
    scale: __m512,
    side: Side,
    half: usize,
    lines: &mut [Line],
) {
    let data = Lines::of(x);
    let by_row = is_by_row(&x);
    let load = |q: usize, i: usize| match by_row {
        true => data.load(i, q * LANES),
        false => data.load(q * LANES + i, 0),
    };
    // A line of a has numbers of one row, a line of b those of one term.
    let transposed: Option<[[__m512; TILE]; QUARTERS]> = (by_row != (side == Side::A)).then(|| {
        array::from_fn(|q| {
            let mut numbers = array::from_fn(|i| load(q, i));
            transpose(&mut numbers);
            numbers
        })
    });
    // SAFETY: a vector is 16 numbers.
    let scales: [f32; TILE] = unsafe { std::mem::transmute(scale) };
    for i in 0..TILE {
        let scale = if side == Side::A { _mm512_set1_ps(scales[i]) } else { scale };
        let numbers = array::from_fn(|q| match &transposed {
            Some(transposed) => transposed[q][i],
            None => load(q, i),
        });
        let digits = digits::<DIGITS>(numbers.map(|x| match DIGITS {
            // Codes are those of a division.
            1 => _mm512_div_ps(x, scale),
            _ => _mm512_mul_ps(x, scale),
        }));
        for (d, line) in digits.into_iter().enumerate() {
            let line_of_tile = &raw mut lines[(2 * d + half) * TILE + i];
            // SAFETY: a line is 64 bytes, aligned to 64.
            unsafe { _mm512_store_si512(line_of_tile.cast(), line) };
        }
    }
}

/// The digits of four vectors of numbers, the highest first; each lane has one byte of each vector.
#[inline]
#[target_feature(enable = "avx512f")]
fn digits<const DIGITS: usize>(x: [__m512; QUARTERS]) -> [__m512i; DIGITS] {
    let set = |x: u32| _mm512_set1_epi32(x as i32);
    // With 128 added to each, digits are the bytes of a number that is not negative; taking it off
    // again is to change their highest bit.
    let offset = set(0x80_8080 >> (8 * (3 - DIGITS)));
    let bytes = x.map(|x| _mm512_add_epi32(_mm512_cvtps_epi32(x), offset));
    // (mask & a) | (!mask & b)
    macro_rules! select {
        ($mask:expr, $a:expr, $b:expr) => {
            _mm512_ternarylogic_epi32::<0xca>(set($mask), $a, $b)
        };
    }
    let pair = |a, b| {
        let even = select!(0x00ff_00ff, a, _mm512_slli_epi32::<8>(b));
        let odd = select!(0x00ff_00ff, _mm512_srli_epi32::<8>(a), b);
        [even, odd]
    };
    let (low, high) = (pair(bytes[0], bytes[1]), pair(bytes[2], bytes[3]));
    let lowest = |i: usize| select!(0xffff, low[i], _mm512_slli_epi32::<16>(high[i]));
    let third = select!(0xffff, _mm512_srli_epi32::<16>(low[0]), high[0]);
    let by_place = [lowest(0), lowest(1), third];
    array::from_fn(|d| _mm512_xor_si512(by_place[DIGITS - 1 - d], set(0x8080_8080)))
}
