//! Every operation against an oracle in f64 written for the test.

mod adaln_zero;
mod adamw;
mod add;
mod add_noise;
mod add_position;
mod attention;
#[cfg(feature = "cuda")]
mod barriers;
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
#[cfg(feature = "cuda")]
mod gpu;
mod group_norm;
mod inversion_step;
mod inverted_residual;
mod linear;
mod linear_bf16;
#[cfg(feature = "cuda")]
mod linear_own;
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
mod shapes;
mod silu;
#[cfg(feature = "cuda")]
mod stem_conv;
#[path = "../support/mod.rs"]
mod support;
mod timestep_embedding;
