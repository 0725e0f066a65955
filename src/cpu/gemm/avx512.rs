//! f32 matrix products in the registers of AVX-512: 8 rows by up to 3 vectors of columns at a time.

use std::arch::x86_64::*;
use std::array;
use std::ops::Range;

use super::Mat;
use super::blocked::{Kernel, LANES, Line, Place, Rows, Side, Use, lanes, transpose};

/// Vectors of a panel of b.
const VECTORS: usize = 3;

/// A panel of a holds 8 numbers for each term, a panel of b as many vectors as its columns need.
pub(crate) enum Registers {}

// SAFETY: `multiply` reads 8 numbers of a and at most 3 vectors of b for each term.
unsafe impl Kernel for Registers {
    const ROWS: usize = 8;
    const COLS: usize = VECTORS * LANES;
    const TERMS: usize = 512;
    const BLOCK: usize = 144;
    const ANYWHERE: bool = true;

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
    unsafe fn multiply(a: Rows, b: &[Line], terms: usize, cols: usize, place: Place) {
        // SAFETY: by this function's contract.
        unsafe { multiply(a, b, terms, cols, &[place]) };
    }
}

/// [`Kernel::multiply`] with several places that the product is used for.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn multiply(a: Rows, b: &[Line], terms: usize, cols: usize, places: &[Place]) {
    const ROWS: usize = Registers::ROWS;
    let b = b.as_ptr().cast();
    // SAFETY: by this function's contract; rows that are not there repeat the last one.
    unsafe {
        let (rows, stride): ([*const f32; ROWS], usize) = match a {
            Rows::Packed(a) => (array::from_fn(|r| a.as_ptr().cast::<f32>().add(r)), ROWS),
            Rows::InPlace(a) => {
                let first = a.data.as_ptr();
                let row = |r: usize| first.wrapping_add(r.min(a.rows - 1) * a.row_stride);
                (array::from_fn(row), 1)
            }
        };
        match cols.div_ceil(LANES) {
            1 => multiply_vectors::<1>(&rows, stride, b, terms, places),
            2 => multiply_vectors::<2>(&rows, stride, b, terms, places),
            _ => multiply_vectors::<VECTORS>(&rows, stride, b, terms, places),
        }
    }
}

/// Rows of a, whose terms are `stride` apart · a panel of b of V vectors.
///
/// # Safety
/// All must have this many terms, and the places room for all rows and vectors.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn multiply_vectors<const V: usize>(
    a: &[*const f32; Registers::ROWS],
    stride: usize,
    mut b: *const f32,
    terms: usize,
    places: &[Place],
) {
    let a = *a;
    let mut totals = [[_mm512_setzero_ps(); V]; Registers::ROWS];
    for term in 0..terms {
        // SAFETY: there are this many terms in each row, and V vectors of b for each.
        unsafe {
            let columns: [__m512; V] = array::from_fn(|v| _mm512_load_ps(b.add(v * LANES)));
            for (row, totals) in a.iter().zip(&mut totals) {
                let x = _mm512_set1_ps(*row.add(term * stride));
                for (total, column) in totals.iter_mut().zip(columns) {
                    *total = _mm512_fmadd_ps(x, column, *total);
                }
            }
            b = b.add(V * LANES);
        }
    }
    for place in places {
        for (row, totals) in totals.iter().enumerate() {
            for (v, &total) in totals.iter().enumerate() {
                // SAFETY: there is room.
                unsafe {
                    let at = place.start.add(row * place.stride + v * LANES);
                    let total = match place.usage {
                        Use::Set => total,
                        Use::Add => _mm512_add_ps(_mm512_loadu_ps(at), total),
                        Use::Subtract => _mm512_sub_ps(_mm512_loadu_ps(at), total),
                    };
                    _mm512_storeu_ps(at, total);
                }
            }
        }
    }
}

/// Calls `put(term, numbers)` with the numbers of at most 16 rows of `x`, the others 0, for terms
/// `k0..k0 + terms`.
#[inline]
#[target_feature(enable = "avx512f")]
fn pack_vector(x: Mat, rows: Range<usize>, k0: usize, terms: usize, put: impl Fn(usize, __m512)) {
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
