//! The patches under a 3×3 kernel, on the host.

use rayon::prelude::*;

use super::add::add_to;
use crate::ops::Resample;

/// The cell that a tap of a patch reads, along one axis of `cells`; none outside.
fn cell(patch: usize, tap: usize, [stride, copies]: [usize; 2], cells: usize) -> Option<usize> {
    let at = (patch * stride + tap).checked_sub(1)? / copies;
    (at < cells).then_some(at)
}

/// The patches that read a cell along one axis of `patches`, with their taps.
fn readers(
    cell: usize,
    [stride, copies]: [usize; 2],
    patches: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let copies = cell * copies..(cell + 1) * copies;
    copies.flat_map(move |at| {
        (0..3).filter_map(move |tap| {
            let start = (at + 1).checked_sub(tap)?;
            let patch = start / stride;
            (start.is_multiple_of(stride) && patch < patches).then_some((patch, tap))
        })
    })
}

pub(crate) fn gather_patches(
    x: &[f32],
    resample: Resample,
    patches: &mut [f32],
    [_, height, width, channels]: [usize; 4],
) {
    let ([rows, columns], steps) = (resample.output([height, width]), resample.steps());
    patches.par_chunks_exact_mut(columns * 9 * channels).enumerate().for_each(|(row, patches)| {
        let (image, row) = (row / rows, row % rows);
        let x = &x[image * height * width * channels..][..height * width * channels];
        for (column, patch) in patches.chunks_exact_mut(9 * channels).enumerate() {
            for (tap, to) in patch.chunks_exact_mut(channels).enumerate() {
                let i = cell(row, tap / 3, steps, height);
                let j = cell(column, tap % 3, steps, width);
                match i.zip(j) {
                    Some((i, j)) => {
                        to.copy_from_slice(&x[(i * width + j) * channels..][..channels]);
                    }
                    None => to.fill(0.0),
                }
            }
        }
    });
}

pub(crate) fn gather_patches_backward(
    dpatches: &[f32],
    resample: Resample,
    dx: &mut [f32],
    accumulate: bool,
    [_, height, width, channels]: [usize; 4],
) {
    let ([rows, columns], steps) = (resample.output([height, width]), resample.steps());
    dx.par_chunks_exact_mut(width * channels).enumerate().for_each(|(row, dx)| {
        let (image, row) = (row / height, row % height);
        for (column, dx) in dx.chunks_exact_mut(channels).enumerate() {
            if !accumulate {
                dx.fill(0.0);
            }
            for (i, k) in readers(row, steps, rows) {
                for (j, l) in readers(column, steps, columns) {
                    let patch = (image * rows + i) * columns + j;
                    add_to(dx, &dpatches[(patch * 9 + k * 3 + l) * channels..][..channels]);
                }
            }
        }
    });
}
