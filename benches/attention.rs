//! Self-attention from the packed projection, on the sizes of the presets.

mod common;

use common::{Work, batches, measure, normal_on_device, presets, stored, zeros};
use criterion::{Criterion, criterion_group, criterion_main};
use invad::ops;

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for &(name, preset) in presets() {
        let network = preset.config(272, 16);
        let (tokens, heads, width) = (network.tokens(), network.heads, network.width);
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

criterion_group!(benches, attention);
criterion_main!(benches);
