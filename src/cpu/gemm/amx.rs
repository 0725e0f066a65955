//! f32 matrix products on Intel's AMX units, which multiply bf16 and accumulate in f32.
//!
//! Each f32 is the exact sum of three bf16 (8 significant bits each): x = x₀ + x₁ + x₂. Of the nine
//! products of parts the six largest are taken, smallest first; the three left out are below
//! 2⁻²² of the product, so results are as good as f32's own. AMX has sixteen times the
//! multiply-accumulate rate of AVX-512 on the same core, which leaves a factor of 16/6.

use std::arch::asm;
use std::arch::x86_64::*;
use std::array;
use std::cell::Cell;
use std::ops::Range;
use std::slice;
use std::sync::LazyLock;

use rayon::prelude::*;

use super::{Activation, Epilogue, Mat, Threads, multiply_gelu_slope};

/// Rows of a of one panel, and columns of b: two tiles of 16.
const PANEL: usize = 32;
/// Terms of the sum in one tile: 32 bf16 are 64 bytes.
const STEP: usize = 32;
/// Lines of one tile, and the rows it covers.
const TILE: usize = 16;
/// Lines of one step of a panel: three parts × two tiles.
const STEP_LINES: usize = 6 * TILE;
/// Terms packed at once, so that what a task packs and a panel of the other side fit the
/// second-level cache while it runs.
const BLOCK_TERMS: usize = 1024;
/// Rows of the product that one task computes, or columns.
const BLOCK: usize = 128;

/// Whether this processor and operating system have AMX; asks the kernel for it once.
pub(crate) fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        // SAFETY: every processor of this architecture has CPUID. Newer versions of Rust know that.
        #[allow(unused_unsafe)]
        let leaf = unsafe { __cpuid_count(7, 0) };
        let amx = leaf.edx & (1 << 22) != 0 && leaf.edx & (1 << 24) != 0;
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        if !(cfg!(target_os = "linux") && amx && avx512) {
            return false;
        }
        let granted: i64;
        // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA) only changes what state the kernel
        // saves for this process.
        unsafe {
            asm!(
                "syscall",
                inout("rax") 158i64 => granted,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _,
                out("r11") _,
            );
        }
        granted == 0
    });
    *AVAILABLE
}

/// One row of a tile. Tile loads take twice as long where rows straddle cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u16; STEP]);

/// The right-hand side of a product, split and laid out for the tiles.
#[derive(Default)]
pub(crate) struct Packed {
    lines: Vec<Line>,
    rows: usize,
    cols: usize,
}

impl Packed {
    pub fn set(&mut self, b: Mat, threads: Threads) {
        let panels = b.cols.div_ceil(PANEL);
        let mut start = 0;
        for (k0, terms) in blocks(b.rows) {
            let len = panels * terms.div_ceil(STEP) * STEP_LINES;
            grow(&mut self.lines, start + len);
            pack(b.t(), 0..b.cols, k0, terms, Side::B, &mut self.lines[start..][..len], threads);
            start += len;
        }
        (self.rows, self.cols) = (b.rows, b.cols);
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }
}

/// A right-hand side.
pub(crate) enum Rhs<'a> {
    Mat(Mat<'a>),
    Packed(&'a Packed),
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    A,
    B,
}

thread_local! {
    /// What a task packs for itself, and what all tasks share; kept between products. Taken while in
    /// use, because a thread that waits for a parallel product may be given another one to compute.
    static OWN: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static SHARED: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// The product of [`super::gemm`], whose checks have passed.
pub(crate) fn gemm(
    a: Mat,
    b: Rhs,
    out: &mut [f32],
    out_stride: usize,
    epilogue: Epilogue,
    threads: Threads,
) {
    let (m, k) = (a.rows, a.cols);
    let n = match &b {
        Rhs::Mat(b) => b.cols,
        Rhs::Packed(b) => b.cols,
    };
    let target = Target {
        out: out.as_mut_ptr(),
        before_activation: epilogue.before_activation.map(|x| x.as_mut_ptr()),
        stride: out_stride,
        bias: epilogue.bias,
        activation: epilogue.activation,
        gelu_input: epilogue.gelu_input,
        accumulate: epilogue.accumulate,
    };
    let target = &target;
    let run = |tasks: usize, task: &(dyn Fn(usize) + Sync)| match threads {
        Threads::One => (0..tasks).for_each(task),
        Threads::All => (0..tasks).into_par_iter().for_each(task),
    };
    let mut shared = SHARED.take();
    let mut packed_start = 0;
    for (k0, terms) in blocks(k) {
        let panel_lines = terms.div_ceil(STEP) * STEP_LINES;
        let ends = Ends { first: k0 == 0, last: k0 + terms == k };
        let packed_b = match &b {
            Rhs::Mat(_) => None,
            Rhs::Packed(b) => {
                let lines = &b.lines[packed_start..][..n.div_ceil(PANEL) * panel_lines];
                packed_start += lines.len();
                Some(lines)
            }
        };
        let pack_a = |rows, lines: &mut _, threads| {
            pack(a, rows, k0, terms, Side::A, lines, threads);
        };
        let pack_b = |cols, lines: &mut _, threads| match &b {
            Rhs::Mat(b) => pack(b.t(), cols, k0, terms, Side::B, lines, threads),
            Rhs::Packed(_) => unreachable!("packed already"),
        };
        // The shorter side is packed for all tasks; each packs its part of the longer one.
        if m < n && packed_b.is_none() {
            let a_lines = panels(&mut shared, m, panel_lines);
            pack_a(0..m, a_lines, threads);
            let a_lines = &*a_lines;
            let count = tasks(n, threads);
            run(count, &|t| {
                let cols = part(n, t, count);
                let mut own = OWN.take();
                let b_lines = panels(&mut own, cols.len(), panel_lines);
                pack_b(cols.clone(), b_lines, Threads::One);
                // SAFETY: AMX is available; tasks write disjoint blocks of the output, which the
                // caller checked to hold m rows of n columns at this stride.
                unsafe { block(a_lines, b_lines, panel_lines, 0..m, cols, target, ends) };
                OWN.set(own);
            });
        } else {
            let b_lines = packed_b.unwrap_or_else(|| {
                let b_lines = panels(&mut shared, n, panel_lines);
                pack_b(0..n, b_lines, threads);
                b_lines
            });
            // Sharing out columns as well packs rows several times: better than small tasks where
            // there are many columns, whose panels pass through the cache once per block of rows.
            let (down, across) = match packed_b {
                Some(_) => {
                    let down = m.div_ceil(BLOCK);
                    (down, least_tasks(threads).div_ceil(down).min(n.div_ceil(PANEL)))
                }
                None => (tasks(m, threads), 1),
            };
            run(down * across, &|t| {
                let (rows, cols) = (part(m, t / across, down), part(n, t % across, across));
                let b_lines = &b_lines[cols.start / PANEL * panel_lines..];
                let mut own = OWN.take();
                let a_lines = panels(&mut own, rows.len(), panel_lines);
                pack_a(rows.clone(), a_lines, Threads::One);
                // SAFETY: as above.
                unsafe { block(a_lines, b_lines, panel_lines, rows, cols, target, ends) };
                OWN.set(own);
            });
        }
    }
    SHARED.set(shared);
}

/// How `len` rows or columns are shared out: at most `BLOCK` to a task, fewer where threads would have
/// nothing to do.
fn tasks(len: usize, threads: Threads) -> usize {
    least_tasks(threads).min(len.div_ceil(PANEL)).max(len.div_ceil(BLOCK))
}

fn least_tasks(threads: Threads) -> usize {
    match threads {
        Threads::One => 1,
        Threads::All => 2 * rayon::current_num_threads(),
    }
}

/// The rows or columns of task `t`: whole panels, but at the end.
fn part(len: usize, t: usize, tasks: usize) -> Range<usize> {
    let start = |t: usize| (t * len.div_ceil(PANEL) / tasks * PANEL).min(len);
    start(t)..start(t + 1)
}

/// Room for the panels of `count` rows or columns.
fn panels(lines: &mut Vec<Line>, count: usize, panel_lines: usize) -> &mut [Line] {
    let len = count.div_ceil(PANEL) * panel_lines;
    grow(lines, len);
    &mut lines[..len]
}

/// The parts of 0..k that are packed at once: (start, length). One empty part where k is 0.
fn blocks(k: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..k.max(1)).step_by(BLOCK_TERMS).map(move |start| (start, BLOCK_TERMS.min(k - start)))
}

fn grow(lines: &mut Vec<Line>, len: usize) {
    if lines.len() < len {
        lines.resize(len, Line([0; STEP]));
    }
}

/// Where a product goes.
struct Target<'a> {
    out: *mut f32,
    before_activation: Option<*mut f32>,
    stride: usize,
    bias: Option<&'a [f32]>,
    activation: Activation,
    gelu_input: Option<&'a [f32]>,
    accumulate: bool,
}

// SAFETY: tasks write through the pointers to disjoint blocks.
unsafe impl Sync for Target<'_> {}

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

#[repr(C, align(64))]
struct Sums([f32; PANEL * PANEL]);

/// Whether a block of terms is the first or the last.
#[derive(Clone, Copy)]
struct Ends {
    first: bool,
    last: bool,
}

/// Computes one task's block of the product; `a` starts at `rows`, `b` at `cols`.
///
/// # Safety
/// AMX must be available; `rows` and `cols` must lie in the target, and no one else may use that
/// part of it meanwhile.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn block(
    a: &[Line],
    b: &[Line],
    panel_lines: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    target: &Target,
    ends: Ends,
) {
    let mut sums = Sums([0.0; PANEL * PANEL]);
    let steps = panel_lines / STEP_LINES;
    // SAFETY: the configuration is valid, and the state is released below.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &TILE_CONFIG, options(nostack)) };
    for j in cols.clone().step_by(PANEL) {
        let b = &b[(j - cols.start) / PANEL * panel_lines..][..panel_lines];
        let width = PANEL.min(cols.end - j);
        for i in rows.clone().step_by(PANEL) {
            let a = &a[(i - rows.start) / PANEL * panel_lines..][..panel_lines];
            let height = PANEL.min(rows.end - i);
            // SAFETY: both panels have `steps` steps, and the tiles are configured.
            unsafe { multiply(a, b, steps, &mut sums) };
            for (r, sums) in sums.0.chunks_exact(PANEL).take(height).enumerate() {
                let start = (i + r) * target.stride + j;
                // SAFETY: by this function's contract.
                unsafe { store(&sums[..width], start, j, target, ends) };
            }
        }
    }
    // SAFETY: gives up the state set above.
    unsafe { asm!("tilerelease", options(nostack)) };
}

/// Stores a row of sums, whose first column is `j`, from `start` on.
///
/// # Safety
/// As for [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn store(sums: &[f32], start: usize, j: usize, target: &Target, ends: Ends) {
    for at in (0..sums.len()).step_by(16) {
        let n = 16.min(sums.len() - at);
        let mask = ((1u32 << n) - 1) as u16;
        // SAFETY: the mask keeps to the row; the rest is this function's contract. The target
        // before activation is laid out as the output.
        unsafe {
            let out = target.out.add(start + at);
            let mut y = _mm512_maskz_loadu_ps(mask, sums.as_ptr().add(at));
            if !ends.first || target.accumulate {
                y = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), y);
            }
            if ends.last {
                if let Some(bias) = target.bias {
                    let bias = &bias[j + at..][..n];
                    y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, bias.as_ptr()));
                }
                if let Some(pre) = target.before_activation {
                    _mm512_mask_storeu_ps(pre.add(start + at), mask, y);
                }
            }
            _mm512_mask_storeu_ps(out, mask, y);
        }
    }
    if ends.last {
        // SAFETY: by this function's contract.
        let out = unsafe { slice::from_raw_parts_mut(target.out.add(start), sums.len()) };
        target.activation.apply_inline::<true>(out);
        if let Some(at) = target.gelu_input {
            multiply_gelu_slope::<true>(&at[start..][..out.len()], out);
        }
    }
}

/// sums (32 × 32) = a panel of a · a panel of b.
///
/// # Safety
/// The tiles must be configured, and both panels have `steps` steps.
#[inline]
unsafe fn multiply(a: &[Line], b: &[Line], steps: usize, sums: &mut Sums) {
    // SAFETY: loads stay within `steps` steps of each panel; stores fill `sums`.
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
            c = in(reg) sums.0.as_mut_ptr(), s = in(reg) 128usize, options(nostack)
        );
    }
}

/// Splits `terms` columns from `k0` on of some rows of `x` into panels of 32 rows.
fn pack(
    x: Mat,
    rows: Range<usize>,
    k0: usize,
    terms: usize,
    side: Side,
    lines: &mut [Line],
    threads: Threads,
) {
    if terms == 0 {
        return;
    }
    let panel = |(p, lines): (usize, &mut [Line])| {
        for (s, lines) in lines.chunks_exact_mut(STEP_LINES).enumerate() {
            let k = k0 + s * STEP;
            let depth = STEP.min(k0 + terms - k);
            let lines = lines.first_chunk_mut().expect("a whole step");
            for half in 0..2 {
                let row = rows.start + p * PANEL + half * TILE;
                let count = TILE.min(rows.end.saturating_sub(row));
                // SAFETY: AVX-512 is available where AMX is.
                unsafe { pack_tile(x, row, count, k, depth, side, half, lines) };
            }
        }
    };
    let panel_lines = terms.div_ceil(STEP) * STEP_LINES;
    match threads {
        Threads::One => lines.chunks_exact_mut(panel_lines).enumerate().for_each(panel),
        Threads::All => lines.par_chunks_exact_mut(panel_lines).enumerate().for_each(panel),
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
    let mask = |n: usize| ((1u32 << n.min(16)) - 1) as u16;
    let (low, high) = (mask(length), mask(length.saturating_sub(16)));
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
        unsafe { _mm512_store_si512(lines[tile + i].0.as_mut_ptr().cast(), line) };
        // Truncation leaves the bf16 next to the number towards zero.
        first = _mm512_sub_ps(first, _mm512_castsi512_ps(_mm512_and_si512(f, top)));
        second = _mm512_sub_ps(second, _mm512_castsi512_ps(_mm512_and_si512(s, top)));
    }
}

/// Transposes 16 × 16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(m: &mut [__m512; TILE]) {
    let mut t = *m;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_ps(m[2 * i], m[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(m[2 * i], m[2 * i + 1]);
    }
    let mut u = t;
    for i in 0..4 {
        for h in 0..2 {
            let (a, b) = (_mm512_castps_pd(t[4 * i + h]), _mm512_castps_pd(t[4 * i + 2 + h]));
            u[4 * i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            u[4 * i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    // u[4i + c] holds column c of each 128-bit lane for rows 4i..4i+4.
    for c in 0..4 {
        let (a, b, d, e) = (u[c], u[4 + c], u[8 + c], u[12 + c]);
        let p = _mm512_shuffle_f32x4::<0x88>(a, b);
        let q = _mm512_shuffle_f32x4::<0xdd>(a, b);
        let r = _mm512_shuffle_f32x4::<0x88>(d, e);
        let s = _mm512_shuffle_f32x4::<0xdd>(d, e);
        m[c] = _mm512_shuffle_f32x4::<0x88>(p, r);
        m[4 + c] = _mm512_shuffle_f32x4::<0x88>(q, s);
        m[8 + c] = _mm512_shuffle_f32x4::<0xdd>(p, r);
        m[12 + c] = _mm512_shuffle_f32x4::<0xdd>(q, s);
    }
}
