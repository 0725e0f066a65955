//! Every operation against an oracle in f64 written for the test.

mod common;
mod conv2d;
mod depthwise_conv2d;
mod fold_batch_norm;
mod normalise;
mod relu6;
mod resize_antialias;
mod resize_bilinear;
mod resize_nearest;
mod rgb_to_luma;
mod silu;
