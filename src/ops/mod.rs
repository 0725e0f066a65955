//! Operations: one file each, with the formula, the shapes and the checks.
//!
//! Every operation writes into outputs that the caller owns. Gradients of activations are written
//! (`=`), gradients of parameters are accumulated (`+=`).
//!
//! Axes are named B (images), N (tokens), C (feature channels), D (model width), H (heads),
//! d = D/H (head size), G (grid side, N = G²).

use crate::error::{Error, Result};

/// Returns what the CUDA backend makes of an operation where its first argument is on a GPU.
macro_rules! on_gpu {
    ($first:expr, $call:expr) => {
        #[cfg(feature = "cuda")]
        if $first.device() != crate::tensor::Device::Cpu {
            return $call;
        }
    };
}

mod adaln_zero;
mod adamw;
mod add;
mod add_noise;
mod add_position;
mod attention;
mod channel_gate;
mod channel_mean;
mod concat;
mod conv2d;
mod denoising_loss;
mod depthwise_conv2d;
mod ema;
mod fold_affine;
mod fold_batch_norm;
mod gather_features;
mod gather_patches;
mod gather_tokens;
mod gelu;
mod group_norm;
mod inversion_step;
mod inverted_residual;
mod linear;
mod linear_quantised;
mod mahalanobis;
mod normalise;
mod patchify;
mod quantise;
mod random;
mod resize_antialias;
mod resize_bilinear;
mod rgb_to_luma;
mod score;
mod silu;
mod timestep_embedding;

pub use crate::cpu::conv2d::Padding;
pub use crate::cpu::gemm::Activation;
pub use adaln_zero::{Chunk, Residual, ResidualBackward, adaln_zero, adaln_zero_backward};
pub use adamw::{AdamW, Moved, adamw, global_norm};
pub use add::add;
pub use add_noise::add_noise;
pub use add_position::{add_position, add_position_backward};
pub use attention::{attention, attention_backward};
pub use channel_gate::channel_gate;
pub use channel_mean::channel_mean;
pub use concat::{concat, concat_backward};
pub use conv2d::{Convolution, conv2d};
pub use denoising_loss::{Target, denoising_loss};
pub use depthwise_conv2d::depthwise_conv2d;
pub use ema::ema;
pub use fold_affine::{fold_affine, fold_affine_backward};
pub use fold_batch_norm::{BatchNorm, fold_batch_norm};
pub use gather_features::{Gather, gather_features};
pub use gather_patches::{Resample, gather_patches, gather_patches_backward};
pub use gather_tokens::gather_tokens;
pub use gelu::gelu;
pub(crate) use group_norm::Sizes as GroupNormSizes;
pub use group_norm::{GroupNorm, Shift, group_norm, group_norm_backward};
pub use inversion_step::inversion_step;
#[cfg(feature = "cuda")]
pub(crate) use inverted_residual::Size as ResidualSize;
pub use inverted_residual::{
    Expansion, FoldedLayer, InvertedResidual, InvertedResidualLayers, InvertedResidualScratch,
    SqueezeExcite, inverted_residual,
};
pub use linear::{
    PackedWeight, Weight, linear, linear_backward_input, linear_backward_weight, linear_residual,
};
pub use linear_quantised::{Quantised, linear_quantised};
pub use mahalanobis::mahalanobis;
pub use normalise::normalise;
pub use patchify::{PatchOrder, patchify, unpatchify};
pub use quantise::quantise;
pub use random::{Random, Stream, normal};
pub use resize_antialias::resize_antialias;
pub use resize_bilinear::resize_bilinear;
pub use rgb_to_luma::rgb_to_luma;
pub use score::{SCORE_STATS, negative_log_likelihood, score, score_step};
pub use silu::{silu, silu_backward};
pub use timestep_embedding::timestep_embedding;

/// What a GPU's kernels are there for, and what they need beside their operands.
pub(crate) mod kernels {
    pub(crate) use crate::cuda::ops::{
        LARGEST_HEAD, MOST_TOKENS, TIMESTEP_TABLE_BYTES, WIDEST, WIDEST_BACKWARD,
        adaln_zero_backward_scratch, attention_backward_scratch, global_norm_scratch,
        group_norm_backward_scratch, linear_backward_scratch,
    };
    use crate::error::{Error, Result};

    /// That a GPU has kernels for a transformer of these sizes.
    pub(crate) fn require_transformer(
        op: &'static str,
        width: usize,
        heads: usize,
        tokens: usize,
    ) -> Result<()> {
        for (arg, got, multiple, most) in [
            ("width", width, 8, WIDEST),
            ("head size", width / heads, 8, LARGEST_HEAD),
            ("tokens", tokens, 1, MOST_TOKENS),
        ] {
            require(op, arg, got, multiple, most)?;
        }
        Ok(())
    }

    /// Whether a size is one that there are kernels for.
    pub(crate) fn require(
        op: &'static str,
        arg: &'static str,
        got: usize,
        multiple: usize,
        most: usize,
    ) -> Result<()> {
        if got.is_multiple_of(multiple) && got <= most {
            return Ok(());
        }
        let expected = format!("a multiple of {multiple} up to {most} on a GPU");
        Err(Error::argument(op, arg, expected, got))
    }
}

/// Checks that `got` is `expected`; `axes` names the expected axes in the error.
pub(crate) fn expect_shape(
    op: &'static str,
    arg: &'static str,
    got: &[usize],
    expected: &[usize],
) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::shape(op, arg, format!("{expected:?}"), got)) }
}

/// Checks that `got` has `N` axes; `axes` names them in the error.
pub(crate) fn expect_axes<const N: usize>(
    op: &'static str,
    arg: &'static str,
    got: &[usize],
    axes: &str,
) -> Result<[usize; N]> {
    got.try_into().map_err(|_| Error::shape(op, arg, axes, got))
}
