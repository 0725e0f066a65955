//! Self-attention from the packed projection, on the sizes of the presets.

mod common;

use common::{Work, batches, measure, normal_on_device, stored, zeros};
use criterion::{Criterion, criterion_group, criterion_main};
use invad::ops;

fn attention(c: &mut Criterion) {
    const TOKENS: usize = 256;
    const HEADS: usize = 8;
    let mut group = c.benchmark_group("attention");
    for (name, size) in [("base", 128), ("gigant", 256)] {
        for &batch in batches() {
            let qkv = normal_on_device(&[batch, TOKENS, 3, HEADS, size], 1.0, 0, stored());
            let mut out = zeros(&[batch, TOKENS, HEADS * size], stored());
            let work = Work::Flops((4 * batch * TOKENS * TOKENS * HEADS * size) as f64);
            measure(&mut group, name, batch, work, || {
                ops::attention(&qkv, &mut out, None).unwrap();
            });
        }
    }
    group.finish();
}

criterion_group!(benches, attention);
criterion_main!(benches);
