//! The frame of the matrix products that are written for a processor's own units: the terms of the
//! sums are taken in blocks, both sides of a block are packed into panels (a unit may read the rows of
//! a where they are), each panel of one side meets each of the other, and the epilogue is applied to
//! what comes out.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;
use std::slice;

use rayon::prelude::*;

use super::{Activation, Epilogue, Mat, Threads, multiply_gelu_slope};

/// Numbers of a 512-bit vector.
pub(super) const LANES: usize = 16;

/// What panels consist of: a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

impl Line {
    pub const ZERO: Self = Self([0; 64]);
}

/// Which side of a product a panel belongs to.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Side {
    A,
    B,
}

/// A panel of a: packed, or the rows of a matrix whose terms are contiguous.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    Packed(&'a [Line]),
    InPlace(Mat<'a>),
}

/// The product of one panel of a and one of b: `Kernel::ROWS` rows, `Kernel::COLS` apart.
#[repr(C, align(64))]
pub(crate) struct Sums(pub [f32; Sums::LEN]);

impl Sums {
    const LEN: usize = 1024;
}

/// The products of panels on some unit of the processor, all of which has AVX-512.
///
/// # Safety
/// `panel_lines` must be what `multiply` reads and `pack` writes.
pub(crate) unsafe trait Kernel {
    /// Rows of a of one panel.
    const ROWS: usize;
    /// Columns of b of one panel: whole vectors.
    const COLS: usize;
    /// Terms packed at once, so that what a task packs and a panel of the other side fit the
    /// second-level cache while it runs.
    const TERMS: usize;
    /// Rows of the product that one task computes, or columns: whole panels.
    const BLOCK: usize;

    /// Whether the rows of this a are read where they are; their terms are contiguous then.
    fn reads_in_place(_a: &Mat) -> bool {
        false
    }

    /// The lines of a panel of so many terms.
    fn panel_lines(side: Side, terms: usize) -> usize;

    /// Packs terms `k0..k0 + terms` of some rows of a, or of bᵀ, at most a panel's; others are 0.
    ///
    /// # Safety
    /// The unit must be available.
    unsafe fn pack(
        side: Side,
        x: Mat,
        rows: Range<usize>,
        k0: usize,
        terms: usize,
        panel: &mut [Line],
    );

    /// What must be done before a task's products, and after them.
    ///
    /// # Safety
    /// The unit must be available.
    unsafe fn enter() {}

    /// See [`Kernel::enter`].
    ///
    /// # Safety
    /// The unit must be available.
    unsafe fn leave() {}

    /// sums = a panel of a · a panel of b, of whose columns only the first `cols` are needed.
    ///
    /// # Safety
    /// The unit must be available and entered, and both panels have this many terms.
    unsafe fn multiply(a: Rows, b: &[Line], terms: usize, cols: usize, sums: &mut Sums);
}

/// The right-hand side of a product, laid out for a kernel.
pub(crate) struct Packed<K> {
    lines: Vec<Line>,
    rows: usize,
    cols: usize,
    kernel: std::marker::PhantomData<K>,
}

impl<K> Default for Packed<K> {
    fn default() -> Self {
        Self { lines: Vec::new(), rows: 0, cols: 0, kernel: std::marker::PhantomData }
    }
}

impl<K> Packed<K> {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }
}

impl<K: Kernel> Packed<K> {
    pub fn set(&mut self, b: Mat, threads: Threads) {
        let mut start = 0;
        for (k0, terms) in blocks::<K>(b.rows) {
            let len = b.cols.div_ceil(K::COLS) * K::panel_lines(Side::B, terms);
            grow(&mut self.lines, start + len);
            let lines = &mut self.lines[start..][..len];
            pack::<K>(Side::B, b.t(), 0..b.cols, k0, terms, lines, threads);
            start += len;
        }
        (self.rows, self.cols) = (b.rows, b.cols);
    }
}

/// A right-hand side.
pub(super) enum Rhs<'a, K> {
    Mat(Mat<'a>),
    Packed(&'a Packed<K>),
}

thread_local! {
    /// What a task packs for itself, and what all tasks share; kept between products. Taken while in
    /// use, because a thread that waits for a parallel product may be given another one to compute.
    static OWN: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static SHARED: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// The product of [`super::gemm`], whose checks have passed.
///
/// # Safety
/// The kernel's unit must be available.
pub(super) unsafe fn gemm<K: Kernel + Sync>(
    a: Mat,
    b: Rhs<K>,
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
    let target = &Target::new(out, out_stride, epilogue);
    let run = |tasks: usize, task: &(dyn Fn(usize) + Sync)| match threads {
        Threads::One => (0..tasks).for_each(task),
        Threads::All => (0..tasks).into_par_iter().for_each(task),
    };
    let mut shared = SHARED.take();
    let mut packed_start = 0;
    for (k0, terms) in blocks::<K>(k) {
        let b_panel = K::panel_lines(Side::B, terms);
        let ends = Ends { first: k0 == 0, last: k0 + terms == k };
        let packed_b = match &b {
            Rhs::Mat(_) => None,
            Rhs::Packed(b) => {
                let lines = &b.lines[packed_start..][..n.div_ceil(K::COLS) * b_panel];
                packed_start += lines.len();
                Some(lines)
            }
        };
        let pack_b = |cols, lines: &mut _, threads| match &b {
            Rhs::Mat(b) => pack::<K>(Side::B, b.t(), cols, k0, terms, lines, threads),
            Rhs::Packed(_) => unreachable!("packed already"),
        };
        // The shorter side is packed for all tasks; each packs its part of the longer one.
        if m < n && packed_b.is_none() {
            let a_rows = rows_of::<K>(a, 0..m, k0..k0 + terms, &mut shared, threads);
            let count = tasks::<K>(n, K::COLS, threads);
            run(count, &|t| {
                let cols = part(n, K::COLS, t, count);
                let mut own = OWN.take();
                let b_lines = room(&mut own, cols.len().div_ceil(K::COLS) * b_panel);
                pack_b(cols.clone(), b_lines, Threads::One);
                // SAFETY: the unit is available; tasks write disjoint blocks of the output, which
                // the caller checked to hold m rows of n columns at this stride.
                unsafe { block::<K>(a_rows, b_lines, terms, 0..m, cols, target, ends) };
                OWN.set(own);
            });
        } else {
            let b_lines = packed_b.unwrap_or_else(|| {
                let b_lines = room(&mut shared, n.div_ceil(K::COLS) * b_panel);
                pack_b(0..n, b_lines, threads);
                b_lines
            });
            // Sharing out columns as well packs rows several times: better than small tasks where
            // there are many columns, whose panels pass through the cache once per block of rows.
            let (down, across) = match packed_b {
                Some(_) => {
                    let down = m.div_ceil(K::BLOCK);
                    (down, threads.tasks().div_ceil(down).min(n.div_ceil(K::COLS)))
                }
                None => (tasks::<K>(m, K::ROWS, threads), 1),
            };
            run(down * across, &|t| {
                let rows = part(m, K::ROWS, t / across, down);
                let cols = part(n, K::COLS, t % across, across);
                let b_lines = &b_lines[cols.start / K::COLS * b_panel..];
                let mut own = OWN.take();
                let own_rows = rows.clone();
                let a_rows = rows_of::<K>(a, own_rows, k0..k0 + terms, &mut own, Threads::One);
                // SAFETY: as above.
                unsafe { block::<K>(a_rows, b_lines, terms, rows, cols, target, ends) };
                OWN.set(own);
            });
        }
    }
    SHARED.set(shared);
}

/// Rows of a as the kernel reads them, packed into `lines` if need be.
fn rows_of<'a, K: Kernel>(
    a: Mat<'a>,
    rows: Range<usize>,
    terms: Range<usize>,
    lines: &'a mut Vec<Line>,
    threads: Threads,
) -> Rows<'a> {
    if K::reads_in_place(&a) {
        return Rows::InPlace(a.part(rows, terms));
    }
    let panel = K::panel_lines(Side::A, terms.len());
    let lines = room(lines, rows.len().div_ceil(K::ROWS) * panel);
    pack::<K>(Side::A, a, rows, terms.start, terms.len(), lines, threads);
    Rows::Packed(lines)
}

/// How `len` rows or columns are shared out: at most a block to a task, and as many tasks for each
/// thread.
fn tasks<K: Kernel>(len: usize, panel: usize, threads: Threads) -> usize {
    let tasks = threads.tasks().max(len.div_ceil(K::BLOCK));
    tasks.next_multiple_of(threads.count()).min(len.div_ceil(panel))
}

/// The rows or columns of task `t`: whole panels, but at the end.
pub(super) fn part(len: usize, panel: usize, t: usize, tasks: usize) -> Range<usize> {
    let start = |t: usize| (t * len.div_ceil(panel) / tasks * panel).min(len);
    start(t)..start(t + 1)
}

/// The parts of 0..k that are packed at once: (start, length). One empty part where k is 0.
fn blocks<K: Kernel>(k: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..k.max(1)).step_by(K::TERMS).map(move |start| (start, K::TERMS.min(k - start)))
}

fn grow(lines: &mut Vec<Line>, len: usize) {
    if lines.len() < len {
        lines.resize(len, Line::ZERO);
    }
}

fn room(lines: &mut Vec<Line>, len: usize) -> &mut [Line] {
    grow(lines, len);
    &mut lines[..len]
}

/// Packs terms `k0..k0 + terms` of some rows of `x` into panels.
pub(super) fn pack<K: Kernel>(
    side: Side,
    x: Mat,
    rows: Range<usize>,
    k0: usize,
    terms: usize,
    lines: &mut [Line],
    threads: Threads,
) {
    if terms == 0 {
        return;
    }
    let height = if side == Side::A { K::ROWS } else { K::COLS };
    let panel = |(p, lines): (usize, &mut [Line])| {
        let start = rows.start + p * height;
        let rows = start..(start + height).min(rows.end);
        // SAFETY: who packs for a kernel has made sure of its unit.
        unsafe { K::pack(side, x, rows, k0, terms, lines) };
    };
    let len = K::panel_lines(side, terms);
    match threads {
        Threads::One => lines.chunks_exact_mut(len).enumerate().for_each(panel),
        Threads::All => lines.par_chunks_exact_mut(len).enumerate().for_each(panel),
    }
}

/// Where a product goes.
pub(super) struct Target<'a> {
    out: *mut f32,
    before_activation: Option<*mut f32>,
    pub stride: usize,
    bias: Option<&'a [f32]>,
    activation: Activation,
    gelu_input: Option<&'a [f32]>,
    accumulate: bool,
}

impl<'a> Target<'a> {
    pub fn new(out: &'a mut [f32], stride: usize, epilogue: Epilogue<'a>) -> Self {
        Self {
            out: out.as_mut_ptr(),
            before_activation: epilogue.before_activation.map(|x| x.as_mut_ptr()),
            stride,
            bias: epilogue.bias,
            activation: epilogue.activation,
            gelu_input: epilogue.gelu_input,
            accumulate: epilogue.accumulate,
        }
    }
}

// SAFETY: tasks write through the pointers to disjoint blocks.
unsafe impl Sync for Target<'_> {}

/// Whether a block of terms is the first or the last.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub first: bool,
    pub last: bool,
}

/// Computes one task's block of the product; `a` starts at `rows`, `b` at `cols`.
///
/// # Safety
/// The unit must be available; `rows` and `cols` must lie in the target, and no one else may use
/// that part of it meanwhile.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn block<K: Kernel>(
    a: Rows,
    b: &[Line],
    terms: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    target: &Target,
    ends: Ends,
) {
    const { assert!(K::ROWS * K::COLS <= Sums::LEN) };
    let mut sums = Sums([0.0; Sums::LEN]);
    let [a_panel, b_panel] = [Side::A, Side::B].map(|side| K::panel_lines(side, terms));
    // SAFETY: the unit is available; left below.
    unsafe { K::enter() };
    for j in cols.clone().step_by(K::COLS) {
        let b = &b[(j - cols.start) / K::COLS * b_panel..][..b_panel];
        let width = K::COLS.min(cols.end - j);
        for i in rows.clone().step_by(K::ROWS) {
            let height = K::ROWS.min(rows.end - i);
            let first = i - rows.start;
            let a = match a {
                Rows::Packed(a) => Rows::Packed(&a[first / K::ROWS * a_panel..][..a_panel]),
                Rows::InPlace(a) => Rows::InPlace(a.part(first..first + height, 0..terms)),
            };
            prefetch(target, i * target.stride + j, height, width);
            // SAFETY: both panels have this many terms, and the unit was entered.
            unsafe { K::multiply(a, b, terms, width, &mut sums) };
            for (r, sums) in sums.0.chunks_exact(K::COLS).take(height).enumerate() {
                let start = (i + r) * target.stride + j;
                // SAFETY: by this function's contract.
                unsafe { store(&sums[..width], start, j, target, ends) };
            }
        }
    }
    // SAFETY: the unit was entered.
    unsafe { K::leave() };
}

/// Asks for the part of the output that a panel's product will be stored to, so that it arrives while
/// the product is computed.
#[inline]
fn prefetch(target: &Target, start: usize, height: usize, width: usize) {
    for r in 0..height {
        for at in (0..width).step_by(LANES) {
            let line = target.out.wrapping_add(start + r * target.stride + at);
            // SAFETY: a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.cast()) };
        }
    }
}

/// Stores a row of sums, whose first column is `j`, from `start` on.
///
/// # Safety
/// As for [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn store(sums: &[f32], start: usize, j: usize, target: &Target, ends: Ends) {
    for at in (0..sums.len()).step_by(LANES) {
        let n = LANES.min(sums.len() - at);
        let mask = lanes(n);
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

/// The mask of the first `n` lanes of a vector, at most all.
#[inline(always)]
pub(super) fn lanes(n: usize) -> u16 {
    ((1u32 << n.min(LANES)) - 1) as u16
}

/// Transposes 16 × 16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(m: &mut [__m512; LANES]) {
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
