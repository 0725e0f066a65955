//! The frame of the matrix products that are written for a processor's own units: the terms of the
//! sums are taken in spans, both sides of a span are packed into panels (a unit may read the rows of
//! a where they are), each panel of one side meets each of the other, and the epilogue is applied to
//! what comes out.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::mem::transmute;
use std::ops::Range;
use std::slice::Chunks;

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
struct Sums([f32; Sums::LEN]);

impl Sums {
    const LEN: usize = 1024;
}

/// What is done with a product, where something else may be already.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    Set,
    Add,
    Subtract,
}

/// Where a product of two panels goes: its rows are `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub start: *mut f32,
    pub stride: usize,
    pub usage: Use,
}

impl Place {
    /// Puts 16 numbers of a row, from column `16·v` on.
    ///
    /// # Safety
    /// There must be room for them, and AVX-512 be available.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn put(self, row: usize, v: usize, numbers: __m512) {
        // SAFETY: by this function's contract.
        unsafe {
            let at = self.start.add(row * self.stride + v * LANES);
            let numbers = match self.usage {
                Use::Set => numbers,
                Use::Add => _mm512_add_ps(_mm512_loadu_ps(at), numbers),
                Use::Subtract => _mm512_sub_ps(_mm512_loadu_ps(at), numbers),
            };
            _mm512_storeu_ps(at, numbers);
        }
    }
}

/// How many rows and columns of a product of two panels are needed.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub rows: usize,
    pub cols: usize,
}

/// The products of panels on some unit of the processor, all of which has AVX-512.
///
/// # Safety
/// `panel_lines` must be what `multiply` reads, and what `pack` writes for each panel of its rows.
pub(crate) unsafe trait Kernel: Sized {
    /// Rows of a of one panel.
    const ROWS: usize;
    /// Columns of b of one panel: whole vectors.
    const COLS: usize;
    /// Terms of a span, so that what a task packs and a panel of the other side fit the
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

    /// Rows that [`Kernel::pack`] takes at once, at most: whole panels.
    fn packed_rows(side: Side) -> usize {
        panel_rows::<Self>(side)
    }

    /// Packs terms `k0..k0 + terms` of some rows of a, or of bᵀ, into one panel after the other; rows
    /// that are not there are 0.
    ///
    /// # Safety
    /// The unit must be available.
    unsafe fn pack(
        side: Side,
        x: Mat,
        rows: Range<usize>,
        k0: usize,
        terms: usize,
        lines: &mut [Line],
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

    /// A panel of a · a panel of b; lines that are wanted next may be asked for meanwhile.
    ///
    /// # Safety
    /// The unit must be available and entered, both panels have this many terms, and the place room
    /// for `ROWS` rows and as many columns as there are in the vectors that are needed.
    unsafe fn multiply(a: Rows, b: &[Line], terms: usize, size: Size, place: Place, next: &[Line]);
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
    pub fn new(b: Mat) -> Self {
        let mut packed = Self::default();
        packed.set(b, Threads::All);
        packed
    }

    pub fn set(&mut self, b: Mat, threads: Threads) {
        packed::<K>(Side::B, b.t(), &(0..b.cols), &(0..b.rows), &mut self.lines, threads);
        (self.rows, self.cols) = (b.rows, b.cols);
    }
}

/// A right-hand side.
pub(super) enum Rhs<'a, K> {
    Mat(Mat<'a>),
    Packed(&'a Packed<K>),
}

/// Spans that are packed for all tasks at once, so that tasks wait for each other less often.
const SPANS: usize = 4;

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
    // The shorter side is packed for all tasks; each packs its part of the longer one.
    let in_place = K::reads_in_place(&a);
    let share_a = m < n && matches!(b, Rhs::Mat(_));
    let (side, rows) = if share_a { (Side::A, m) } else { (Side::B, n) };
    // Sharing out columns as well packs rows several times: better than small tasks where there are
    // many columns, whose panels pass through the cache once per block of rows.
    let (down, across) = match &b {
        Rhs::Packed(_) => {
            let down =
                m.div_ceil(K::BLOCK).next_multiple_of(threads.count()).min(m.div_ceil(K::ROWS));
            (down, threads.tasks().div_ceil(down).min(n.div_ceil(K::COLS)))
        }
        Rhs::Mat(_) if share_a => (1, tasks::<K>(n, K::COLS, threads)),
        Rhs::Mat(_) => (tasks::<K>(m, K::ROWS, threads), 1),
    };
    let span_lines = rows.div_ceil(panel_rows::<K>(side)) * K::panel_lines(side, K::TERMS);
    let mut lines = SHARED.take();
    for group in spans(0..k, SPANS * K::TERMS) {
        let shared = match &b {
            Rhs::Packed(b) => &b.lines[group.start / K::TERMS * span_lines..],
            Rhs::Mat(_) if share_a && in_place => &[],
            Rhs::Mat(b) => {
                let x = if share_a { a } else { b.t() };
                packed::<K>(side, x, &(0..rows), &group, &mut lines, threads)
            }
        };
        let task = |t: usize| {
            let rows = part(m, K::ROWS, t / across, down);
            let cols = part(n, K::COLS, t % across, across);
            let mut own = OWN.take();
            for terms in spans(group.clone(), K::TERMS) {
                let before = (terms.start - group.start) / K::TERMS * span_lines;
                let shared = &shared[before.min(shared.len())..];
                let one = Threads::One;
                let own = match &b {
                    Rhs::Mat(b) if share_a => {
                        packed::<K>(Side::B, b.t(), &cols, &terms, &mut own, one)
                    }
                    _ if in_place => &[],
                    _ => packed::<K>(Side::A, a, &rows, &terms, &mut own, one),
                };
                let b_panel = K::panel_lines(Side::B, terms.len());
                let (a_lines, b_lines) = match share_a {
                    true => (shared, own),
                    false => (own, &shared[cols.start / K::COLS * b_panel..]),
                };
                let a_rows = match in_place {
                    true => Rows::InPlace(a.part(rows.clone(), terms.clone())),
                    false => Rows::Packed(a_lines),
                };
                let ends = Ends { first: terms.start == 0, last: terms.end == k };
                // SAFETY: the unit is available; tasks write disjoint blocks of the output, which
                // the caller checked to hold m rows of n columns at this stride.
                unsafe { block::<K>(a_rows, b_lines, terms.len(), &rows, &cols, target, ends) };
            }
            OWN.set(own);
        };
        match threads {
            Threads::One => (0..down * across).for_each(task),
            Threads::All => (0..down * across).into_par_iter().for_each(task),
        }
    }
    SHARED.set(lines);
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

/// The parts of some terms that are taken at once. One empty part where there are none.
fn spans(terms: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let Range { start, end } = terms;
    (start..end.max(start + 1)).step_by(size).map(move |start| start..end.min(start + size))
}

fn room(lines: &mut Vec<Line>, len: usize) -> &mut [Line] {
    if lines.len() < len {
        lines.resize(len, Line::ZERO);
    }
    &mut lines[..len]
}

/// Packs terms of some rows of a, or of bᵀ: the panels of one span after those of another.
fn packed<'a, K: Kernel>(
    side: Side,
    x: Mat,
    rows: &Range<usize>,
    terms: &Range<usize>,
    lines: &'a mut Vec<Line>,
    threads: Threads,
) -> &'a [Line] {
    let panels = rows.len().div_ceil(panel_rows::<K>(side)).max(1);
    let len = |terms| panels * K::panel_lines(side, terms);
    let all = spans(terms.clone(), K::TERMS).map(|terms| len(terms.len())).sum();
    let (lines, whole) = (room(lines, all), len(K::TERMS));
    let span = |(i, lines): (usize, &mut [Line])| {
        let start = terms.start + i * K::TERMS;
        let terms = start..terms.end.min(start + K::TERMS);
        pack::<K>(side, x, rows.clone(), terms, lines, threads);
    };
    match threads {
        Threads::One => lines.chunks_mut(whole).enumerate().for_each(span),
        Threads::All => lines.par_chunks_mut(whole).enumerate().for_each(span),
    }
    lines
}

/// Packs a span of some rows of a, or of bᵀ.
pub(super) fn pack<K: Kernel>(
    side: Side,
    x: Mat,
    rows: Range<usize>,
    terms: Range<usize>,
    lines: &mut [Line],
    threads: Threads,
) {
    let together = K::packed_rows(side);
    let panels = |(p, lines): (usize, &mut [Line])| {
        let start = rows.start + p * together;
        let rows = start..rows.end.min(start + together);
        // SAFETY: who packs for a kernel has made sure of its unit.
        unsafe { K::pack(side, x, rows, terms.start, terms.len(), lines) };
    };
    let len = together / panel_rows::<K>(side) * K::panel_lines(side, terms.len());
    match threads {
        Threads::One => lines.chunks_mut(len).enumerate().for_each(panels),
        Threads::All => lines.par_chunks_mut(len).enumerate().for_each(panels),
    }
}

/// The rows of a, or of bᵀ, of one panel.
fn panel_rows<K: Kernel>(side: Side) -> usize {
    match side {
        Side::A => K::ROWS,
        Side::B => K::COLS,
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

impl Target<'_> {
    /// Whether something is there already.
    fn adds(&self, ends: Ends) -> bool {
        !ends.first || self.accumulate
    }

    /// Whether sums are more than stored or added.
    fn changes(&self, ends: Ends) -> bool {
        ends.last
            && (self.bias.is_some()
                || self.activation != Activation::None
                || self.before_activation.is_some()
                || self.gelu_input.is_some())
    }
}

// SAFETY: tasks write through the pointers to disjoint blocks.
unsafe impl Sync for Target<'_> {}

/// Whether a span of terms is the first or the last.
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
    rows: &Range<usize>,
    cols: &Range<usize>,
    target: &Target,
    ends: Ends,
) {
    const { assert!(K::ROWS * K::COLS <= Sums::LEN) };
    let mut sums = Sums([0.0; Sums::LEN]);
    let [a_panel, b_panel] = [Side::A, Side::B].map(|side| K::panel_lines(side, terms));
    // SAFETY: the unit is available; left below.
    unsafe { K::enter() };
    for j in cols.clone().step_by(K::COLS) {
        let (b, after) = b[(j - cols.start) / K::COLS * b_panel..].split_at(b_panel);
        let mut next = shares(after, b_panel, rows.len().div_ceil(K::ROWS));
        let width = K::COLS.min(cols.end - j);
        for i in rows.clone().step_by(K::ROWS) {
            let height = K::ROWS.min(rows.end - i);
            let first = i - rows.start;
            let a = match a {
                Rows::Packed(a) => Rows::Packed(&a[first / K::ROWS * a_panel..][..a_panel]),
                Rows::InPlace(a) => Rows::InPlace(a.part(first..first + height, 0..terms)),
            };
            let area = Area { row: i, step: 1, rows: height, col: j, cols: width };
            let size = Size { rows: height, cols: width };
            let whole = height == K::ROWS && width.is_multiple_of(LANES);
            let direct = whole && !target.changes(ends);
            let place = match direct {
                true => {
                    let usage = if target.adds(ends) { Use::Add } else { Use::Set };
                    let start = target.out.wrapping_add(area.start(0, target.stride));
                    Place { start, stride: target.stride, usage }
                }
                false => {
                    let start = sums.0.as_mut_ptr();
                    Place { start, stride: K::COLS, usage: Use::Set }
                }
            };
            // SAFETY: both panels have this many terms, the unit was entered, and either the sums
            // have room for all rows and columns, or the area has whole vectors of all rows.
            unsafe { K::multiply(a, b, terms, size, place, next.next().unwrap_or_default()) };
            if !direct {
                // SAFETY: by this function's contract.
                unsafe { store(&sums.0, K::COLS, &area, target, ends) };
            }
        }
    }
    // SAFETY: the unit was entered.
    unsafe { K::leave() };
}

/// The first panel of what follows, in as many shares as there are panels of a: what to ask for while each is multiplied.
pub(super) fn shares(after: &[Line], panel: usize, panels: usize) -> Chunks<'_, Line> {
    after[..panel.min(after.len())].chunks(panel.div_ceil(panels.max(1)).max(1))
}

/// Rows of the output, `step` apart, and columns of it.
pub(super) struct Area {
    pub row: usize,
    pub step: usize,
    pub rows: usize,
    pub col: usize,
    pub cols: usize,
}

impl Area {
    /// Where row `r` starts in an output of this stride.
    fn start(&self, r: usize, stride: usize) -> usize {
        (self.row + r * self.step) * stride + self.col
    }
}

/// Stores sums, whose rows are `sums_stride` numbers apart, whole vectors.
///
/// # Safety
/// The area must lie in the target, and no one else may use it meanwhile. AVX-512 must be available.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn store(
    sums: &[f32],
    sums_stride: usize,
    area: &Area,
    target: &Target,
    ends: Ends,
) {
    let adds = target.adds(ends);
    for (r, sums) in sums.chunks_exact(sums_stride).take(area.rows).enumerate() {
        let start = area.start(r, target.stride);
        for (v, sums) in sums.chunks_exact(LANES).take(area.cols.div_ceil(LANES)).enumerate() {
            let col = v * LANES;
            let mask = lanes(area.cols - col);
            // SAFETY: the mask keeps to the area; the rest is this function's contract. What is read
            // and written beside the output is laid out as it.
            unsafe {
                let out = target.out.add(start + col);
                let mut y = _mm512_loadu_ps(sums.as_ptr());
                if adds {
                    y = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), y);
                }
                if ends.last {
                    if let Some(bias) = target.bias {
                        let bias = bias.as_ptr().add(area.col + col);
                        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, bias));
                    }
                    if let Some(pre) = target.before_activation {
                        _mm512_mask_storeu_ps(pre.add(start + col), mask, y);
                    }
                    // In a register: a masked store would keep a load from what it wrote waiting.
                    let mut numbers: [f32; LANES] = transmute(y);
                    target.activation.apply_inline::<true>(&mut numbers);
                    if let Some(at) = target.gelu_input {
                        let at = _mm512_maskz_loadu_ps(mask, at.as_ptr().add(start + col));
                        let at: [f32; LANES] = transmute(at);
                        multiply_gelu_slope::<true>(&at, &mut numbers);
                    }
                    y = transmute::<[f32; LANES], __m512>(numbers);
                }
                _mm512_mask_storeu_ps(out, mask, y);
            }
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
