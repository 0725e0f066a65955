//! Products of numbers rounded to bf16, in tiles, with sums in f32.

use std::arch::asm;
use std::arch::x86_64::*;
use std::array;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::Mat;
use super::super::bf16::{joined, rounded};
use super::super::blocked::{Kernel, LANES, Line, Place, Rows, Side, Size, transpose};
use super::{DIGIT_LINES, Lines, PANEL, TILE, Tiles, ask_for, is_by_row};

/// Terms of the sum in one tile: 64 bytes.
const STEP: usize = 32;
/// Vectors of numbers whose halves share the lines of a tile.
const HALVES: usize = STEP / LANES;

/// A panel consists of steps of 32 terms, of two tiles.
pub(crate) enum Halves {}

#[repr(C, align(64))]
struct Sums([[f32; PANEL]; PANEL]);

// SAFETY: `multiply` reads whole steps, as many as the terms fill.
unsafe impl Kernel for Halves {
    const ROWS: usize = PANEL;
    const COLS: usize = PANEL;
    const TERMS: usize = 2048;
    const BLOCK: usize = Tiles::<1>::BLOCK;

    fn panel_lines(_side: Side, terms: usize) -> usize {
        terms.div_ceil(STEP) * DIGIT_LINES
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
        for half in 0..PANEL / TILE {
            let start = (rows.start + half * TILE).min(rows.end);
            let x = x.part(start..rows.end.min(start + TILE), k0..k0 + terms);
            for (s, lines) in lines.chunks_exact_mut(DIGIT_LINES).enumerate() {
                let terms = s * STEP..terms.min((s + 1) * STEP);
                pack_tile(x.part(0..x.rows, terms), side, &mut lines[half * TILE..][..TILE]);
            }
        }
    }

    unsafe fn enter() {
        // SAFETY: as this function's contract.
        unsafe { Tiles::<1>::enter() };
    }

    unsafe fn leave() {
        // SAFETY: as this function's contract.
        unsafe { Tiles::<1>::leave() };
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn multiply(a: Rows, b: &[Line], terms: usize, size: Size, place: Place, next: &[Line]) {
        let Rows::Packed(a) = a else { unreachable!("packed always") };
        let steps = terms.div_ceil(STEP);
        debug_assert!(a.len().min(b.len()) >= steps * DIGIT_LINES);
        let mut sums = MaybeUninit::<Sums>::uninit();
        let forth = DIGIT_LINES * size_of::<Line>();
        let (first, next) = (sums.as_mut_ptr().cast::<u8>(), ask_for(next, a));
        // SAFETY: loads stay within `steps` steps of each panel, all sums are stored, and a prefetch of any address is
        // harmless; the rest is this function's contract.
        unsafe {
            multiply_level!(
                (a.as_ptr(), b.as_ptr(), steps, forth),
                next,
                first,
                multiply_digits!("tdpbf16ps", 0, 0)
            );
            let Sums(sums) = sums.assume_init_ref();
            for (r, sums) in sums[..size.rows].iter().enumerate() {
                for v in 0..size.cols.div_ceil(LANES) {
                    place.put(r, v, _mm512_load_ps(sums.as_ptr().add(v * LANES)));
                }
            }
        }
    }
}

/// Packs at most 16 rows × 32 terms as one tile, what is not there as 0.
///
/// Line i of a tile has the halves of the terms j and j + 16 together, for a of row i and every j < 16, for b of every row
/// and j = i.
#[target_feature(enable = "avx512f,avx512dq")]
fn pack_tile(x: Mat, side: Side, lines: &mut [Line]) {
    let data = Lines::of(x);
    let by_row = is_by_row(&x);
    let load = |h: usize, i: usize| match by_row {
        true => data.load(i, h * LANES),
        false => data.load(h * LANES + i, 0),
    };
    // Where what is contiguous is not what a vector of the tile holds.
    let transposed = (by_row == (side == Side::B)).then(|| -> [[__m512; LANES]; HALVES] {
        array::from_fn(|h| {
            let mut block = array::from_fn(|i| load(h, i));
            transpose(&mut block);
            block
        })
    });
    for (i, line) in lines.iter_mut().enumerate() {
        let [low, high] = array::from_fn(|h| {
            rounded(match &transposed {
                Some(transposed) => transposed[h][i],
                None => load(h, i),
            })
        });
        let both = joined(_mm512_srli_epi32::<16>(low), high);
        // SAFETY: a line is 64 bytes, aligned to 64.
        unsafe { _mm512_store_si512((&raw mut *line).cast(), both) };
    }
}
