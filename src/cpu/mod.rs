//! Operations on the host, in f32, one file each under the name of the operation.
//!
//! Work is split over rayon's threads by output element, and every sum runs in a fixed order:
//! results are the same bits for any number of threads.

mod adaln_zero;
mod adamw;
mod add;
mod add_noise;
mod add_position;
mod attention;
mod channel_gate;
mod channel_mean;
mod concat;
pub(crate) mod conv2d;
mod denoising_loss;
pub(crate) mod depthwise_conv2d;
mod ema;
mod fold_affine;
mod gather_patches;
mod gather_tokens;
pub(crate) mod gemm;
mod group_norm;
mod inversion_step;
pub(crate) mod inverted_residual;
mod linear;
mod linear_quantised;
mod mahalanobis;
mod math;
mod normalise;
mod patchify;
mod quantise;
mod random;
mod resize_antialias;
mod resize_bilinear;
mod resize_cubic;
mod rgb_to_luma;
mod score;
mod silu;
mod timestep_embedding;
mod units;

pub(crate) use adaln_zero::{PerImage, adaln_zero, adaln_zero_backward};
pub(crate) use adamw::{adamw, global_norm};
pub(crate) use add::add;
pub(crate) use add_noise::add_noise;
pub(crate) use add_position::{add_position, add_position_backward};
pub(crate) use attention::{Heads, attention, attention_backward};
pub(crate) use channel_gate::channel_gate;
pub(crate) use channel_mean::channel_mean;
pub(crate) use concat::{concat, concat_backward};
pub(crate) use conv2d::conv2d;
pub(crate) use denoising_loss::{Target, denoising_loss};
pub(crate) use depthwise_conv2d::depthwise_conv2d;
pub(crate) use ema::ema;
pub(crate) use fold_affine::{fold_affine, fold_affine_backward};
pub(crate) use gather_patches::{gather_patches, gather_patches_backward};
pub(crate) use gather_tokens::{TokenSizes, gather_tokens};
pub(crate) use group_norm::{GroupNorm, group_norm, group_norm_backward};
pub(crate) use inversion_step::inversion_step;
pub(crate) use inverted_residual::{InvertedResidual, SqueezeExcite, inverted_residual};
pub(crate) use linear::{linear, linear_backward_input, linear_backward_weight};
pub(crate) use linear_quantised::linear_quantised;
pub(crate) use mahalanobis::{Gaussians, mahalanobis};
pub(crate) use normalise::{normalise, normalise_in_parts, table as normalise_table};
pub(crate) use patchify::{PatchSizes, patchify, unpatchify};
pub(crate) use quantise::quantise;
pub(crate) use random::{normal, philox};
pub(crate) use resize_antialias::{Resize, resize_antialias};
pub(crate) use resize_bilinear::{Taps, resize_bilinear, resize_rows};
pub(crate) use resize_cubic::resize_cubic;
pub(crate) use rgb_to_luma::rgb_to_luma;
pub(crate) use score::score;
pub(crate) use silu::{silu, silu_backward};
pub(crate) use timestep_embedding::timestep_embedding;
pub use units::{MeasuredUnit, measure_units};

use rayon::prelude::*;

/// Calls `f` on a thread of the pool. A parallel loop started from any other thread hands its work
/// over and sleeps until it is done, at the cost of several switches between threads; a flow of many
/// short loops pays that once by starting here.
pub(crate) fn in_pool<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
}

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
