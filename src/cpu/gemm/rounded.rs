//! Products of codes of eight bits and of rounded numbers on processors without a unit of [`super`] that multiplies them:
//! of the numbers that they stand for, in f32.

use half::bf16;
use rayon::prelude::*;

use super::{Epilogue, Mat, Threads, finish, portable};
use crate::cpu::quantise;
use crate::types::{EightBits, Products};

/// The most terms whose sum of products of integers is exact in f32, in which 2²⁴ is.
const EXACT: usize = (1 << 24) / (128 * 128);

/// Rows of numbers that codes stand for, and a scale of each row, or one of all.
pub(crate) struct Decoded {
    numbers: Vec<f32>,
    scales: Vec<f32>,
    rows: usize,
    terms: usize,
}

impl Decoded {
    /// Those of codes with so many `terms` to a row.
    pub fn new(format: EightBits, codes: &[u8], scales: &[f32], rows: usize, terms: usize) -> Self {
        let numbers = codes.par_iter().map(|&code| format.decode(code)).collect();
        Self { numbers, scales: scales.to_vec(), rows, terms }
    }

    /// Those of what a matrix becomes, row by row.
    fn of(products: Products, x: Mat) -> Self {
        let at = |i: usize| x.data[i / x.cols * x.row_stride + i % x.cols * x.col_stride];
        let numbers = (0..x.rows * x.cols).into_par_iter().map(at);
        let Some(format) = products.eight_bits() else {
            let numbers = numbers.map(|x| bf16::from_f32(x).to_f32()).collect();
            return Self { numbers, scales: vec![1.0], rows: x.rows, terms: x.cols };
        };
        let numbers: Vec<_> = numbers.collect();
        let (mut codes, mut scales) = (vec![0; numbers.len()], vec![1.0; x.rows]);
        if x.rows > 0 {
            quantise(&numbers, format, &mut codes, &mut scales, x.cols);
        }
        Self::new(format, &codes, &scales, x.rows, x.cols)
    }

    fn mat(&self) -> Mat<'_> {
        Mat::new(&self.numbers, self.rows, self.terms)
    }

    fn scale(&self, row: usize) -> f32 {
        self.scales[if self.scales.len() == 1 { 0 } else { row }]
    }
}

/// The product of rows of `x` and of `w`, times the scales of both. Sums of integers are exact, and rounded once.
pub(crate) fn multiply(products: Products, x: &Decoded, w: &Decoded) -> Vec<f32> {
    let (rows, cols, terms) = (x.rows, w.rows, x.terms);
    let mut product = vec![0.0; rows * cols];
    if product.is_empty() {
        return product;
    }
    let add_span = |start: usize, end: usize, out: &mut [f32]| {
        let [x, w] = [x, w].map(|of| Mat {
            data: of.numbers.get(start..).unwrap_or_default(),
            cols: end - start,
            ..of.mat()
        });
        portable(x, w.t(), out, cols, Epilogue::default(), Threads::All);
    };
    if products != Products::Int8 || terms <= EXACT {
        add_span(0, terms, &mut product);
    } else {
        let mut sums = vec![0i64; product.len()];
        for start in (0..terms).step_by(EXACT) {
            add_span(start, terms.min(start + EXACT), &mut product);
            sums.iter_mut().zip(&product).for_each(|(sum, &x)| *sum += x as i64);
        }
        product.iter_mut().zip(sums).for_each(|(product, sum)| *product = sum as f32);
    }
    product.par_chunks_exact_mut(cols).enumerate().for_each(|(i, row)| {
        row.iter_mut().enumerate().for_each(|(j, y)| *y *= x.scale(i) * w.scale(j));
    });
    product
}

/// A right-hand side.
pub(crate) struct Packed(Products, Decoded);

impl Packed {
    pub fn new(products: Products, b: Mat) -> Self {
        Self(products, Decoded::of(products, b.t()))
    }

    pub fn shape(&self) -> (usize, usize) {
        (self.1.terms, self.1.rows)
    }
}

/// The product of [`super::gemm`], whose checks have passed.
pub(super) fn gemm(a: Mat, b: &Packed, out: &mut [f32], stride: usize, epilogue: Epilogue) {
    let Packed(products, b) = b;
    let product = multiply(*products, &Decoded::of(*products, a), b);
    let n = b.rows;
    for (out, product) in out.chunks_mut(stride).zip(product.chunks_exact(n)) {
        match epilogue.accumulate {
            true => out.iter_mut().zip(product).for_each(|(out, x)| *out += x),
            false => out[..n].copy_from_slice(product),
        }
    }
    finish(out, stride, (a.rows, n), epilogue);
}
