//! Antialiased bilinear resizing of 8-bit RGB images on the host, in fixed point.

use multiversion::multiversion;
use rayon::prelude::*;

/// Fraction bits of a weight: 8 bits of a pixel, 2 to spare and a sign leave 22 of 32.
const BITS: u32 = 22;
const HALF: i32 = 1 << (BITS - 1);

/// Where the outputs along one axis read, and with which weights.
#[derive(Debug, Default)]
struct Axis {
    sizes: [usize; 2],
    /// For each output: its first input, and where its weights begin and end.
    spans: Vec<(usize, usize, usize)>,
    /// The weights of all outputs, one after another.
    weights: Vec<i32>,
}

impl Axis {
    /// Makes it the axis from `input` to `output` pixels, unless it is already.
    fn set(&mut self, input: usize, output: usize) {
        if self.sizes == [input, output] {
            return;
        }
        self.sizes = [input, output];
        self.spans.clear();
        self.weights.clear();
        let scale = input as f64 / output as f64;
        // A triangle as wide as two output pixels, or two input pixels when enlarging.
        let support = scale.max(1.0);
        let mut triangle = Vec::new();
        for o in 0..output {
            let centre = (o as f64 + 0.5) * scale;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            triangle.clear();
            triangle.extend((start..end).map(|i| {
                let distance = (i as f64 - centre + 0.5) * (1.0 / support);
                (1.0 - distance.abs()).max(0.0)
            }));
            let sum: f64 = triangle.iter().sum();
            let fixed = |w: &f64| {
                let share = if sum == 0.0 { *w } else { w / sum };
                (0.5 + share * f64::from(1 << BITS)) as i32
            };
            let first = self.weights.len();
            self.weights.extend(triangle.iter().map(fixed));
            self.spans.push((start, first, self.weights.len()));
        }
    }

    /// The first input of output `o` and the weights of the inputs from there.
    #[inline(always)]
    fn output(&self, o: usize) -> (usize, &[i32]) {
        let (start, first, end) = self.spans[o];
        (start, &self.weights[first..end])
    }
}

/// Tables and the half-resized image; kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Resize {
    horizontal: Axis,
    vertical: Axis,
    half: Vec<u8>,
}

/// Rows handled by one task.
const ROWS: usize = 16;

/// Resizes `src` of `from` = (height, width) pixels into `dst` of `to` pixels: along one axis, rounded to 8
/// bits, then along the other.
pub(crate) fn resize_antialias(
    src: &[u8],
    from: [usize; 2],
    dst: &mut [u8],
    to: [usize; 2],
    kept: &mut Resize,
) {
    let Resize { horizontal, vertical, half } = kept;
    horizontal.set(from[1], to[1]);
    vertical.set(from[0], to[0]);
    match [0, 1].map(|axis| from[axis] != to[axis]) {
        [false, false] => dst.copy_from_slice(src),
        [false, true] => resize_rows(horizontal, src, dst),
        [true, false] => resize_columns(vertical, src, dst),
        [true, true] if columns_first(from, to) => {
            half.resize(3 * to[0] * from[1], 0);
            resize_columns(vertical, src, half);
            resize_rows(horizontal, half, dst);
        }
        [true, true] => {
            half.resize(3 * from[0] * to[1], 0);
            resize_rows(horizontal, src, half);
            resize_columns(vertical, half, dst);
        }
    }
}

/// Whether the height is resized before the width: where it shrinks by more than twice as many pixels, which is
/// less work, as in Pillow from version 13 on.
fn columns_first(from: [usize; 2], to: [usize; 2]) -> bool {
    let [height, width] = [0, 1].map(|axis| from[axis] as i64 - to[axis] as i64);
    height > 0 && height > 2 * width
}

/// Resizes the width.
fn resize_rows(axis: &Axis, src: &[u8], out: &mut [u8]) {
    let [from, to] = axis.sizes.map(|pixels| 3 * ROWS * pixels);
    out.par_chunks_mut(to)
        .zip(src.par_chunks(from))
        .for_each_init(Vec::new, |columns, (out, src)| filter_rows(axis, src, out, columns));
}

/// Resizes the height.
fn resize_columns(axis: &Axis, src: &[u8], out: &mut [u8]) {
    let row = out.len() / axis.sizes[1];
    out.par_chunks_exact_mut(row).enumerate().for_each(|(o, out)| {
        let (start, weights) = axis.output(o);
        filter_columns(&src[start * row..], weights, out);
    });
}

/// Rows that are resized together.
const TOGETHER: usize = 8;

/// The pixels of rows that are resized together that lie below one another, the numbers of a vector: of each the three
/// channels and the next pixel's first, which is computed and dropped.
type Column = [[u8; 4]; TOGETHER];

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn filter_rows(axis: &Axis, src: &[u8], out: &mut [u8], columns: &mut Vec<Column>) {
    let [input, output] = axis.sizes;
    columns.resize(input, Column::default());
    let [from, to] = axis.sizes.map(|pixels| 3 * TOGETHER * pixels);
    for (src, out) in src.chunks(from).zip(out.chunks_mut(to)) {
        // Where fewer rows are left, older ones stay in the places of the others and are computed for nobody.
        place(src, columns);
        for o in 0..output {
            let (start, weights) = axis.output(o);
            let mut sums = [HALF; 4 * TOGETHER];
            for (column, &weight) in columns[start..].iter().zip(weights) {
                for (sum, &p) in sums.iter_mut().zip(column.as_flattened()) {
                    *sum += weight * i32::from(p);
                }
            }
            let pixels = sums.map(round);
            for (row, pixel) in out.chunks_exact_mut(3 * output).zip(pixels.chunks_exact(4)) {
                row[3 * o..][..3].copy_from_slice(&pixel[..3]);
            }
        }
    }
}

/// Puts the pixels of rows into columns, a few columns at a time, which stay in the nearest cache.
#[inline(always)]
fn place(rows: &[u8], columns: &mut [Column]) {
    const FEW: usize = 16;
    let width = columns.len();
    for (i, columns) in columns.chunks_mut(FEW).enumerate() {
        for (r, row) in rows.chunks_exact(3 * width).enumerate() {
            assert!(r < TOGETHER);
            let pixels = &row[3 * FEW * i..];
            match (columns.as_chunks_mut().0, pixels.first_chunk()) {
                ([columns], Some(pixels)) => place_few(r, pixels, columns),
                // The last pixel of a row has no next one.
                _ => {
                    for (column, pixel) in columns.iter_mut().zip(pixels.chunks_exact(3)) {
                        column[r][..3].copy_from_slice(pixel);
                    }
                }
            }
        }
    }

    /// With lengths that the compiler knows.
    #[inline(always)]
    fn place_few(r: usize, pixels: &[u8; 3 * FEW + 1], columns: &mut [Column; FEW]) {
        for (x, column) in columns.iter_mut().enumerate() {
            column[r].copy_from_slice(&pixels[3 * x..][..4]);
        }
    }
}

/// Numbers of a row summed together, in registers.
const PART: usize = 64;

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn filter_columns(rows: &[u8], weights: &[i32], out: &mut [u8]) {
    let row = out.len();
    let mut parts = out.chunks_exact_mut(PART);
    for (i, out) in parts.by_ref().enumerate() {
        let mut sums = [HALF; PART];
        for (r, &weight) in weights.iter().enumerate() {
            for (sum, &p) in sums.iter_mut().zip(&rows[r * row + i * PART..][..PART]) {
                *sum += weight * i32::from(p);
            }
        }
        for (o, sum) in out.iter_mut().zip(sums) {
            *o = round(sum);
        }
    }
    let rest = parts.into_remainder();
    let start = row - rest.len();
    for (i, o) in rest.iter_mut().enumerate() {
        let terms = weights.iter().enumerate();
        *o =
            round(HALF + terms.map(|(r, w)| w * i32::from(rows[r * row + start + i])).sum::<i32>());
    }
}

#[inline(always)]
fn round(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}
