//! A convolution, a depthwise convolution and a pointwise one, band by band of rows, so that what
//! lies between them stays in a core's cache.

use std::ops::Range;

use rayon::prelude::*;

use super::conv2d::Conv;
use super::depthwise_conv2d::DepthwiseConv;
use super::gemm::{Epilogue, Mat, Threads, gemm};

/// y = project(depthwise(expand(x))), or x + that: the block of EfficientNet without
/// squeeze-excite. `expand` is any convolution; `project` is pointwise.
#[derive(Clone, Copy)]
pub(crate) struct InvertedResidual<'a> {
    pub expand: Conv<'a>,
    pub depthwise: DepthwiseConv<'a>,
    pub project: Conv<'a>,
    pub skip: bool,
}

/// What lies between the convolutions; kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Band {
    patches: Vec<f32>,
    expanded: Vec<f32>,
    filtered: Vec<f32>,
    strip: Vec<f32>,
}

/// Numbers of the expanded rows of one band: 512 KB.
const EXPANDED: usize = 1 << 17;

/// One image, its output's rows split evenly over `bands`, each on a thread of its own.
pub(crate) fn inverted_residual(
    block: &InvertedResidual,
    x: &[f32],
    y: &mut [f32],
    bands: &mut [Band],
) {
    let [height, width] = block.project.window.output;
    let row = width * block.project.channels[1];
    let rows = height.div_ceil(bands.len()).max(1);
    y.par_chunks_mut(rows * row).zip(bands).enumerate().for_each(|(i, (y, band))| {
        block.rows(x, i * rows..i * rows + y.len() / row, band, y);
    });
}

impl InvertedResidual<'_> {
    fn rows(&self, x: &[f32], rows: Range<usize>, band: &mut Band, y: &mut [f32]) {
        let window = &self.depthwise.window;
        let (mid, out) = (self.depthwise.channels, self.project.channels[1]);
        let (row, filtered_row) = (window.input[1] * mid, window.output[1] * mid);
        let (height, y_row) = (self.band_rows(), window.output[1] * out);
        let buffered = window.input_rows(0..height).len().max(height * window.stride)
            + window.kernel[0].max(window.stride);
        grow(&mut band.expanded, buffered * row);
        grow(&mut band.filtered, height * filtered_row);
        // The rows of the expanded image that the buffer holds.
        let mut held = 0..0;
        for start in rows.clone().step_by(height) {
            let part = start..(start + height).min(rows.end);
            let needed = window.input_rows(part.clone());
            // Rows shared with the band above move to the front; the others are computed.
            let shared = needed.start.max(held.start)..held.end.min(needed.end);
            let kept = shared.len();
            if kept > 0 {
                let from = (shared.start - held.start) * row;
                band.expanded.copy_within(from..from + kept * row, 0);
            }
            let new = needed.start + kept..needed.end;
            self.expand.rows(x, new, &mut band.patches, &mut band.expanded[kept * row..]);
            held = needed;
            let Band { expanded, strip, filtered, .. } = band;
            let filtered = &mut filtered[..part.len() * filtered_row];
            self.depthwise.rows(expanded, held.start, part.clone(), strip, filtered);
            let y = &mut y[(start - rows.start) * y_row..][..part.len() * y_row];
            if self.skip {
                y.copy_from_slice(&x[part.start * y_row..part.end * y_row]);
            }
            let epilogue = Epilogue {
                bias: Some(self.project.bias),
                activation: self.project.activation,
                accumulate: self.skip,
                ..Epilogue::default()
            };
            let pixels = part.len() * window.output[1];
            let filtered = Mat::new(filtered, pixels, mid);
            gemm(filtered, self.project.weight, y, out, epilogue, Threads::One);
        }
    }

    /// Output rows of one band: from the shapes alone, whatever the number of threads.
    fn band_rows(&self) -> usize {
        let window = &self.depthwise.window;
        let fit = EXPANDED / (window.input[1] * self.depthwise.channels).max(1);
        (fit.saturating_sub(window.kernel[0]) / window.stride).clamp(1, window.output[0].max(1))
    }
}

fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::conv2d::Window;
    use crate::cpu::gemm::{Activation, Packed, Rhs};
    use crate::cpu::{conv2d, depthwise_conv2d};

    fn numbers(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7 + seed) as f32 * 0.613).sin()).collect()
    }

    /// Several bands, a last one that is shorter, and any number of threads, against the three
    /// convolutions one after another.
    #[test]
    fn bands_do_not_show() {
        for (size, kernel, stride, [c, mid, out], skip, stem) in [
            ([128, 128], 3, 2, [16, 96, 24], false, false),
            ([41, 64], 3, 1, [8, 144, 8], true, false),
            ([37, 50], 5, 2, [6, 112, 9], false, false),
            ([33, 64], 5, 1, [4, 200, 4], true, false),
            ([50, 131], 3, 2, [3, 48, 5], false, true),
            ([3, 3], 5, 1, [2, 2, 2], true, false),
        ] {
            let (k, s) = if stem { (3, 2) } else { (1, 1) };
            let first = Window::same(size, k, s);
            let second = Window::same(first.output, kernel, stride);
            let weight = numbers(1, k * k * c * mid);
            let (taps, last) = (numbers(2, kernel * kernel * mid), numbers(3, mid * out));
            let (bias, last_bias) = (numbers(4, mid), numbers(5, out));
            let block = InvertedResidual {
                expand: Conv {
                    window: first,
                    channels: [c, mid],
                    weight: Rhs::Packed(&Packed::new(Mat::new(&weight, k * k * c, mid))),
                    bias: &bias,
                    activation: Activation::Relu6,
                },
                depthwise: DepthwiseConv {
                    window: second,
                    channels: mid,
                    weight: &taps,
                    bias: &bias,
                    activation: Activation::Relu6,
                },
                project: Conv {
                    window: Window::same(second.output, 1, 1),
                    channels: [mid, out],
                    weight: Rhs::Packed(&Packed::new(Mat::new(&last, mid, out))),
                    bias: &last_bias,
                    activation: Activation::None,
                },
                skip,
            };
            let x = numbers(6, size[0] * size[1] * c);
            let mut expanded = vec![f32::NAN; first.output[0] * first.output[1] * mid];
            let mut filtered = vec![f32::NAN; second.output[0] * second.output[1] * mid];
            let mut want = vec![f32::NAN; second.output[0] * second.output[1] * out];
            conv2d(&block.expand, &x, &mut expanded);
            depthwise_conv2d(&block.depthwise, &expanded, &mut filtered);
            conv2d(&block.project, &filtered, &mut want);
            if skip {
                want.iter_mut().zip(&x).for_each(|(y, x)| *y += x);
            }
            let run = |threads| {
                // What a band holds from before must not be read.
                let used = || vec![f32::NAN; 1 << 16];
                let band =
                    || Band { patches: used(), expanded: used(), strip: used(), filtered: used() };
                let mut bands: Vec<Band> = (0..threads).map(|_| band()).collect();
                let mut y = vec![f32::NAN; want.len()];
                inverted_residual(&block, &x, &mut y, &mut bands);
                y
            };
            let one = run(1);
            let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (got, want) in one.iter().zip(&want) {
                assert!((got - want).abs() <= 2e-6 * largest, "{size:?}: {got} {want}");
            }
            assert!(one == run(2) && one == run(3) && one == run(60), "{size:?}");
        }
    }
}
