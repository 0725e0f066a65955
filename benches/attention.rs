//! Self-attention from the packed projection, on the sizes of the presets.

use criterion::Criterion;
use invad::{DType, ops};

use crate::common::{Work, batches, measure, normal_on_device, presets, stored, zeros};

const TOKENS: usize = 256;
const HEADS: usize = 8;

pub fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for (name, sizes) in presets() {
        let (tokens, heads, width) = (sizes.tokens(), sizes.heads, sizes.width);
        for &batch in batches() {
            let shape = [batch, tokens, 3, heads, width / heads];
            let qkv = normal_on_device(&shape, 1.0, 0, stored());
            let mut out = zeros(&[batch, tokens, width], stored());
            let work = Work::Flops((4 * batch * tokens * tokens * width) as f64);
            measure(&mut group, name, batch, work, || {
                ops::attention(&qkv, &mut out, None).unwrap();
            });
        }
    }
    group.finish();
}

/// Counts the five products of the gradient, not those that are made again to save memory.
pub fn backward(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention_backward");
    for (name, size) in [("base", 128), ("gigant", 256)] {
        for &batch in batches() {
            let of_out = [batch, TOKENS, HEADS * size];
            let qkv = normal_on_device(&[batch, TOKENS, 3, HEADS, size], 1.0, 0, stored());
            let dout = normal_on_device(&of_out, 1.0, 1, stored());
            let (mut out, mut dqkv) = (zeros(&of_out, stored()), zeros(qkv.shape(), stored()));
            let mut lse = zeros(&[batch, HEADS, TOKENS], DType::F32);
            ops::attention(&qkv, &mut out, Some(lse.view_mut())).unwrap();
            let work = Work::Flops((10 * batch * TOKENS * TOKENS * HEADS * size) as f64);
            measure(&mut group, name, batch, work, || {
                ops::attention_backward(&qkv, &out, &lse, &dout, &mut dqkv).unwrap();
            });
        }
    }
    group.finish();
}
