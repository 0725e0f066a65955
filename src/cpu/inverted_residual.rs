//! A convolution, a depthwise convolution and a pointwise one, band by band of rows, so that what
//! lies between them stays in a core's cache; with a gate between the last two that depends on the whole image, what the
//! depthwise convolution makes of it is kept until then.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use super::conv2d::Conv;
use super::depthwise_conv2d::DepthwiseConv;
use super::gemm::{Epilogue, Mat, Threads, gemm};
use super::math::{dot, sigmoid};

/// y = project(gate ∘ depthwise(expand(x))), or x + that: the block of EfficientNet. `expand` is any convolution, or there
/// is none; `project` is pointwise; without `squeeze_excite` there is no gate.
#[derive(Clone, Copy)]
pub(crate) struct InvertedResidual<'a> {
    pub expand: Option<Conv<'a>>,
    pub depthwise: DepthwiseConv<'a>,
    pub squeeze_excite: Option<SqueezeExcite<'a>>,
    pub project: Conv<'a>,
    pub skip: bool,
}

/// gate = σ(expand(SiLU(reduce(mean over an image)))), a number of each channel.
#[derive(Clone, Copy)]
pub(crate) struct SqueezeExcite<'a> {
    /// Weight (R, M) and bias of the layer to R channels.
    pub reduce: [&'a [f32]; 2],
    /// Weight (R, M) and bias of the layer back.
    pub expand: [&'a [f32]; 2],
}

/// What lies between the convolutions; kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Band {
    patches: Vec<f32>,
    expanded: Vec<f32>,
    filtered: Vec<f32>,
    strip: Vec<f32>,
}

/// An image between the depthwise convolution and the gate, which depends on all of it; kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Gated {
    filtered: Vec<f32>,
    /// Sums of each row.
    sums: Vec<f32>,
    mean: Vec<f32>,
    gate: Vec<f32>,
}

/// Numbers of the expanded rows of one band: 512 KB.
const EXPANDED: usize = 1 << 17;

/// One image, its output's rows split evenly over `bands`, each on a thread of its own.
pub(crate) fn inverted_residual(
    block: &InvertedResidual,
    x: &[f32],
    y: &mut [f32],
    bands: &mut [Band],
    gated: &mut Gated,
) {
    let [height, width] = block.project.window.output;
    let [mid, out] = block.project.channels;
    let rows = height.div_ceil(bands.len()).max(1);
    let part = |i: usize| i * rows..((i + 1) * rows).min(height);
    let parts = y.par_chunks_mut(rows * width * out);
    let Some(squeeze_excite) = &block.squeeze_excite else {
        return parts.zip(bands).enumerate().for_each(|(i, (y, band))| {
            block.rows(x, part(i), band, y);
        });
    };
    let Gated { filtered, sums, mean, gate } = gated;
    grow(filtered, height * width * mid);
    grow(sums, height * mid);
    let filtered = &mut filtered[..height * width * mid];
    let sums = &mut sums[..height * mid];
    let halves = filtered.par_chunks_mut(rows * width * mid).zip(sums.par_chunks_mut(rows * mid));
    halves.zip(bands).enumerate().for_each(|(i, ((filtered, sums), band))| {
        block.filtered_rows(x, part(i), band, filtered, sums);
    });
    squeeze_excite.gate(sums, height * width, mean, gate);
    let halves = parts.zip(filtered.par_chunks_mut(rows * width * mid));
    halves.enumerate().for_each(|(i, (y, filtered))| {
        block.gated_rows(x, part(i), gate, filtered, y);
    });
}

impl InvertedResidual<'_> {
    fn rows(&self, x: &[f32], rows: Range<usize>, band: &mut Band, y: &mut [f32]) {
        let [filtered_row, y_row] = self.row_lengths();
        let mut filtered = std::mem::take(&mut band.filtered);
        grow(&mut filtered, self.band_rows() * filtered_row);
        let mut held = 0..0;
        for part in self.parts(rows.clone()) {
            let filtered = &mut filtered[..part.len() * filtered_row];
            self.filter(x, part.clone(), &mut held, band, filtered);
            let y = &mut y[(part.start - rows.start) * y_row..][..part.len() * y_row];
            self.project(x, part, filtered, y);
        }
        band.filtered = filtered;
    }

    /// Rows of the depthwise convolution's output, and the sum of each over its pixels.
    fn filtered_rows(
        &self,
        x: &[f32],
        rows: Range<usize>,
        band: &mut Band,
        filtered: &mut [f32],
        sums: &mut [f32],
    ) {
        let ([row, _], mid) = (self.row_lengths(), self.depthwise.channels);
        let mut held = 0..0;
        for part in self.parts(rows.clone()) {
            let start = part.start - rows.start;
            let filtered = &mut filtered[start * row..][..part.len() * row];
            let sums = &mut sums[start * mid..][..part.len() * mid];
            self.filter(x, part, &mut held, band, filtered);
            for (sums, row) in sums.chunks_exact_mut(mid).zip(filtered.chunks_exact(row)) {
                sum_pixels(row, sums);
            }
        }
    }

    /// The output of rows that wait for their gate.
    fn gated_rows(
        &self,
        x: &[f32],
        rows: Range<usize>,
        gate: &[f32],
        filtered: &mut [f32],
        y: &mut [f32],
    ) {
        let [filtered_row, y_row] = self.row_lengths();
        for part in self.parts(rows.clone()) {
            let start = part.start - rows.start;
            let filtered = &mut filtered[start * filtered_row..][..part.len() * filtered_row];
            multiply_pixels(filtered, gate);
            self.project(x, part.clone(), filtered, &mut y[start * y_row..][..part.len() * y_row]);
        }
    }

    /// Numbers in a row that the depthwise convolution makes, and in one of the output.
    fn row_lengths(&self) -> [usize; 2] {
        self.project.channels.map(|channels| self.depthwise.window.output[1] * channels)
    }

    /// Rows in bands.
    fn parts(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let height = self.band_rows();
        rows.clone().step_by(height).map(move |start| start..(start + height).min(rows.end))
    }

    /// Rows `part` of the depthwise convolution's output. `held` are the rows of the expanded image that the band has from
    /// the part above.
    fn filter(
        &self,
        x: &[f32],
        part: Range<usize>,
        held: &mut Range<usize>,
        band: &mut Band,
        filtered: &mut [f32],
    ) {
        let window = &self.depthwise.window;
        let row = window.input[1] * self.depthwise.channels;
        let needed = window.input_rows(part.clone());
        let Band { patches, expanded, strip, .. } = band;
        let Some(expand) = &self.expand else {
            let x = &x[needed.start * row..needed.end * row];
            return self.depthwise.rows(x, needed.start, part, strip, filtered);
        };
        let height = self.band_rows();
        let buffered = window.input_rows(0..height).len().max(height * window.stride)
            + window.kernel[0].max(window.stride);
        grow(expanded, buffered * row);
        // Rows shared with the band above move to the front; the others are computed.
        let shared = needed.start.max(held.start)..held.end.min(needed.end);
        let kept = shared.len();
        if kept > 0 {
            let from = (shared.start - held.start) * row;
            expanded.copy_within(from..from + kept * row, 0);
        }
        let new = needed.start + kept..needed.end;
        expand.rows(x, new, patches, &mut expanded[kept * row..]);
        *held = needed;
        self.depthwise.rows(expanded, held.start, part, strip, filtered);
    }

    /// Rows `part` of the output.
    fn project(&self, x: &[f32], part: Range<usize>, filtered: &[f32], y: &mut [f32]) {
        let [mid, out] = self.project.channels;
        if self.skip {
            let row = y.len() / part.len();
            y.copy_from_slice(&x[part.start * row..part.end * row]);
        }
        let epilogue = Epilogue {
            bias: Some(self.project.bias),
            activation: self.project.activation,
            accumulate: self.skip,
            ..Epilogue::default()
        };
        let filtered = Mat::new(filtered, filtered.len() / mid, mid);
        gemm(filtered, self.project.weight, y, out, epilogue, Threads::One);
    }

    /// Output rows of one band: from the shapes alone, whatever the number of threads.
    fn band_rows(&self) -> usize {
        let window = &self.depthwise.window;
        let fit = EXPANDED / (window.input[1] * self.depthwise.channels).max(1);
        (fit.saturating_sub(window.kernel[0]) / window.stride).clamp(1, window.output[0].max(1))
    }
}

impl SqueezeExcite<'_> {
    /// The gate of an image of so many pixels, from the sums of its rows.
    fn gate(&self, sums: &[f32], pixels: usize, mean: &mut Vec<f32>, gate: &mut Vec<f32>) {
        let ([reduce, reduce_bias], [expand, expand_bias]) = (self.reduce, self.expand);
        let mid = expand_bias.len();
        mean.clear();
        mean.extend((0..mid).map(|c| {
            let rows = sums[c..].iter().step_by(mid).map(|&sum| f64::from(sum));
            (rows.sum::<f64>() / pixels as f64) as f32
        }));
        gate.clear();
        gate.extend_from_slice(expand_bias);
        let layers = reduce.chunks_exact(mid).zip(expand.chunks_exact(mid));
        for ((reduce, expand), bias) in layers.zip(reduce_bias) {
            let z = dot(reduce, mean) + bias;
            let hidden = z * sigmoid::<false>(z);
            gate.iter_mut().zip(expand).for_each(|(gate, weight)| *gate += hidden * weight);
        }
        gate.iter_mut().for_each(|gate| *gate = sigmoid::<false>(*gate));
    }
}

/// sums = Σ over pixels.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn sum_pixels(x: &[f32], sums: &mut [f32]) {
    sums.fill(0.0);
    for pixel in x.chunks_exact(sums.len()) {
        sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
    }
}

/// Each pixel times `gate`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn multiply_pixels(x: &mut [f32], gate: &[f32]) {
    for pixel in x.chunks_exact_mut(gate.len()) {
        pixel.iter_mut().zip(gate).for_each(|(x, gate)| *x *= gate);
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
    use crate::cpu::{channel_gate, channel_mean, conv2d, depthwise_conv2d};

    fn numbers(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7 + seed) as f32 * 0.613).sin()).collect()
    }

    /// Several bands, a last one that is shorter, and any number of threads, against the three
    /// convolutions one after another.
    #[test]
    fn bands_do_not_show() {
        #[derive(PartialEq)]
        enum First {
            Stem,
            Pointwise,
            Absent,
        }
        use First::{Absent, Pointwise, Stem};
        for (size, kernel, stride, [c, mid, out], skip, first_layer, reduced) in [
            ([128, 128], 3, 2, [16, 96, 24], false, Pointwise, 0),
            ([41, 64], 3, 1, [8, 144, 8], true, Pointwise, 5),
            ([37, 50], 5, 2, [6, 112, 9], false, Pointwise, 0),
            ([33, 64], 5, 1, [4, 200, 4], true, Pointwise, 0),
            ([50, 131], 3, 2, [3, 48, 5], false, Stem, 7),
            ([41, 64], 3, 1, [144, 144, 144], true, Absent, 3),
            ([37, 50], 5, 2, [112, 112, 8], false, Absent, 0),
            ([3, 3], 5, 1, [2, 2, 2], true, Pointwise, 1),
        ] {
            let (k, s) = if first_layer == Stem { (3, 2) } else { (1, 1) };
            let first = Window::same(size, k, s);
            let second = Window::same(first.output, kernel, stride);
            let weight = numbers(1, k * k * c * mid);
            let (taps, last) = (numbers(2, kernel * kernel * mid), numbers(3, mid * out));
            let (bias, last_bias) = (numbers(4, mid), numbers(5, out));
            let packed = Packed::new(Mat::new(&weight, k * k * c, mid));
            let expand = Conv {
                window: first,
                channels: [c, mid],
                weight: Rhs::Packed(&packed),
                bias: &bias,
                activation: Activation::Relu6,
            };
            let squeezed = [7, 8].map(|seed| numbers(seed, reduced * mid));
            let squeezed_bias = [numbers(9, reduced), numbers(10, mid)];
            let block = InvertedResidual {
                expand: (first_layer != Absent).then_some(expand),
                squeeze_excite: (reduced > 0).then_some(SqueezeExcite {
                    reduce: [&squeezed[0], &squeezed_bias[0]],
                    expand: [&squeezed[1], &squeezed_bias[1]],
                }),
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
            match first_layer {
                Absent => expanded.copy_from_slice(&x),
                _ => conv2d(&expand, &x, &mut expanded),
            }
            depthwise_conv2d(&block.depthwise, &expanded, &mut filtered);
            if reduced > 0 {
                let (mut mean, mut gate) = (vec![0.0; mid], squeezed_bias[1].clone());
                channel_mean(&filtered, &mut mean, [filtered.len() / mid, mid]);
                let [reduce, expand] = squeezed.each_ref().map(|layer| layer.chunks(mid));
                for ((reduce, expand), bias) in reduce.zip(expand).zip(&squeezed_bias[0]) {
                    let z = bias + reduce.iter().zip(&mean).map(|(w, m)| w * m).sum::<f32>();
                    let hidden = z / (1.0 + (-z).exp());
                    gate.iter_mut().zip(expand).for_each(|(g, w)| *g += hidden * w);
                }
                channel_gate(&mut filtered, &gate, [second.output[0] * second.output[1], mid]);
            }
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
                let mut gated =
                    Gated { filtered: used(), sums: used(), mean: used(), gate: used() };
                let mut y = vec![f32::NAN; want.len()];
                inverted_residual(&block, &x, &mut y, &mut bands, &mut gated);
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
