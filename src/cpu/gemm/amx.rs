//! f32 matrix products on Intel's AMX units, which multiply bf16 and accumulate in f32.
//!
//! Each f32 is the exact sum of three bf16 (8 significant bits each): x = x₀ + x₁ + x₂. Of the nine
//! products of parts the six largest are taken, smallest first; the three left out are below
//! 2⁻²² of the product, so results are as good as f32's own. AMX has sixteen times the
//! multiply-accumulate rate of AVX-512 on the same core, which leaves a factor of 16/6.

use std::arch::asm;
use std::arch::x86_64::*;
use std::array;
use std::ops::Range;

use super::Mat;
use super::blocked::{Kernel, LANES, Line, Place, Rows, Side, Size, lanes, transpose};

/// Rows of a of one panel, and columns of b: two tiles of 16.
const PANEL: usize = 32;
/// Terms of the sum in one tile: 32 bf16 are 64 bytes.
const STEP: usize = 32;
/// Lines of one tile, and the rows it covers.
const TILE: usize = 16;
/// Lines of one step of a panel: three parts × two tiles.
const STEP_LINES: usize = 6 * TILE;

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

/// A panel consists of steps of 32 terms, a step of two tiles for each of the three parts.
pub(crate) enum Tiles {}

// SAFETY: `multiply` reads whole steps, as many as the terms fill.
unsafe impl Kernel for Tiles {
    const ROWS: usize = PANEL;
    const COLS: usize = PANEL;
    const TERMS: usize = 1024;
    const BLOCK: usize = 128;
    const ANYWHERE: bool = false;

    fn panel_lines(_side: Side, terms: usize) -> usize {
        terms.div_ceil(STEP) * STEP_LINES
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
        for (s, lines) in lines.chunks_exact_mut(STEP_LINES).enumerate() {
            let k = k0 + s * STEP;
            let depth = STEP.min(k0 + terms - k);
            let lines = lines.first_chunk_mut().expect("a whole step");
            for half in 0..2 {
                let row = rows.start + half * TILE;
                let count = TILE.min(rows.end.saturating_sub(row));
                pack_tile(x, row, count, k, depth, side, half, lines);
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
    unsafe fn multiply(a: Rows, b: &[Line], terms: usize, _: Size, place: Place, _: &[Line]) {
        let Rows::Packed(a) = a else { unreachable!("packed always") };
        // SAFETY: by this function's contract.
        unsafe { multiply_tiles(a, b, terms.div_ceil(STEP), place.start) };
    }
}

/// sums (32 × 32) = a panel of a · a panel of b.
///
/// # Safety
/// The tiles must be configured, both panels have `steps` steps, and `sums` room for them.
#[inline]
unsafe fn multiply_tiles(a: &[Line], b: &[Line], steps: usize, sums: *mut f32) {
    // SAFETY: loads stay within `steps` steps of each panel, and there is room for the stores.
    unsafe {
        asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack));
        if steps > 0 {
            asm!(
                "2:",
                // a₂b₀
                "tileloadd tmm4, [{a} + {s}]",
                "tileloadd tmm6, [{b} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {s} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {s} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // a₁b₀
                "tileloadd tmm4, [{a} + {s} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {s} + 3072]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // a₁b₁
                "tileloadd tmm6, [{b} + {s} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {s} + 3072]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // a₀b₁
                "tileloadd tmm4, [{a} + {s} + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {s} + 5120]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // a₀b₂
                "tileloadd tmm6, [{b} + {s} + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {s} + 5120]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // a₀b₀
                "tileloadd tmm6, [{b} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {s} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 6144",
                "add {b}, 6144",
                "dec {n}",
                "jnz 2b",
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                n = inout(reg) steps => _,
                s = in(reg) 64usize,
                options(nostack)
            );
        }
        asm!(
            "tilestored [{c} + {s}], tmm0",
            "tilestored [{c} + {s} + 64], tmm1",
            "tilestored [{c} + {s} + 2048], tmm2",
            "tilestored [{c} + {s} + 2112], tmm3",
            c = in(reg) sums, s = in(reg) 128usize, options(nostack)
        );
    }
}

/// Packs `rows` ≤ 16 rows × `depth` ≤ 32 terms, the rest zero, as one half of a panel's step.
///
/// Line i of a tile pairs the terms j and j + 16, for a of row i and every j < 16, for b of every
/// row and j = i; the order of terms is the same on both sides, which is all a sum needs.
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f")]
fn pack_tile(
    x: Mat,
    row: usize,
    rows: usize,
    k: usize,
    depth: usize,
    side: Side,
    half: usize,
    lines: &mut [Line; STEP_LINES],
) {
    if rows == 0 {
        for i in 0..TILE {
            store_parts(_mm512_setzero_ps(), _mm512_setzero_ps(), i, half, side, lines);
        }
        return;
    }
    // The data's lines: rows where terms are contiguous, else terms.
    let by_row = x.col_stride == 1;
    let (stride, count, length) =
        if by_row { (x.row_stride, rows, depth) } else { (x.col_stride, depth, rows) };
    let start = row * x.row_stride + k * x.col_stride;
    let data = &x.data[start..start + (count - 1) * stride + length];
    let (low, high) = (lanes(length), lanes(length.saturating_sub(LANES)));
    // SAFETY: lines below `count` have `length` numbers within `data`; the masks keep to them.
    let load = |line: usize, at: usize, mask: u16| unsafe {
        match line < count {
            true => _mm512_maskz_loadu_ps(mask, data.as_ptr().wrapping_add(line * stride + at)),
            false => _mm512_setzero_ps(),
        }
    };
    let (mut first, mut second);
    if by_row {
        if side == Side::A {
            for i in 0..TILE {
                store_parts(load(i, 0, low), load(i, 16, high), i, half, side, lines);
            }
            return;
        }
        first = array::from_fn(|i| load(i, 0, low));
        second = array::from_fn(|i| load(i, 16, high));
    } else {
        if side == Side::B {
            for i in 0..TILE {
                store_parts(load(i, 0, low), load(TILE + i, 0, low), i, half, side, lines);
            }
            return;
        }
        first = array::from_fn(|i| load(i, 0, low));
        second = array::from_fn(|i| load(TILE + i, 0, low));
    }
    transpose(&mut first);
    transpose(&mut second);
    for i in 0..TILE {
        store_parts(first[i], second[i], i, half, side, lines);
    }
}

/// Splits two vectors into their three parts, and stores each part's numbers pairwise as line i of
/// its tile: for a the smallest part first, for b the largest.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_parts(
    mut first: __m512,
    mut second: __m512,
    i: usize,
    half: usize,
    side: Side,
    lines: &mut [Line; STEP_LINES],
) {
    let top = _mm512_set1_epi32(0xffff_0000u32 as i32);
    for part in 0..3 {
        let (f, s) = (_mm512_castps_si512(first), _mm512_castps_si512(second));
        // (s & top) | (f >> 16)
        let line = _mm512_ternarylogic_epi32::<0xf8>(_mm512_srli_epi32::<16>(f), s, top);
        let place = if side == Side::A { 2 - part } else { part };
        let tile = (2 * place + half) * TILE;
        // SAFETY: a line is 64 bytes, aligned to 64.
        unsafe { _mm512_store_si512((&raw mut lines[tile + i]).cast(), line) };
        // Truncation leaves the bf16 next to the number towards zero.
        first = _mm512_sub_ps(first, _mm512_castsi512_ps(_mm512_and_si512(f, top)));
        second = _mm512_sub_ps(second, _mm512_castsi512_ps(_mm512_and_si512(s, top)));
    }
}
