//! The matrix products of a transformer block, with bias and GELU, and their gradients, on the sizes of the presets;
//! called `linear_own` with `INVAD_LINEAR=own`, to be set beside those of cuBLASLt.

use std::env;

use criterion::Criterion;
use invad::DType;
use invad::ops::{self, Activation, PackedWeight};

use crate::common::{
    Work, batches, device, measure, normal, normal_on_device, presets, stored, zeros,
};

const TOKENS: usize = 256;

/// Whether linear layers are computed without cuBLASLt.
fn is_own() -> bool {
    env::var("INVAD_LINEAR").is_ok_and(|linear| linear == "own")
}

pub fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group(if is_own() { "linear_own" } else { "gemm" });
    for (name, sizes) in presets() {
        let width = sizes.width;
        for (layer, k, n, activation) in [
            ("qkv", width, 3 * width, Activation::None),
            ("fc1", width, 4 * width, Activation::Gelu),
            ("fc2", 4 * width, width, Activation::None),
        ] {
            let weight = normal(&[n, k], (k as f32).sqrt().recip(), 0);
            let weight = PackedWeight::on(device(), &weight).unwrap();
            let bias = normal_on_device(&[n], 0.1, 1, stored());
            for &batch in batches() {
                let x = normal_on_device(&[batch * TOKENS, k], 1.0, 2, stored());
                let mut y = zeros(&[batch * TOKENS, n], stored());
                let layer = &format!("{name}_{layer}");
                let work = Work::Flops(2.0 * (batch * TOKENS * k * n) as f64);
                measure(&mut group, layer, batch, work, || {
                    let bias = Some(bias.view());
                    ops::linear(&x, &weight, bias, activation, None, &mut y).unwrap();
                });
            }
        }
    }
    group.finish();
}

/// Both products of a layer's gradient, with the sums for its bias: always cuBLASLt's.
pub fn backward(c: &mut Criterion) {
    if is_own() {
        return;
    }
    let mut group = c.benchmark_group("gemm_backward");
    for (name, sizes) in presets() {
        let width = sizes.width;
        for (layer, k, n) in [("qkv", width, 3 * width), ("fc2", 4 * width, width)] {
            let weight = normal_on_device(&[n, k], (k as f32).sqrt().recip(), 0, stored());
            let mut dweight = zeros(&[n, k], DType::F32);
            let mut dbias = zeros(&[n], DType::F32);
            for &batch in batches() {
                let x = normal_on_device(&[batch * TOKENS, k], 1.0, 1, stored());
                let dy = normal_on_device(&[batch * TOKENS, n], 1.0, 2, stored());
                let mut dx = zeros(&[batch * TOKENS, k], stored());
                let gelu_input = (layer == "fc2").then(|| x.view());
                let layer = &format!("{name}_{layer}");
                let work = Work::Flops(4.0 * (batch * TOKENS * k * n) as f64);
                measure(&mut group, layer, batch, work, || {
                    ops::linear_backward_input(&dy, &weight, gelu_input, &mut dx).unwrap();
                    let dbias = Some(dbias.view_mut());
                    ops::linear_backward_weight(&dy, &x, &mut dweight, dbias).unwrap();
                });
            }
        }
    }
    group.finish();
}
