//! Operations on the host, in f32, one file each under the name of the operation.
//!
//! Work is split over rayon's threads by output element, and every sum runs in a fixed order:
//! results are the same bits for any number of threads.

pub(crate) mod gemm;
pub(crate) mod math;
mod silu;

pub(crate) use silu::{silu, silu_backward};

use rayon::prelude::*;

/// Elements below which an elementwise operation is not worth splitting over threads.
const SPLIT: usize = 1 << 14;

/// Calls `f(start, part)` on parts of `out`, in parallel where it is long.
pub(crate) fn for_parts(out: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < SPLIT {
        f(0, out);
    } else {
        out.par_chunks_mut(SPLIT).enumerate().for_each(|(i, part)| f(i * SPLIT, part));
    }
}
