//! Channels of two tensors side by side, on the host.

use rayon::prelude::*;

/// Rows of one task.
const ROWS: usize = 64;

pub(crate) fn concat(a: &[f32], b: &[f32], y: &mut [f32], [p, q]: [usize; 2]) {
    let rows = y.par_chunks_exact_mut((p + q).max(1)).enumerate().with_min_len(ROWS);
    rows.for_each(|(i, y)| {
        y[..p].copy_from_slice(&a[i * p..][..p]);
        y[p..].copy_from_slice(&b[i * q..][..q]);
    });
}

pub(crate) fn concat_backward(dy: &[f32], da: &mut [f32], db: &mut [f32], [p, q]: [usize; 2]) {
    let part = |to: &mut [f32], from: usize, channels: usize| {
        let rows = to.par_chunks_exact_mut(channels.max(1)).enumerate().with_min_len(ROWS);
        rows.for_each(|(i, to)| to.copy_from_slice(&dy[i * (p + q) + from..][..channels]));
    };
    part(da, 0, p);
    part(db, p, q);
}
