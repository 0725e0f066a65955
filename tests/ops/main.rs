//! Every operation against an oracle in f64 written for the test.

mod adaln_zero;
mod adamw;
mod add_noise;
mod add_position;
mod attention;
mod common;
mod ema;
mod gelu;
mod inversion_step;
mod linear;
mod mse;
mod patchify;
mod random;
mod score;
mod silu;
mod timestep_embedding;
