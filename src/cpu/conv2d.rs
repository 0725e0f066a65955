//! Convolution on the host: patches gathered into a matrix, then a product.

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Activation, Epilogue, Mat, Rhs, Threads, gemm};

/// Rows and columns of zeros around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// As much on every side.
    pub fn all(size: usize) -> Self {
        Self { top: size, bottom: size, left: size, right: size }
    }

    /// TensorFlow's "SAME" for an image of `size` = (height, width): ⌈size/stride⌉ outputs along
    /// each axis, an odd row or column of zeros going below or to the right.
    pub fn same(size: [usize; 2], kernel: [usize; 2], stride: usize) -> Self {
        let stride = stride.max(1);
        let total = |axis: usize| {
            let reach = (size[axis].div_ceil(stride).max(1) - 1) * stride;
            reach.saturating_add(kernel[axis]).saturating_sub(size[axis])
        };
        let (rows, columns) = (total(0), total(1));
        Self {
            top: rows / 2,
            bottom: rows - rows / 2,
            left: columns / 2,
            right: columns - columns / 2,
        }
    }
}

/// How a kernel moves over one image: sizes are (height, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: usize,
    pub top: usize,
    pub left: usize,
}

impl Window {
    /// None if the kernel does not fit into the padded image.
    pub fn new(
        input: [usize; 2],
        kernel: [usize; 2],
        stride: usize,
        padding: Padding,
    ) -> Option<Self> {
        let places = |axis: usize, before: usize, after: usize| {
            let padded = input[axis].checked_add(before)?.checked_add(after)?;
            if kernel[axis] == 0 || stride == 0 || input[axis] == 0 {
                return None;
            }
            // Offsets are computed in isize.
            isize::try_from(padded).ok()?;
            Some(padded.checked_sub(kernel[axis])? / stride + 1)
        };
        let output =
            [places(0, padding.top, padding.bottom)?, places(1, padding.left, padding.right)?];
        Some(Self { input, output, kernel, stride, top: padding.top, left: padding.left })
    }

    /// The window of a TensorFlow "SAME" convolution with a square kernel.
    pub fn same(input: [usize; 2], kernel: usize, stride: usize) -> Self {
        let padding = Padding::same(input, [kernel; 2], stride);
        Self::new(input, [kernel; 2], stride, padding).expect("SAME padding makes the kernel fit")
    }

    /// The input row under kernel row `ky` at output row `oy`, if there is one.
    pub fn input_row(&self, oy: usize, ky: usize) -> Option<usize> {
        (oy * self.stride + ky).checked_sub(self.top).filter(|&y| y < self.input[0])
    }

    /// The input rows that output rows `rows` read.
    pub fn input_rows(&self, rows: Range<usize>) -> Range<usize> {
        let start = (rows.start * self.stride).saturating_sub(self.top).min(self.input[0]);
        let end = (rows.end.saturating_sub(1) * self.stride + self.kernel[0])
            .saturating_sub(self.top)
            .min(self.input[0]);
        start..end.max(start)
    }

    /// Whether the kernel is a single pixel and meets every pixel once.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.output == self.input
    }
}

/// A convolution of one image: y = activation(conv(x) + bias).
#[derive(Clone, Copy)]
pub(crate) struct Conv<'a> {
    pub window: Window,
    /// Input and output channels.
    pub channels: [usize; 2],
    /// (kernel height · kernel width · input channels) rows of output channels.
    pub weight: Rhs<'a>,
    pub bias: &'a [f32],
    pub activation: Activation,
}

/// Numbers in the matrix of patches of one block of rows: 256 KB, which stays in a core's cache.
const PATCHES: usize = 1 << 16;

impl Conv<'_> {
    /// Numbers of one patch.
    pub fn patch(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1] * self.channels[0]
    }

    /// Output rows whose patches are gathered at a time.
    pub fn block_rows(&self) -> usize {
        let row = self.window.output[1] * self.patch();
        (PATCHES / row.max(1)).clamp(1, self.window.output[0].max(1))
    }

    /// Output rows `rows` of image `x` into `y`; `patches` is kept between calls.
    pub fn rows(&self, x: &[f32], rows: Range<usize>, patches: &mut Vec<f32>, y: &mut [f32]) {
        let [ci, co] = self.channels;
        let width = self.window.output[1];
        let epilogue = || Epilogue {
            bias: Some(self.bias),
            activation: self.activation,
            ..Epilogue::default()
        };
        if self.window.is_pointwise() {
            let pixels = rows.len() * width;
            let a = Mat::new(&x[rows.start * width * ci..][..pixels * ci], pixels, ci);
            return gemm(a, self.weight, y, co, epilogue(), Threads::One);
        }
        let block = self.block_rows();
        for start in rows.clone().step_by(block) {
            let part = start..(start + block).min(rows.end);
            let pixels = part.len() * width;
            let y = &mut y[(start - rows.start) * width * co..][..pixels * co];
            let a = self.gather(x, part, patches);
            gemm(a, self.weight, y, co, epilogue(), Threads::One);
        }
    }

    /// The patches under output rows `rows`, one a row, zero where they leave the image.
    fn gather<'p>(&self, x: &[f32], rows: Range<usize>, patches: &'p mut Vec<f32>) -> Mat<'p> {
        let (w, patch) = (&self.window, self.patch());
        let pixels = rows.len() * w.output[1];
        if patches.len() < pixels * patch {
            patches.resize(pixels * patch, 0.0);
        }
        let patches = &mut patches[..pixels * patch];
        for (row, out) in rows.zip(patches.chunks_exact_mut(w.output[1] * patch)) {
            for ky in 0..w.kernel[0] {
                let source = w.input_row(row, ky).map(|y| {
                    let row = w.input[1] * self.channels[0];
                    &x[y * row..][..row]
                });
                self.gather_row(source.unwrap_or(&[]), ky, out);
            }
        }
        Mat::new(patches, pixels, patch)
    }

    /// Kernel row `ky` of the patches of one output row; `source` is empty above and below the image.
    fn gather_row(&self, source: &[f32], ky: usize, out: &mut [f32]) {
        let (w, ci) = (&self.window, self.channels[0]);
        let segment = w.kernel[1] * ci;
        for (ox, patch) in out.chunks_exact_mut(self.patch()).enumerate() {
            let to = &mut patch[ky * segment..][..segment];
            let (clip, columns) = self.columns(ox);
            match source.get(columns.start * ci..columns.end * ci) {
                Some(from) if from.len() == segment => to.copy_from_slice(from),
                Some(from) => {
                    to.fill(0.0);
                    to[clip * ci..][..from.len()].copy_from_slice(from);
                }
                None => to.fill(0.0),
            }
        }
    }

    /// The input columns under output column `ox`, and how many kernel columns lie left of the image.
    fn columns(&self, ox: usize) -> (usize, Range<usize>) {
        let w = &self.window;
        let clip = w.left.saturating_sub(ox * w.stride).min(w.kernel[1]);
        let start = (ox * w.stride + clip).saturating_sub(w.left).min(w.input[1]);
        let end = (ox * w.stride + w.kernel[1]).saturating_sub(w.left).min(w.input[1]);
        (clip, start..end.max(start))
    }
}

/// Images one after another in `x` and `y`.
pub(crate) fn conv2d(conv: &Conv, x: &[f32], y: &mut [f32]) {
    let [h, w] = conv.window.input;
    let [oh, ow] = conv.window.output;
    let (x_len, row) = (h * w * conv.channels[0], ow * conv.channels[1]);
    let block = conv.block_rows();
    if row == 0 {
        return;
    }
    // Blocks of rows of all images, each on a thread of its own.
    y.par_chunks_mut(oh * row).zip(x.par_chunks(x_len.max(1))).for_each(|(y, x)| {
        y.par_chunks_mut(block * row).enumerate().for_each_init(Vec::new, |patches, (i, y)| {
            let start = i * block;
            conv.rows(x, start..start + y.len() / row, patches, y);
        });
    });
}
