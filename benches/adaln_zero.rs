//! Gated residual, LayerNorm and modulation, on the sizes of the presets.
//!
//! Small batches fit a cache, which can be faster than the ceiling: a copy in memory.

use criterion::Criterion;
use invad::DType;
use invad::ops::{self, Chunk, Residual, ResidualBackward};

use crate::common::{Work, batches, measure, normal_on_device, presets, stored, zeros};

const TOKENS: usize = 256;

pub fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("adaln_zero");
    for (name, sizes) in presets() {
        let width = sizes.width;
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
                ops::adaln_zero(
                    &x,
                    Some(residual),
                    chunk(0),
                    chunk(1),
                    1e-6,
                    x_out,
                    &mut out,
                    None,
                )
                .unwrap();
            });
        }
    }
    group.finish();
}

pub fn backward(c: &mut Criterion) {
    let mut group = c.benchmark_group("adaln_zero_backward");
    for (name, sizes) in presets() {
        let width = sizes.width;
        for &batch in batches() {
            let shape = [batch, TOKENS, width];
            let x = normal_on_device(&shape, 1.0, 0, DType::F32);
            let [y, dout] = [1, 2].map(|step| normal_on_device(&shape, 1.0, step, stored()));
            let table = normal_on_device(&[batch, 3 * width], 0.5, 3, DType::F32);
            let chunk = |index| Chunk { table: table.view(), index };
            let mut stats = zeros(&[batch, TOKENS, 2], DType::F32);
            let (mut out, mut dy) = (zeros(&shape, stored()), zeros(&shape, stored()));
            let into = Some(stats.view_mut());
            ops::adaln_zero(&x, None, chunk(0), chunk(1), 1e-6, None, &mut out, into).unwrap();
            let (mut dx, mut dtable) =
                (zeros(&shape, DType::F32), zeros(table.shape(), DType::F32));
            // x, y, dout and dx are read, dx and dy written.
            let bytes = x.len() * (3 * DType::F32.size() + 3 * stored().size());
            measure(&mut group, name, batch, Work::Bytes(bytes as f64), || {
                let forward = Residual { y: y.view(), gate: chunk(2) };
                let residual = Some(ResidualBackward { forward, dy: dy.view_mut() });
                let (dx, dtable) = (dx.view_mut(), dtable.view_mut());
                ops::adaln_zero_backward(&x, &stats, 0, chunk(1), &dout, dx, residual, dtable)
                    .unwrap();
            });
        }
    }
    group.finish();
}
