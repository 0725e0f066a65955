//! Bilinear resizing of feature maps on the host.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

/// Where the outputs along one axis read: two inputs each, and the weight of the second.
#[derive(Clone, Debug)]
pub(crate) struct Taps {
    input: usize,
    taps: Vec<(usize, usize, f32)>,
}

impl Taps {
    pub fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let last = input.saturating_sub(1);
        let taps = (0..output).map(|o| {
            let source = ((o as f64 + 0.5) * scale - 0.5).max(0.0);
            let at = (source as usize).min(last);
            (at, (at + 1).min(last), (source - at as f64) as f32)
        });
        Self { input, taps: taps.collect() }
    }

    fn output(&self) -> usize {
        self.taps.len()
    }
}

/// Rows `rows` of the output for one image (height, width, `c`) into pixels of `y` that are
/// `stride` numbers apart; `line` is kept between calls.
pub(crate) fn resize_rows(
    [vertical, horizontal]: [&Taps; 2],
    c: usize,
    x: &[f32],
    rows: Range<usize>,
    y: &mut [f32],
    stride: usize,
    line: &mut Vec<f32>,
) {
    let len = horizontal.input * c;
    line.resize(len.max(line.len()), 0.0);
    let line = &mut line[..len];
    for (row, y) in rows.zip(y.chunks_mut(horizontal.output() * stride)) {
        let (above, below, weight) = vertical.taps[row];
        blend(&x[above * len..][..len], &x[below * len..][..len], weight, line);
        if c == 1 && stride == 1 {
            for (y, &(i, j, weight)) in y.iter_mut().zip(&horizontal.taps) {
                *y = line[i] + weight * (line[j] - line[i]);
            }
        } else {
            for (y, &(i, j, weight)) in y.chunks_mut(stride).zip(&horizontal.taps) {
                blend(&line[i * c..][..c], &line[j * c..][..c], weight, &mut y[..c]);
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn blend(a: &[f32], b: &[f32], weight: f32, out: &mut [f32]) {
    for (o, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
        *o = a + weight * (b - a);
    }
}

/// Images (height, width, `c`) one after another in `x` and `y`.
pub(crate) fn resize_bilinear(
    input: [usize; 2],
    output: [usize; 2],
    c: usize,
    x: &[f32],
    y: &mut [f32],
) {
    let vertical = &Taps::new(input[0], output[0]);
    let horizontal = &Taps::new(input[1], output[1]);
    let (image, row) = (input[0] * input[1] * c, output[1] * c);
    if image == 0 || row == 0 {
        return;
    }
    y.par_chunks_mut(row).enumerate().for_each_init(Vec::new, |line, (i, y)| {
        let (b, oy) = (i / output[0], i % output[0]);
        let x = &x[b * image..][..image];
        resize_rows([vertical, horizontal], c, x, oy..oy + 1, y, c, line);
    });
}
