//! What products of pairs and of fours of small terms share: 8 rows by up to 3 vectors of columns at a time, and an
//! instruction that adds a row's 32 bits of terms times a column's to each of 16 sums.

use std::arch::x86_64::*;
use std::array;

use super::blocked::{LANES, Line};

/// Rows of a panel of a.
pub(super) const ROWS: usize = 8;
/// Vectors of a panel of b.
pub(super) const VECTORS: usize = 3;

/// The sums of the first rows of a panel of a · a panel of b of V vectors, from `zero` on. A step of a panel of a holds
/// 32 bits of each of its rows, one of b a vector of 32 bits of its columns for each of its vectors.
///
/// # Safety
/// Both panels must have these steps, and AVX-512 be available.
#[inline(always)]
pub(super) unsafe fn sums<Sum: Copy, const N: usize, const V: usize>(
    a: &[Line],
    b: &[Line],
    steps: usize,
    next: &[Line],
    zero: Sum,
    add: impl Fn(Sum, __m512i, __m512i) -> Sum,
) -> [[Sum; V]; N] {
    const { assert!(N <= ROWS && V <= VECTORS) };
    let (mut a, mut b): (*const i32, *const i32) = (a.as_ptr().cast(), b.as_ptr().cast());
    let mut sums = [[zero; V]; N];
    let mut next = next.iter();
    for _ in 0..steps {
        // SAFETY: there are this many steps in both; a prefetch is harmless.
        unsafe {
            for _ in 0..2 {
                if let Some(line) = next.next() {
                    _mm_prefetch::<_MM_HINT_T1>((&raw const *line).cast());
                }
            }
            let columns: [__m512i; V] =
                array::from_fn(|v| _mm512_load_si512(b.add(v * LANES).cast()));
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(*a.add(r));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = add(*sum, x, column);
                }
            }
            a = a.add(ROWS);
            b = b.add(VECTORS * LANES);
        }
    }
    sums
}

/// Calls `$multiply::<N, V>` with as few rows and vectors as a size needs.
macro_rules! of_size {
    ($size:expr, $multiply:ident $arguments:tt) => {
        match ($size.rows, $size.cols.div_ceil(LANES)) {
            (..=2, 1) => $multiply::<2, 1> $arguments,
            (..=2, 2) => $multiply::<2, 2> $arguments,
            (..=2, _) => $multiply::<2, { dot::VECTORS }> $arguments,
            (_, 1) => $multiply::<{ dot::ROWS }, 1> $arguments,
            (_, 2) => $multiply::<{ dot::ROWS }, 2> $arguments,
            (_, _) => $multiply::<{ dot::ROWS }, { dot::VECTORS }> $arguments,
        }
    };
}
pub(super) use of_size;
