//! f32 matrix products in the registers of AVX-512: 8 rows by up to 3 vectors of columns at a time.

use std::arch::x86_64::*;
use std::array;
use std::ops::Range;

use super::Mat;
use super::blocked::{Kernel, LANES, Line, Place, Rows, Side, Size, lanes, transpose};

/// Vectors of a panel of b.
const VECTORS: usize = 3;
/// Terms between which lines that are wanted next are asked for.
const SPAN: usize = 4;

/// A panel of a holds 8 numbers for each term, a panel of b as many vectors as its columns need.
pub(crate) enum Registers {}

// SAFETY: `multiply` reads 8 numbers of a and at most 3 vectors of b for each term.
unsafe impl Kernel for Registers {
    const ROWS: usize = 8;
    const COLS: usize = VECTORS * LANES;
    const TERMS: usize = 512;
    const BLOCK: usize = 144;

    fn reads_in_place(a: &Mat) -> bool {
        a.col_stride == 1
    }

    fn packed_rows(side: Side) -> usize {
        match side {
            Side::A => LANES,
            Side::B => Self::COLS,
        }
    }

    fn panel_lines(side: Side, terms: usize) -> usize {
        match side {
            Side::A => terms.div_ceil(LANES / Self::ROWS),
            Side::B => terms * VECTORS,
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
        let to: *mut f32 = lines.as_mut_ptr().cast();
        match side {
            Side::A => {
                let second = (lines.len() >= 2 * panel).then(|| to.wrapping_add(panel * LANES));
                pack_vector(x, rows, k0, terms, |term, numbers| {
                    // SAFETY: each panel has 8 numbers for each term.
                    unsafe {
                        let at = term * Self::ROWS;
                        _mm256_store_ps(to.add(at), _mm512_castps512_ps256(numbers));
                        if let Some(second) = second {
                            let numbers = _mm512_extractf32x8_ps::<1>(numbers);
                            _mm256_store_ps(second.add(at), numbers);
                        }
                    }
                });
            }
            Side::B => {
                let vectors = rows.len().div_ceil(LANES);
                for v in 0..vectors {
                    let start = rows.start + v * LANES;
                    let rows = start..(start + LANES).min(rows.end);
                    pack_vector(x, rows, k0, terms, |term, numbers| {
                        // SAFETY: the panel has at least that many vectors for each term.
                        unsafe { _mm512_store_ps(to.add((term * vectors + v) * LANES), numbers) }
                    });
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn multiply(a: Rows, b: &[Line], terms: usize, size: Size, place: Place, next: &[Line]) {
        // SAFETY: by this function's contract.
        unsafe { multiply(a, b, terms, size, &[place], next) };
    }
}

/// [`Kernel::multiply`] with several places that the product is used for.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn multiply(
    a: Rows,
    b: &[Line],
    terms: usize,
    Size { rows, cols }: Size,
    places: &[Place],
    next: &[Line],
) {
    const ROWS: usize = Registers::ROWS;
    let b = b.as_ptr().cast();
    let a = match a {
        Rows::Packed(a) => Left { first: a.as_ptr().cast(), rows: 1, terms: ROWS, last: ROWS - 1 },
        Rows::InPlace(a) => {
            Left { first: a.data.as_ptr(), rows: a.row_stride, terms: 1, last: a.rows - 1 }
        }
    };
    // SAFETY: by this function's contract.
    unsafe {
        match (rows, cols.div_ceil(LANES)) {
            (..=2, 1) => multiply_vectors::<2, 1>(a, b, terms, places, next),
            (..=2, 2) => multiply_vectors::<2, 2>(a, b, terms, places, next),
            (..=2, _) => multiply_vectors::<2, VECTORS>(a, b, terms, places, next),
            (..=4, 1) => multiply_vectors::<4, 1>(a, b, terms, places, next),
            (..=4, 2) => multiply_vectors::<4, 2>(a, b, terms, places, next),
            (..=4, _) => multiply_vectors::<4, VECTORS>(a, b, terms, places, next),
            (_, 1) => multiply_vectors::<ROWS, 1>(a, b, terms, places, next),
            (_, 2) => multiply_vectors::<ROWS, 2>(a, b, terms, places, next),
            (_, _) => multiply_vectors::<ROWS, VECTORS>(a, b, terms, places, next),
        }
    }
}

/// Where the numbers of a are: how far its rows and its terms are apart, and its last row, which stands for those that
/// are not there.
#[derive(Clone, Copy)]
struct Left {
    first: *const f32,
    rows: usize,
    terms: usize,
    last: usize,
}

/// Asks for a line, or for nothing if there is none.
#[inline(always)]
fn prefetch(line: *const Line) {
    // SAFETY: a prefetch of any address is harmless.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
}

/// The first rows of a · a panel of b of V vectors.
///
/// # Safety
/// Both must have this many terms, and the places room for all rows and vectors.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn multiply_vectors<const ROWS: usize, const V: usize>(
    a: Left,
    mut b: *const f32,
    terms: usize,
    places: &[Place],
    next: &[Line],
) {
    let rows: [*const f32; ROWS] = array::from_fn(|r| a.first.wrapping_add(r.min(a.last) * a.rows));
    let mut totals = [[_mm512_setzero_ps(); V]; ROWS];
    let mut at = 0;
    let mut step = |_: usize| {
        // SAFETY: there are this many terms in each row, and V vectors of b for each.
        unsafe {
            let columns: [__m512; V] = array::from_fn(|v| _mm512_load_ps(b.add(v * LANES)));
            for (row, totals) in rows.iter().zip(&mut totals) {
                let x = _mm512_set1_ps(*row.add(at));
                for (total, column) in totals.iter_mut().zip(columns) {
                    *total = _mm512_fmadd_ps(x, column, *total);
                }
            }
            b = b.add(V * LANES);
            at += a.terms;
        }
    };
    let spans = terms / SPAN;
    let each = next.len().div_ceil(spans.max(1));
    let mut line = next.as_ptr();
    for span in 0..spans {
        for _ in 0..each {
            prefetch(line);
            line = line.wrapping_add(1);
        }
        (span * SPAN..(span + 1) * SPAN).for_each(&mut step);
    }
    (spans * SPAN..terms).for_each(step);
    for place in places {
        for (row, totals) in totals.iter().enumerate() {
            for (v, &total) in totals.iter().enumerate() {
                // SAFETY: there is room.
                unsafe { place.put(row, v, total) };
            }
        }
    }
}

/// Calls `put(term, numbers)` with the numbers of at most 16 rows of `x`, the others 0, for terms
/// `k0..k0 + terms`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn pack_vector(
    x: Mat,
    rows: Range<usize>,
    k0: usize,
    terms: usize,
    put: impl Fn(usize, __m512),
) {
    let count = rows.len();
    if count == 0 || terms == 0 {
        return;
    }
    let data = &x.data[rows.start * x.row_stride + k0 * x.col_stride..];
    if x.col_stride != 1 {
        let data = &data[..(terms - 1) * x.col_stride + count];
        for term in 0..terms {
            // SAFETY: `count` numbers follow within `data`, and the mask keeps to them.
            put(term, unsafe {
                _mm512_maskz_loadu_ps(lanes(count), data.as_ptr().add(term * x.col_stride))
            });
        }
        return;
    }
    let data = &data[..(count - 1) * x.row_stride + terms];
    for start in (0..terms).step_by(LANES) {
        let left = LANES.min(terms - start);
        // SAFETY: `left` numbers follow within `data` in each row, and the mask keeps to them.
        let mut block = array::from_fn(|row| unsafe {
            match row < count {
                true => {
                    let at = data.as_ptr().add(row * x.row_stride + start);
                    _mm512_maskz_loadu_ps(lanes(left), at)
                }
                false => _mm512_setzero_ps(),
            }
        });
        transpose(&mut block);
        for (i, &numbers) in block[..left].iter().enumerate() {
            put(start + i, numbers);
        }
    }
}
