//! Gated residual, LayerNorm and modulation, on the sizes of the presets.
//!
//! Small batches fit a cache, which can be faster than the ceiling: a copy in memory.

mod common;

use common::{Work, batches, measure, normal_on_device, presets, stored, zeros};
use criterion::{Criterion, criterion_group, criterion_main};
use invad::DType;
use invad::ops::{self, Chunk, Residual};

fn adaln_zero(c: &mut Criterion) {
    const TOKENS: usize = 256;
    let mut group = c.benchmark_group("adaln_zero");
    for &(name, preset) in presets() {
        let width = preset.config(272, 16).width;
        for &batch in batches() {
            let shape = [batch, TOKENS, width];
            let x = normal_on_device(&shape, 1.0, 0, DType::F32);
            let y = normal_on_device(&shape, 1.0, 1, stored());
            // The modulation of a timestep, the same for all images.
            let table = normal_on_device(&[1, 3 * width], 0.5, 2, DType::F32);
            let chunk = |index| Chunk { table: table.view(), index };
            let (mut x_out, mut out) = (zeros(&shape, DType::F32), zeros(&shape, stored()));
            let bytes = x.len() * 2 * (DType::F32.size() + stored().size());
            measure(&mut group, name, batch, Work::Bytes(bytes as f64), || {
                let residual = Residual { y: y.view(), gate: chunk(2) };
                let x_out = Some(x_out.view_mut());
                ops::adaln_zero(&x, Some(residual), chunk(0), chunk(1), x_out, &mut out, None)
                    .unwrap();
            });
        }
    }
    group.finish();
}

criterion_group!(benches, adaln_zero);
criterion_main!(benches);
