//! Matrix products on the host.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod blocked;
#[cfg(target_arch = "x86_64")]
mod dot;
pub(super) mod rounded;
#[cfg(target_arch = "x86_64")]
mod strassen;
#[cfg(target_arch = "x86_64")]
mod vnni;

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::add::add_to;
use super::math::{lower_tail, sigmoid};
#[cfg(target_arch = "x86_64")]
use crate::processor;
use crate::processor::Unit;
use crate::types::Products;

/// A matrix read through strides, in elements.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A contiguous row-major matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows are `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len());
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Some rows and columns of it.
    #[cfg(target_arch = "x86_64")]
    fn part(self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) -> Self {
        // Nothing may be left after the last number.
        let start = rows.start * self.row_stride + cols.start * self.col_stride;
        let start = start.min(self.data.len());
        Self { data: &self.data[start..], rows: rows.len(), cols: cols.len(), ..self }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// What is applied to each element of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// GELU in its tanh form.
    Gelu,
    /// GELU itself, x·Φ(x) with the normal distribution Φ(x) = ½(1 + erf(x/√2)).
    GeluErf,
    /// min(max(x, 0), 6).
    Relu6,
    /// x·σ(x), also called swish.
    Silu,
}

impl Activation {
    /// Applies it to every element.
    pub(crate) fn apply_all(self, x: &mut [f32]) {
        apply_all(self, x);
    }

    /// The same, compiled for the processor that the caller is compiled for.
    #[inline(always)]
    pub(crate) fn apply_inline<const FMA: bool>(self, x: &mut [f32]) {
        match self {
            Activation::None => {}
            Activation::Gelu => x.iter_mut().for_each(|x| *x = gelu::<FMA>(*x)),
            Activation::GeluErf => x.iter_mut().for_each(|x| *x = gelu_erf::<FMA>(*x)),
            Activation::Relu6 => x.iter_mut().for_each(|x| *x = x.clamp(0.0, 6.0)),
            Activation::Silu => x.iter_mut().for_each(|x| *x *= sigmoid::<FMA>(*x)),
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn apply_all(activation: Activation, x: &mut [f32]) {
    activation.apply_inline::<{ target_cfg_f!(target_feature = "fma") }>(x);
}

/// GELU in its tanh form, ½x(1 + tanh u) = x·σ(2u) with u = √(2/π)(x + 0.044715x³).
#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    x * sigmoid::<FMA>(2.0 * GELU_SCALE * (x + 0.044_715 * x * x * x))
}

/// GELU with the error function, as max(x, 0) − |x|·Φ(−|x|), in which nothing cancels where x is negative.
#[inline(always)]
fn gelu_erf<const FMA: bool>(x: f32) -> f32 {
    let positive = if x < 0.0 { 0.0 } else { x };
    // From here on Φ is 0 in f32, and ∞ times it would be NaN.
    let size = x.abs().min(14.0);
    positive - size * lower_tail::<FMA>(size)
}

/// √(2/π).
const GELU_SCALE: f32 = 0.797_884_6;

/// x ← x∘GELU′(at).
#[inline(always)]
fn multiply_gelu_slope<const FMA: bool>(at: &[f32], x: &mut [f32]) {
    for (x, &at) in x.iter_mut().zip(at) {
        // GELU = z·σ(2u), u = √(2/π)(z + 0.044715z³).
        let s = sigmoid::<FMA>(2.0 * GELU_SCALE * (at + 0.044_715 * at * at * at));
        let slope = 2.0 * GELU_SCALE * (1.0 + 3.0 * 0.044_715 * at * at);
        *x *= s + at * (s * (1.0 - s)) * slope;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn multiply_gelu_slope_all(at: &[f32], x: &mut [f32]) {
    multiply_gelu_slope::<{ target_cfg_f!(target_feature = "fma") }>(at, x);
}

/// What happens to a product before it is stored: out = activation(a·b + bias), out += a·b + bias, or
/// out = (a·b)∘GELU′(gelu_input).
#[derive(Default)]
pub(crate) struct Epilogue<'a> {
    /// One number per column.
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
    /// Receives a·b + bias, as laid out as `out`.
    pub before_activation: Option<&'a mut [f32]>,
    /// Where GELU′ is taken, as laid out as `out`; without the other fields.
    pub gelu_input: Option<&'a [f32]>,
    /// Adds to `out`; without an activation.
    pub accumulate: bool,
}

/// Whether a product is split over rayon's threads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    All,
}

impl Threads {
    /// How many there are.
    #[cfg(target_arch = "x86_64")]
    fn count(self) -> usize {
        match self {
            Threads::One => 1,
            Threads::All => rayon::current_num_threads(),
        }
    }

    /// The tasks to make at least, so that every thread has some.
    #[cfg(target_arch = "x86_64")]
    fn tasks(self) -> usize {
        match self {
            Threads::One => 1,
            Threads::All => 2 * self.count(),
        }
    }
}

/// Each number becomes three for AMX, which pays from so many rows and columns of b on.
const AMX_FROM: usize = 128;

/// What computes a product with a right-hand side of this shape, whatever the other's: a row of a product does not
/// depend on how many there are.
fn unit(rows: usize, cols: usize) -> Unit {
    match Unit::fastest() {
        Unit::Amx if rows.min(cols) < AMX_FROM => Unit::Avx512,
        fastest => fastest,
    }
}

/// A right-hand side that is used again and again, in the layout that the product wants.
pub(crate) enum Packed {
    #[cfg(target_arch = "x86_64")]
    Amx(blocked::Packed<amx::Tiles<3>>),
    #[cfg(target_arch = "x86_64")]
    AmxCodes(blocked::Packed<amx::Tiles<1>>),
    #[cfg(target_arch = "x86_64")]
    AmxBf16(blocked::Packed<amx::Halves>),
    #[cfg(target_arch = "x86_64")]
    Vnni(blocked::Packed<vnni::Codes>),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(blocked::Packed<bf16::Pairs>),
    Rounded(rounded::Packed),
    #[cfg(target_arch = "x86_64")]
    Avx512(blocked::Packed<avx512::Registers>),
    #[cfg(target_arch = "x86_64")]
    Strassen(strassen::Packed),
    /// Row-major.
    Plain {
        data: Vec<f32>,
        rows: usize,
        cols: usize,
    },
}

impl Packed {
    pub fn new(b: Mat) -> Self {
        Self::of(unit(b.rows, b.cols), b)
    }

    fn of(unit: Unit, b: Mat) -> Self {
        let mut packed = Self::empty();
        packed.set_of(unit, b, Threads::All);
        packed
    }

    /// One for products of an a whose rows belong together in pairs, 2i and 2i + 1: the rounding of a
    /// row may depend on its partner.
    pub fn in_pairs(b: Mat) -> Self {
        Self::in_pairs_of(unit(b.rows, b.cols), b)
    }

    /// The same for a unit that there is.
    pub fn in_pairs_of(unit: Unit, b: Mat) -> Self {
        #[cfg(target_arch = "x86_64")]
        if unit == Unit::Avx512 && strassen::pays(b.rows, b.cols) {
            return Packed::Strassen(strassen::Packed::new(b));
        }
        Self::of(unit, b)
    }

    /// One for products of other numbers, by a scale of each column where they are codes; the rows of a become the same.
    pub fn with_products(products: Products, b: Mat) -> Self {
        #[cfg(target_arch = "x86_64")]
        match (products, Unit::widest()) {
            (Products::Int8, Unit::Amx) if b.rows <= amx::MOST_CODES => {
                return Packed::AmxCodes(blocked::Packed::new(b));
            }
            (Products::Int8, Unit::Amx | Unit::Avx512)
                if processor::has_vnni() && b.rows <= vnni::MOST_TERMS =>
            {
                return Packed::Vnni(blocked::Packed::new(b));
            }
            (Products::Bf16, Unit::Amx) => return Packed::AmxBf16(blocked::Packed::new(b)),
            (Products::Bf16, Unit::Avx512) if processor::has_bf16() => {
                return Packed::Avx512Bf16(blocked::Packed::new(b));
            }
            _ => {}
        }
        Packed::Rounded(rounded::Packed::new(products, b))
    }

    /// One that is still to be [`set`](Packed::set).
    pub fn empty() -> Self {
        Packed::Plain { data: Vec::new(), rows: 0, cols: 0 }
    }

    /// Packs another matrix, in the memory that is there if it is large enough and of the same unit.
    pub fn set(&mut self, b: Mat, threads: Threads) {
        self.set_of(unit(b.rows, b.cols), b, threads);
    }

    fn set_of(&mut self, unit: Unit, b: Mat, threads: Threads) {
        match (unit, self) {
            #[cfg(target_arch = "x86_64")]
            (Unit::Amx, Packed::Amx(packed)) => packed.set(b, threads),
            #[cfg(target_arch = "x86_64")]
            (Unit::Amx, other) => {
                let mut packed = blocked::Packed::default();
                packed.set(b, threads);
                *other = Packed::Amx(packed);
            }
            #[cfg(target_arch = "x86_64")]
            (Unit::Avx512, Packed::Avx512(packed)) => packed.set(b, threads),
            #[cfg(target_arch = "x86_64")]
            (Unit::Avx512, other) => {
                let mut packed = blocked::Packed::default();
                packed.set(b, threads);
                *other = Packed::Avx512(packed);
            }
            (_, Packed::Plain { data, rows, cols }) => {
                (*rows, *cols) = (b.rows, b.cols);
                let at = |i| b.data[i / b.cols * b.row_stride + i % b.cols * b.col_stride];
                data.clear();
                let all = 0..b.rows * b.cols;
                match threads {
                    Threads::One => data.extend(all.map(at)),
                    Threads::All => data.par_extend(all.into_par_iter().map(at)),
                }
            }
            #[cfg(target_arch = "x86_64")]
            (Unit::Portable, _) => unreachable!("with this unit all are plain"),
        }
    }
}

/// A right-hand side.
#[derive(Clone, Copy)]
pub(crate) enum Rhs<'a> {
    Mat(Mat<'a>),
    Packed(&'a Packed),
}

impl<'a> From<Mat<'a>> for Rhs<'a> {
    fn from(b: Mat<'a>) -> Self {
        Rhs::Mat(b)
    }
}

impl<'a> From<&'a Packed> for Rhs<'a> {
    fn from(b: &'a Packed) -> Self {
        Rhs::Packed(b)
    }
}

impl Rhs<'_> {
    fn shape(&self) -> (usize, usize) {
        match self {
            Rhs::Mat(b) => (b.rows, b.cols),
            #[cfg(target_arch = "x86_64")]
            Rhs::Packed(Packed::Amx(b)) => (b.rows(), b.cols()),
            #[cfg(target_arch = "x86_64")]
            Rhs::Packed(Packed::AmxCodes(b)) => (b.rows(), b.cols()),
            #[cfg(target_arch = "x86_64")]
            Rhs::Packed(Packed::AmxBf16(b)) => (b.rows(), b.cols()),
            #[cfg(target_arch = "x86_64")]
            Rhs::Packed(Packed::Vnni(b)) => (b.rows(), b.cols()),
            #[cfg(target_arch = "x86_64")]
            Rhs::Packed(Packed::Avx512Bf16(b)) => (b.rows(), b.cols()),
            Rhs::Packed(Packed::Rounded(b)) => b.shape(),
            #[cfg(target_arch = "x86_64")]
            Rhs::Packed(Packed::Avx512(b)) => (b.rows(), b.cols()),
            #[cfg(target_arch = "x86_64")]
            Rhs::Packed(Packed::Strassen(b)) => (b.rows(), b.cols()),
            Rhs::Packed(Packed::Plain { rows, cols, .. }) => (*rows, *cols),
        }
    }
}

/// out = a·b, with `epilogue`. The rows of `out` are `out_stride` apart.
///
/// Each element is summed in an order that depends on the shapes alone.
pub(crate) fn gemm<'a>(
    a: Mat,
    b: impl Into<Rhs<'a>>,
    out: &mut [f32],
    out_stride: usize,
    epilogue: Epilogue,
    threads: Threads,
) {
    let b = b.into();
    let (m, k, (b_rows, n)) = (a.rows, a.cols, b.shape());
    assert_eq!(k, b_rows, "gemm: inner sizes");
    if m == 0 || n == 0 {
        return;
    }
    let needed = (m - 1) * out_stride + n;
    assert!(n <= out_stride && needed <= out.len(), "gemm: output");
    assert!(epilogue.bias.is_none_or(|b| b.len() == n), "gemm: bias");
    assert!(epilogue.before_activation.as_ref().is_none_or(|x| needed <= x.len()), "gemm: aux");
    assert!(epilogue.gelu_input.is_none_or(|x| needed <= x.len()), "gemm: gelu_input");
    debug_assert!(!(epilogue.accumulate && epilogue.activation != Activation::None));
    match b {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: there is a packed matrix of a unit only where the unit is available.
        Rhs::Packed(Packed::Amx(b)) => unsafe {
            blocked::gemm(a, blocked::Rhs::Packed(b), out, out_stride, epilogue, threads);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Rhs::Packed(Packed::AmxCodes(b)) => unsafe {
            blocked::gemm(a, blocked::Rhs::Packed(b), out, out_stride, epilogue, threads);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Rhs::Packed(Packed::AmxBf16(b)) => unsafe {
            blocked::gemm(a, blocked::Rhs::Packed(b), out, out_stride, epilogue, threads);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Rhs::Packed(Packed::Vnni(b)) => unsafe {
            blocked::gemm(a, blocked::Rhs::Packed(b), out, out_stride, epilogue, threads);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Rhs::Packed(Packed::Avx512Bf16(b)) => unsafe {
            blocked::gemm(a, blocked::Rhs::Packed(b), out, out_stride, epilogue, threads);
        },
        Rhs::Packed(Packed::Rounded(b)) => rounded::gemm(a, b, out, out_stride, epilogue),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Rhs::Packed(Packed::Avx512(b)) => unsafe {
            blocked::gemm(a, blocked::Rhs::Packed(b), out, out_stride, epilogue, threads);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Rhs::Packed(Packed::Strassen(b)) => unsafe {
            strassen::gemm(a, b, out, out_stride, epilogue, threads);
        },
        // Packing costs about as much as 32 rows of a product.
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the unit is available.
        Rhs::Mat(b) if m.min(n) >= 32 && unit(k, n) == Unit::Amx => unsafe {
            let b = blocked::Rhs::<amx::Tiles<3>>::Mat(b);
            blocked::gemm(a, b, out, out_stride, epilogue, threads);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the unit is available.
        Rhs::Mat(b) if m.min(n) >= 32 && unit(k, n) == Unit::Avx512 => unsafe {
            let b = blocked::Rhs::<avx512::Registers>::Mat(b);
            blocked::gemm(a, b, out, out_stride, epilogue, threads);
        },
        Rhs::Mat(b) => portable(a, b, out, out_stride, epilogue, threads),
        Rhs::Packed(Packed::Plain { data, rows, cols }) => {
            portable(a, Mat::new(data, *rows, *cols), out, out_stride, epilogue, threads)
        }
    }
}

/// The product of [`gemm`], whose checks have passed, by the `gemm` crate.
fn portable(a: Mat, b: Mat, out: &mut [f32], stride: usize, epilogue: Epilogue, threads: Threads) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: `Mat`'s constructors keep every element that the strides reach within its slice,
    // `gemm` checked the output, and `out` is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            epilogue.accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
    finish(out, stride, (m, n), epilogue);
}

/// What an epilogue does with a product that is in its place, or was added there.
fn finish(out: &mut [f32], stride: usize, (m, n): (usize, usize), epilogue: Epilogue) {
    let Epilogue { bias, activation, before_activation, gelu_input, .. } = epilogue;
    if let Some(at) = gelu_input {
        let rows = out.par_chunks_mut(stride).zip(at.par_chunks(stride));
        rows.take(m).for_each(|(row, at)| multiply_gelu_slope_all(&at[..n], &mut row[..n]));
        return;
    }
    let finish = |(row, pre): (&mut [f32], Option<&mut [f32]>)| {
        let row = &mut row[..n];
        if let Some(bias) = bias {
            add_to(row, bias);
        }
        if let Some(pre) = pre {
            pre[..n].copy_from_slice(row);
        }
        activation.apply_all(row);
    };
    let len = (m - 1) * stride + n;
    let rows = out[..len].par_chunks_mut(stride);
    match before_activation {
        Some(pre) => rows.zip(pre[..len].par_chunks_mut(stride).map(Some)).for_each(finish),
        None if bias.is_none() && activation == Activation::None => {}
        None => rows.map(|row| (row, None)).for_each(finish),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u32, n: usize) -> Vec<f32> {
        let mut x = seed.wrapping_mul(2_654_435_769) | 1;
        (0..n)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 17;
                x ^= x << 5;
                x as f32 / (1u32 << 31) as f32 - 1.0
            })
            .collect()
    }

    fn transposed(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
    }

    /// Every layout, epilogue and path against sums in f64.
    #[test]
    fn follows_f64() {
        for (m, k, n) in [(1, 1, 1), (3, 70, 45), (33, 31, 33), (130, 1100, 290), (64, 2049, 32)] {
            let (a, b, bias) = (numbers(1, m * k), numbers(2, k * n), numbers(3, n));
            let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
            let start = numbers(4, m * (n + 3));
            let product = |i: usize, j: usize| -> f64 {
                (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum()
            };
            for (a_t, b_t, packed, threads) in [
                (false, false, false, Threads::All),
                (true, false, true, Threads::One),
                (false, true, false, Threads::One),
                (true, true, true, Threads::All),
            ] {
                let am = if a_t { Mat::new(&at, k, m).t() } else { Mat::new(&a, m, k) };
                let bm = if b_t { Mat::new(&bt, n, k).t() } else { Mat::new(&b, k, n) };
                let pack = packed.then(|| Packed::new(bm));
                let rhs = pack.as_ref().map_or(Rhs::Mat(bm), Rhs::Packed);
                let mut out = start.clone();
                let epilogue = Epilogue { accumulate: true, ..Default::default() };
                gemm(am, rhs, &mut out, n + 3, epilogue, threads);
                let (mut pre, mut act) = (vec![f32::NAN; m * (n + 3)], vec![f32::NAN; m * (n + 3)]);
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    activation: Activation::Gelu,
                    before_activation: Some(&mut pre),
                    ..Default::default()
                };
                gemm(am, rhs, &mut act, n + 3, epilogue, threads);
                let tolerance = 1.3e-6 * (k as f64).sqrt();
                for i in 0..m {
                    for (j, &bias) in bias.iter().enumerate() {
                        let (at, p) = (i * (n + 3) + j, product(i, j));
                        let check = |got: f32, want: f64| {
                            let case = format!("{m}x{k}x{n} {a_t} {b_t} {packed} [{i},{j}]");
                            assert!(
                                (f64::from(got) - want).abs() <= tolerance,
                                "{case} {got} {want}"
                            );
                        };
                        check(out[at], p + f64::from(start[at]));
                        let x = p + f64::from(bias);
                        check(pre[at], x);
                        let cube = 0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x);
                        check(act[at], 0.5 * x * (1.0 + cube.tanh()));
                    }
                }
                for i in 0..m - 1 {
                    assert_eq!(out[i * (n + 3) + n..][..3], start[i * (n + 3) + n..][..3]);
                    assert!(act[i * (n + 3) + n..][..3].iter().all(|x| x.is_nan()));
                }
            }
        }
    }

    /// An odd number of rows, sizes that are no whole panels, several blocks of terms, and more rows
    /// than are taken at once; a row depends on nothing but its partner.
    #[test]
    fn in_pairs_follows_f64() {
        let (k, n) = (1430, 650);
        let (b, bias) = (numbers(2, k * n), numbers(3, n));
        let bt = transposed(&b, k, n);
        let mut first: Option<Vec<f32>> = None;
        for (m, a_t, b_t, threads) in [
            (1076, false, true, Threads::All),
            (76, true, false, Threads::One),
            (77, false, true, Threads::One),
            (1, false, false, Threads::All),
        ] {
            let bm = if b_t { Mat::new(&bt, n, k).t() } else { Mat::new(&b, k, n) };
            let packed = Packed::in_pairs(bm);
            let a = numbers(1, m * k);
            let at = transposed(&a, m, k);
            let am = if a_t { Mat::new(&at, k, m).t() } else { Mat::new(&a, m, k) };
            let start = numbers(4, m * (n + 3));
            let mut out = start.clone();
            let epilogue = Epilogue { accumulate: true, bias: Some(&bias), ..Default::default() };
            gemm(am, &packed, &mut out, n + 3, epilogue, threads);
            for i in (0..m).step_by(37).chain([m - 1]) {
                for (j, &bias) in bias.iter().enumerate() {
                    let (a, b) = (&a[i * k..][..k], &bt[j * k..][..k]);
                    let p: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let at = i * (n + 3) + j;
                    let want = p + f64::from(bias) + f64::from(start[at]);
                    let error = (f64::from(out[at]) - want).abs();
                    assert!(error <= 3e-6 * (k as f64).sqrt(), "{m} [{i},{j}] {} {want}", out[at]);
                }
            }
            for i in 0..m - 1 {
                assert_eq!(out[i * (n + 3) + n..][..3], start[i * (n + 3) + n..][..3]);
            }
            let first = first.get_or_insert_with(|| out.clone());
            let paired = m / 2 * 2 * (n + 3);
            assert_eq!(out[..paired], first[..paired], "{m} rows");
        }
    }

    #[test]
    fn paths_agree_and_threads_do_not_matter() {
        let (m, k, n) = (97, 130, 77);
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        let run = |threads| {
            let mut out = vec![0.0; m * n];
            gemm(Mat::new(&a, m, k), Mat::new(&b, k, n), &mut out, n, Epilogue::default(), threads);
            out
        };
        assert_eq!(run(Threads::One), run(Threads::All));
        let portable = |threads| {
            let mut out = vec![0.0; m * n];
            let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
            super::portable(a, b, &mut out, n, Epilogue::default(), threads);
            out
        };
        assert_eq!(portable(Threads::One), portable(Threads::All));
        for (x, y) in run(Threads::One).iter().zip(portable(Threads::One)) {
            assert!((x - y).abs() < 1e-5, "{x} {y}");
        }
    }

    #[test]
    fn infinities_and_nan_come_through() {
        for n in [40, 130] {
            let (finite, mut odd) = (vec![1.0; n * n], vec![1.0; n * n]);
            odd[3 * n + 5] = f32::INFINITY;
            odd[7 * n] = f32::NAN;
            let product = |a, b| {
                let mut out = vec![0.0; n * n];
                gemm(a, Rhs::Mat(b), &mut out, n, Epilogue::default(), Threads::One);
                out
            };
            let (finite, odd) = (Mat::new(&finite, n, n), Mat::new(&odd, n, n));
            let (rows, cols) = (product(odd, finite), product(finite, odd.t()));
            for i in 0..n {
                for (x, row) in [(rows[i * n + 9], i), (cols[9 * n + i], i)] {
                    match row {
                        3 | 7 => assert!(!x.is_finite(), "{n} {row} {x}"),
                        _ => assert_eq!(x, n as f32, "{n} {row}"),
                    }
                }
            }
        }
    }

    /// A power of two that all numbers of a row or a column have comes out again, without rounding.
    #[test]
    fn powers_of_two_do_not_round() {
        let (m, k, n) = (35, 200, 130);
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        let power = |i: usize| 2f32.powi([0, 100, -80, 60, -12, 27][i % 6]);
        let inverse = |j: usize| 2f32.powi([0, -90, 20, -60][j % 4]);
        let product = |a: &[f32], b: &[f32]| {
            let mut out = vec![f32::NAN; m * n];
            let (a, b) = (Mat::new(a, m, k), Mat::new(b, k, n));
            gemm(a, b, &mut out, n, Epilogue::default(), Threads::One);
            out
        };
        let scaled_a: Vec<f32> = a.iter().enumerate().map(|(i, x)| x * power(i / k)).collect();
        let scaled_b: Vec<f32> = b.iter().enumerate().map(|(i, x)| x * inverse(i % n)).collect();
        let (plain, scaled) = (product(&a, &b), product(&scaled_a, &scaled_b));
        for (i, (x, y)) in plain.iter().zip(scaled).enumerate() {
            let want = f64::from(*x) * f64::from(power(i / n)) * f64::from(inverse(i % n));
            if want.abs() > 1e-30 {
                assert_eq!(f64::from(y), want, "row {} column {}", i / n, i % n);
            }
        }
    }

    /// Rows whose largest number is at the end of what three signed bytes hold, of either sign.
    #[test]
    fn largest_numbers_keep_their_digits() {
        let (k, n) = (128, 128);
        let ends = [8_355_711.0, 8_355_711.5, 8_355_712.0, 8_388_607.5, 8_388_608.0, 4_177_856.0];
        let largest: Vec<f32> = ends.iter().flat_map(|&x: &f32| [x, -x, x * 1e-40]).collect();
        let m = 2 * largest.len();
        let mut a = numbers(1, m * k);
        for (i, row) in a.chunks_exact_mut(k).enumerate() {
            let largest = largest[i % largest.len()];
            row.iter_mut().for_each(|x| *x *= largest);
            row[i] = largest;
        }
        // A permutation: each result is one number of a.
        let place = |j: usize| (j * 37 + 5) % k;
        let mut b = vec![0.0; k * n];
        (0..n).for_each(|j| b[place(j) * n + j] = 1.0);
        let mut out = vec![f32::NAN; m * n];
        let (am, bm) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
        gemm(am, bm, &mut out, n, Epilogue::default(), Threads::One);
        for (i, (row, a)) in out.chunks_exact(n).zip(a.chunks_exact(k)).enumerate() {
            let largest = largest[i % largest.len()].abs();
            // Half of a unit of 23 bits, or of the smallest number that is not subnormal.
            let tolerance = (largest * 1.2e-7).max(f32::MIN_POSITIVE);
            for (j, &x) in row.iter().enumerate() {
                let want = a[place(j)];
                assert!((x - want).abs() <= tolerance, "{largest} [{i},{j}] {x} {want}");
            }
        }
    }
}
