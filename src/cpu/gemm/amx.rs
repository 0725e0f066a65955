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
use std::mem::transmute;
use std::ops::Range;
use std::slice;
use std::sync::LazyLock;

use rayon::prelude::*;

use super::{Activation, Epilogue, Mat, Threads};

/// Rows of a of one panel, and columns of b: two tiles of 16.
const PANEL: usize = 32;
/// Terms of the sum in one tile: 32 bf16 are 64 bytes.
const STEP: usize = 32;
/// Lines of one tile, and the rows it covers.
const TILE: usize = 16;
/// Lines of one step of a panel: three parts × two tiles.
const STEP_LINES: usize = 6 * TILE;
/// Terms packed at once, so that `BLOCK_ROWS` rows of a and a panel of b fit the second-level
/// cache while a task runs.
const BLOCK_TERMS: usize = 1024;
/// Rows of the product that one task computes.
const BLOCK_ROWS: usize = 128;
/// Columns of a task where there are fewer than `FEW_BLOCKS` blocks of rows.
const BLOCK_COLS: usize = 1024;
const FEW_BLOCKS: usize = 8;

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
pub(crate) struct Packed {
    lines: Vec<Line>,
    rows: usize,
    cols: usize,
}

impl Packed {
    pub fn new(b: Mat) -> Self {
        let panels = b.cols.div_ceil(PANEL);
        let mut lines = Vec::new();
        for (k0, terms) in blocks(b.rows) {
            let start = lines.len();
            grow(&mut lines, start + panels * terms.div_ceil(STEP) * STEP_LINES);
            pack(b.t(), 0..b.cols, k0, terms, Side::B, &mut lines[start..], Threads::All);
        }
        Self { lines, rows: b.rows, cols: b.cols }
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
    /// A block of a, and all of b, packed; kept between products. Taken while in use, because a
    /// thread that waits for a parallel product may be given another one to compute.
    static SCRATCH_A: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static SCRATCH_B: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
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
    let col_panels = n.div_ceil(PANEL);
    let mut b_lines = SCRATCH_B.take();
    let target = Target {
        out: out.as_mut_ptr(),
        before_activation: epilogue.before_activation.map(|x| x.as_mut_ptr()),
        stride: out_stride,
        bias: epilogue.bias,
        activation: epilogue.activation,
        accumulate: epilogue.accumulate,
    };
    // A task packs its rows of a and multiplies them with all columns; where there are few rows,
    // with some of the columns.
    let row_blocks = m.div_ceil(BLOCK_ROWS);
    let columns = if row_blocks >= FEW_BLOCKS { n } else { BLOCK_COLS };
    let across = n.div_ceil(columns);
    let mut b_start = 0;
    for (k0, terms) in blocks(k) {
        let steps = terms.div_ceil(STEP);
        let b_len = col_panels * steps * STEP_LINES;
        let b_block = match &b {
            Rhs::Mat(b) => {
                grow(&mut b_lines, b_len);
                pack(b.t(), 0..n, k0, terms, Side::B, &mut b_lines[..b_len], threads);
                &b_lines[..b_len]
            }
            Rhs::Packed(b) => &b.lines[b_start..][..b_len],
        };
        b_start += b_len;
        let (first, last) = (k0 == 0, k0 + terms == k);
        let target = &target;
        let task = |t: usize| {
            let (i, j) = (t / across * BLOCK_ROWS, t % across * columns);
            let (rows, cols) = (i..(i + BLOCK_ROWS).min(m), j..(j + columns).min(n));
            let mut a_lines = SCRATCH_A.take();
            let a_len = rows.len().div_ceil(PANEL) * steps * STEP_LINES;
            grow(&mut a_lines, a_len);
            pack(a, rows.clone(), k0, terms, Side::A, &mut a_lines[..a_len], Threads::One);
            // SAFETY: AMX is available; tasks write disjoint blocks of the output, which the
            // caller checked to hold m rows of n columns at this stride.
            unsafe { block(&a_lines[..a_len], b_block, steps, rows, cols, target, first, last) };
            SCRATCH_A.set(a_lines);
        };
        let tasks = row_blocks * across;
        match threads {
            Threads::One => (0..tasks).for_each(task),
            Threads::All => (0..tasks).into_par_iter().for_each(task),
        }
    }
    SCRATCH_B.set(b_lines);
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

/// Computes one task's block of the product; `a` starts at `rows`, `b` at column 0.
///
/// # Safety
/// AMX must be available; `rows` and `cols` must lie in the target, and no one else may use that
/// part of it meanwhile.
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn block(
    a: &[Line],
    b: &[Line],
    steps: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    target: &Target,
    first: bool,
    last: bool,
) {
    let mut sums = Sums([0.0; PANEL * PANEL]);
    // SAFETY: the configuration is valid, and the state is released below.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &TILE_CONFIG, options(nostack)) };
    for j in cols.clone().step_by(PANEL) {
        let b = &b[j / PANEL * steps * STEP_LINES..][..steps * STEP_LINES];
        let width = PANEL.min(cols.end - j);
        for i in rows.clone().step_by(PANEL) {
            let a = &a[(i - rows.start) / PANEL * steps * STEP_LINES..][..steps * STEP_LINES];
            let height = PANEL.min(rows.end - i);
            // SAFETY: both panels have `steps` steps, and the tiles are configured.
            unsafe { multiply(a, b, steps, &mut sums) };
            for (r, sums) in sums.0.chunks_exact(PANEL).take(height).enumerate() {
                let start = (i + r) * target.stride + j;
                // SAFETY: by this function's contract.
                unsafe { store(&sums[..width], start, j, target, first, last) };
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
unsafe fn store(sums: &[f32], start: usize, j: usize, target: &Target, first: bool, last: bool) {
    for at in (0..sums.len()).step_by(16) {
        let n = 16.min(sums.len() - at);
        let mask = ((1u32 << n) - 1) as u16;
        // SAFETY: the mask keeps to the row; the rest is this function's contract. The target
        // before activation is laid out as the output.
        unsafe {
            let out = target.out.add(start + at);
            let mut y = _mm512_maskz_loadu_ps(mask, sums.as_ptr().add(at));
            if !first || target.accumulate {
                y = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), y);
            }
            if last {
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
    if last {
        // SAFETY: by this function's contract.
        let out = unsafe { slice::from_raw_parts_mut(target.out.add(start), sums.len()) };
        target.activation.apply_inline(out);
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
            for half in 0..2 {
                let row = rows.start + p * PANEL + half * TILE;
                let count = TILE.min(rows.end.saturating_sub(row));
                // SAFETY: AVX-512 is available where AMX is.
                unsafe { pack_tile(x, row, count, k, depth, side, &mut lines[half * TILE..]) };
            }
        }
    };
    let panel_lines = terms.div_ceil(STEP) * STEP_LINES;
    match threads {
        Threads::One => lines.chunks_exact_mut(panel_lines).enumerate().for_each(panel),
        Threads::All => lines.par_chunks_exact_mut(panel_lines).enumerate().for_each(panel),
    }
}

/// Packs `rows` ≤ 16 rows × `depth` ≤ 32 terms, the rest zero. The tiles of the three parts lie
/// 2·TILE lines apart: for `Side::A` the smallest first, for `Side::B` the largest.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_tile(
    x: Mat,
    row: usize,
    rows: usize,
    k: usize,
    depth: usize,
    side: Side,
    lines: &mut [Line],
) {
    // A line of a holds a row's 32 terms: `first` has terms 0..16, `second` the others. A line of b
    // holds pairs of terms: `first` has term 2i of 16 rows, `second` term 2i + 1.
    let (a, rest) = lines.split_at_mut(2 * TILE);
    let (b, c) = rest.split_at_mut(2 * TILE);
    let mut parts = if side == Side::A { [c, b, a] } else { [a, b, c] };
    let start = row * x.row_stride + k * x.col_stride;
    let terms = |r: usize| {
        if r >= rows {
            return (_mm512_setzero_ps(), _mm512_setzero_ps());
        }
        let data = &x.data[start + r * x.row_stride..][..depth];
        (load(data), load(&data[depth.min(16)..]))
    };
    let column = |i: usize| {
        if i >= depth || rows == 0 {
            return _mm512_setzero_ps();
        }
        load(&x.data[start + i * x.col_stride..][..rows])
    };
    match (side, x.col_stride == 1) {
        (Side::A, true) => {
            for i in 0..TILE {
                let (first, second) = terms(i);
                store_parts(first, second, i, &mut parts, Side::A);
            }
        }
        (Side::B, false) => {
            for i in 0..TILE {
                store_parts(column(2 * i), column(2 * i + 1), i, &mut parts, Side::B);
            }
        }
        (Side::A, false) => {
            let mut first: [__m512; TILE] = array::from_fn(column);
            let mut second: [__m512; TILE] = array::from_fn(|i| column(TILE + i));
            transpose(&mut first);
            transpose(&mut second);
            for i in 0..TILE {
                store_parts(first[i], second[i], i, &mut parts, Side::A);
            }
        }
        (Side::B, true) => {
            let mut halves = [[_mm512_setzero_ps(); TILE]; 2];
            let [low, high] = &mut halves;
            for (r, (low, high)) in low.iter_mut().zip(high).enumerate() {
                (*low, *high) = terms(r);
            }
            halves.iter_mut().for_each(|h| transpose(h));
            let all = halves.as_flattened();
            for i in 0..TILE {
                store_parts(all[2 * i], all[2 * i + 1], i, &mut parts, Side::B);
            }
        }
    }
}

/// Splits two vectors into their three parts and stores line i of each part's tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn store_parts(
    mut first: __m512,
    mut second: __m512,
    i: usize,
    parts: &mut [&mut [Line]; 3],
    side: Side,
) {
    for part in parts {
        let (f, s) = (truncate(first), truncate(second));
        let line = match side {
            // SAFETY: both types are 512 bits without invalid values.
            Side::A => unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(s, f)) },
            Side::B => {
                let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(f));
                _mm512_or_si512(low, _mm512_castps_si512(s))
            }
        };
        // SAFETY: a line is 64 bytes, aligned to 64.
        unsafe { _mm512_store_si512(part[i].0.as_mut_ptr().cast(), line) };
        (first, second) = (_mm512_sub_ps(first, f), _mm512_sub_ps(second, s));
    }
}

/// Up to 16 numbers, then zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(data: &[f32]) -> __m512 {
    let mask = ((1u32 << data.len().min(16)) - 1) as u16;
    // SAFETY: elements outside the mask are not read.
    unsafe { _mm512_maskz_loadu_ps(mask, data.as_ptr()) }
}

/// x without the 16 low bits: the bf16 next to x towards zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn truncate(x: __m512) -> __m512 {
    _mm512_castsi512_ps(_mm512_and_si512(
        _mm512_castps_si512(x),
        _mm512_set1_epi32(0xffff_0000u32 as i32),
    ))
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
