//! Products of rows that come in pairs, by one level of Strassen's algorithm (Gaussian Elimination is
//! not Optimal, 1969): seven products of half the size in place of eight.
//!
//! The even rows of a are its upper half and the odd ones its lower half, so that the rounding of a
//! row depends on its partner, not on rows that are further away.

use std::array;
use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::avx512::{self, Registers};
use super::blocked::{self, Area, Ends, Kernel, LANES, Line, Place, Rows, Side, Size, Target, Use};
use super::{Epilogue, Mat, Threads};

/// Terms of each half that are taken at once, at most.
const TERMS: usize = 704;
/// Pairs of rows whose combinations are made at once, and panels of b that all of them meet before the
/// next ones: both stay in the third-level cache.
const CHUNK: usize = 512;
const PANELS: usize = 6;
/// Pairs of rows that a task computes at once, at most: their sums stay in the second-level cache.
const PAIRS: usize = 136;
const ROWS: usize = Registers::ROWS;
const COLS: usize = Registers::COLS;

/// One of the seven products: what of a and of b it multiplies, and how it enters the output. Quarters
/// are (upper left, upper right, lower left, lower right).
struct Product {
    a: [i8; 4],
    b: [i8; 4],
    out: [Option<Use>; 4],
}

const SET: Option<Use> = Some(Use::Set);
const ADD: Option<Use> = Some(Use::Add);
const SUB: Option<Use> = Some(Use::Subtract);

const PRODUCTS: [Product; 7] = [
    Product { a: [1, 0, 0, 1], b: [1, 0, 0, 1], out: [SET, None, None, SET] },
    Product { a: [0, 0, 1, 1], b: [1, 0, 0, 0], out: [None, None, SET, SUB] },
    Product { a: [1, 0, 0, 0], b: [0, 1, 0, -1], out: [None, SET, None, ADD] },
    Product { a: [0, 0, 0, 1], b: [-1, 0, 1, 0], out: [ADD, None, ADD, None] },
    Product { a: [1, 1, 0, 0], b: [0, 0, 0, 1], out: [SUB, ADD, None, None] },
    Product { a: [-1, 0, 1, 0], b: [1, 1, 0, 0], out: [None, None, None, ADD] },
    Product { a: [0, 1, 0, -1], b: [0, 0, 1, 1], out: [ADD, None, None, None] },
];

/// Whether it can be done, and is faster, for a right-hand side of this shape: what is made of a row is used for all
/// columns.
pub(super) fn pays(rows: usize, cols: usize) -> bool {
    rows.is_multiple_of(2) && cols.is_multiple_of(2) && rows >= 256 && cols >= 512
}

/// The right-hand sides of the seven products, one block of terms after the other.
pub(crate) struct Packed {
    lines: Vec<Line>,
    rows: usize,
    cols: usize,
}

impl Packed {
    /// Packs a matrix of which both sizes are even.
    pub fn new(b: Mat) -> Self {
        let (rows, cols) = (b.rows, b.cols);
        let (k, n) = (rows / 2, cols / 2);
        let columns = Contiguous::new(b.t());
        let mut lines = Vec::new();
        let mut combined = vec![0.0; n * TERMS];
        for terms in blocks(k) {
            let combined = &mut combined[..n * terms.len()];
            for product in &PRODUCTS {
                combined.par_chunks_mut(terms.len()).enumerate().for_each(|(j, out)| {
                    let quarter = |q: usize| columns.row(q % 2 * n + j, q / 2 * k, &terms);
                    combine(&product.b, array::from_fn(quarter), out);
                });
                let start = lines.len();
                lines.resize(start + len(n, terms.len()), Line::ZERO);
                let (x, lines) = (Mat::new(combined, n, terms.len()), &mut lines[start..]);
                let all = Threads::All;
                blocked::pack::<Registers>(Side::B, x, 0..n, 0..terms.len(), lines, all);
            }
        }
        Self { lines, rows, cols }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }
}

/// The lines of the right-hand side of one product.
fn len(n: usize, terms: usize) -> usize {
    n.div_ceil(COLS) * Registers::panel_lines(Side::B, terms)
}

/// The blocks of terms of one half, about equally long.
fn blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    let size = k.div_ceil(k.div_ceil(TERMS)).next_multiple_of(LANES);
    (0..k).step_by(size).map(move |start| start..(start + size).min(k))
}

/// A matrix whose rows are contiguous, copied if need be.
struct Contiguous<'a> {
    data: Cow<'a, [f32]>,
    rows: usize,
    stride: usize,
}

impl<'a> Contiguous<'a> {
    fn new(x: Mat<'a>) -> Self {
        let Mat { data, rows, cols, row_stride, col_stride } = x;
        if col_stride == 1 {
            return Self { data: Cow::Borrowed(data), rows, stride: row_stride };
        }
        let at = |i| data[i / cols * row_stride + i % cols * col_stride];
        Self { data: (0..rows * cols).map(at).collect(), rows, stride: cols }
    }

    /// Terms `terms` of a row, counted from column `start`; 0 for a row that is not there.
    #[inline(always)]
    fn row(&self, row: usize, start: usize, terms: &Range<usize>) -> &[f32] {
        if row < self.rows {
            &self.data[row * self.stride + start..][terms.clone()]
        } else {
            &[0.0; TERMS][..terms.len()]
        }
    }
}

/// out = Σ signs·quarters.
#[inline(always)]
fn combine(signs: &[i8; 4], quarters: [&[f32]; 4], out: &mut [f32]) {
    let mut used = signs.iter().zip(quarters).filter(|(sign, _)| **sign != 0);
    let (&sign, x) = used.next().expect("every product has a part");
    let Some((&other, y)) = used.next() else { return out.copy_from_slice(x) };
    let (x, y) = if sign > 0 { (x, y) } else { (y, x) };
    let both = x.iter().zip(y);
    match sign == other {
        true => out.iter_mut().zip(both).for_each(|(o, (x, y))| *o = x + y),
        false => out.iter_mut().zip(both).for_each(|(o, (x, y))| *o = x - y),
    }
}

thread_local! {
    /// The combinations of a's quarters, kept between products. Taken while in use, because a thread
    /// that waits for a parallel product may be given another one to compute.
    static COMBINATIONS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// The product of [`super::gemm`], whose checks have passed.
///
/// # Safety
/// AVX-512 must be available.
pub(super) unsafe fn gemm(
    a: Mat,
    b: &Packed,
    out: &mut [f32],
    out_stride: usize,
    epilogue: Epilogue,
    threads: Threads,
) {
    let a = &Contiguous::new(a);
    let (k, n, pairs) = (b.rows / 2, b.cols / 2, a.rows.div_ceil(2));
    let target = &Target::new(out, out_stride, epilogue);
    let mut combinations = COMBINATIONS.take();
    for start in (0..pairs).step_by(CHUNK) {
        let chunk = start..(start + CHUNK).min(pairs);
        let mut lines = &b.lines[..];
        for terms in blocks(k) {
            let each = PRODUCTS.len() * terms.len();
            let needed = chunk.len() * each;
            combinations.resize(needed.max(combinations.len()), 0.0);
            let combine = |(i, out): (usize, &mut [f32])| {
                let quarter = |q: usize| a.row(2 * (start + i) + q / 2, q % 2 * k, &terms);
                // SAFETY: AVX-512 is available.
                unsafe { combine_all(array::from_fn(quarter), out) };
            };
            let rows = &mut combinations[..needed];
            match threads {
                Threads::One => rows.chunks_exact_mut(each).enumerate().for_each(combine),
                Threads::All => rows.par_chunks_exact_mut(each).enumerate().for_each(combine),
            }
            let (b, after) = lines.split_at(PRODUCTS.len() * len(n, terms.len()));
            lines = after;
            let block = Block {
                a: &combinations[..needed],
                b,
                terms: terms.len(),
                first_pair: start,
                rows: a.rows,
                n,
                target,
                ends: Ends { first: terms.start == 0, last: terms.end == k },
            };
            for group in (0..n).step_by(PANELS * COLS) {
                let width = (PANELS * COLS).min(n - group);
                let down = chunk.len().div_ceil(PAIRS);
                let across = threads.tasks().div_ceil(down).min(width.div_ceil(COLS));
                // Where all columns are shared out, rows give further threads work.
                let down =
                    down.max(threads.tasks().div_ceil(across)).min(chunk.len().div_ceil(ROWS));
                let task = |t: usize| {
                    let cols = blocked::part(width, COLS, t % across, across);
                    let pairs = blocked::part(chunk.len(), ROWS, t / across, down);
                    // SAFETY: AVX-512 is available; tasks write disjoint blocks of the output, which
                    // the caller checked to hold a's rows and b's columns at this stride.
                    unsafe { block.multiply(pairs, group + cols.start..group + cols.end) };
                };
                match threads {
                    Threads::One => (0..down * across).for_each(task),
                    Threads::All => (0..down * across).into_par_iter().for_each(task),
                }
            }
        }
    }
    COMBINATIONS.set(combinations);
}

/// Makes of a pair of rows what each product needs, one after the other.
#[target_feature(enable = "avx512f")]
fn combine_all(quarters: [&[f32]; 4], out: &mut [f32]) {
    let terms = out.len() / PRODUCTS.len();
    for (product, out) in PRODUCTS.iter().zip(out.chunks_exact_mut(terms)) {
        combine(&product.a, quarters, out);
    }
}

/// What a chunk of rows adds to the output by a block of terms.
struct Block<'a> {
    /// For each pair of rows the combinations for each product.
    a: &'a [f32],
    /// For each product the panels of the right-hand side.
    b: &'a [Line],
    terms: usize,
    first_pair: usize,
    /// Rows of the output, and columns of one half.
    rows: usize,
    n: usize,
    target: &'a Target<'a>,
    ends: Ends,
}

/// The sums of a task, by quarters.
#[repr(C, align(64))]
struct Quarters([[f32; PAIRS * COLS]; 4]);

impl Block<'_> {
    /// Computes some pairs of the chunk's rows, at most [`PAIRS`], and these columns of each half.
    ///
    /// # Safety
    /// AVX-512 must be available, the output must hold the rows and columns, and no one else may use
    /// that part of it meanwhile.
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn multiply(&self, pairs: Range<usize>, cols: Range<usize>) {
        let &Self { terms, n, target, .. } = self;
        let each = PRODUCTS.len() * terms;
        let a = &self.a[pairs.start * each..];
        let first_row = 2 * (self.first_pair + pairs.start);
        let panel = Registers::panel_lines(Side::B, terms);
        let mut sums = Quarters([[0.0; PAIRS * COLS]; 4]);
        for j in cols.clone().step_by(COLS) {
            let width = COLS.min(cols.end - j);
            // A quarter's part of the output, from pair `i` of the task on.
            let area = |q: usize, i: usize, count: usize| {
                let row = first_row + 2 * i + q / 2;
                let rows = count.min((self.rows + 1).saturating_sub(row) / 2);
                Area { row, step: 2, rows, col: q % 2 * n + j, cols: width }
            };
            for (s, product) in PRODUCTS.iter().enumerate() {
                let b = &self.b[s * len(n, terms) + j / COLS * panel..][..panel];
                let a = Mat::strided(&a[s * terms..], pairs.len(), terms, each);
                // The panel of the next product, or of the next columns.
                let after = match s + 1 < PRODUCTS.len() {
                    true => (s + 1) * len(n, terms) + j / COLS * panel,
                    false => (j / COLS + 1) * panel,
                };
                let mut next = blocked::shares(&self.b[after..], panel, pairs.len().div_ceil(ROWS));
                for i in (0..pairs.len()).step_by(ROWS) {
                    let height = ROWS.min(pairs.len() - i);
                    let next = next.next().unwrap_or_default();
                    let a = Rows::InPlace(a.part(i..i + height, 0..terms));
                    let place = |(sums, usage): (&mut [f32; PAIRS * COLS], Option<Use>)| {
                        let start = sums[i * COLS..][..ROWS * COLS].as_mut_ptr();
                        usage.map(|usage| Place { start, stride: COLS, usage })
                    };
                    let mut places = sums.0.iter_mut().zip(product.out).filter_map(place);
                    let one = places.next().expect("every product is used");
                    let size = Size { rows: height, cols: width };
                    // SAFETY: AVX-512 is available, both panels have this many terms, and the sums
                    // room for a panel's rows and columns.
                    unsafe {
                        match places.next() {
                            Some(two) => avx512::multiply(a, b, terms, size, &[one, two], next),
                            None => avx512::multiply(a, b, terms, size, &[one], next),
                        }
                    }
                }
            }
            for (q, sums) in sums.0.iter().enumerate() {
                // SAFETY: by this function's contract.
                unsafe { blocked::store(sums, COLS, &area(q, 0, pairs.len()), target, self.ends) };
            }
        }
    }
}
