//! Group norm with SiLU, on the sizes of a UNet.

use criterion::Criterion;
use invad::ops::{self, Activation, GroupNorm};
use invad::{DType, Tensor};

use crate::common::{Work, batches, is_test, measure, normal_on_device, stored, zeros};

const GROUPS: usize = 32;

/// Cells and channels.
fn sizes() -> &'static [[usize; 2]] {
    if is_test() { &[[4, 64]] } else { &[[256, 512], [256, 1536], [16, 1536], [4, 2048]] }
}

fn norm(affine: &[Tensor; 2]) -> GroupNorm<'_> {
    GroupNorm {
        groups: GROUPS,
        eps: 1e-5,
        weight: affine[0].view(),
        bias: affine[1].view(),
        shift: None,
        activation: Activation::Silu,
    }
}

pub fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("group_norm");
    for &[cells, channels] in sizes() {
        let affine = [0, 1].map(|step| normal_on_device(&[channels], 1.0, step, DType::F32));
        for &batch in batches() {
            let x = normal_on_device(&[batch, cells, channels], 1.0, 2, stored());
            let (mut y, mut stats) =
                (zeros(x.shape(), stored()), zeros(&[batch, GROUPS, 2], DType::F32));
            let bytes = 2 * x.len() * stored().size();
            let name = format!("{cells}x{channels}");
            measure(&mut group, &name, batch, Work::Bytes(bytes as f64), || {
                ops::group_norm(&x, norm(&affine), &mut y, &mut stats).unwrap();
            });
        }
    }
    group.finish();
}

pub fn backward(c: &mut Criterion) {
    let mut group = c.benchmark_group("group_norm_backward");
    for &[cells, channels] in sizes() {
        let affine = [0, 1].map(|step| normal_on_device(&[channels], 1.0, step, DType::F32));
        let [mut dweight, mut dbias] = [0, 1].map(|_| zeros(&[channels], DType::F32));
        for &batch in batches() {
            let shape = [batch, cells, channels];
            let [x, dy] = [2, 3].map(|step| normal_on_device(&shape, 1.0, step, stored()));
            let (mut y, mut dx) = (zeros(&shape, stored()), zeros(&shape, stored()));
            let mut stats = zeros(&[batch, GROUPS, 2], DType::F32);
            ops::group_norm(&x, norm(&affine), &mut y, &mut stats).unwrap();
            let bytes = 3 * x.len() * stored().size();
            let name = format!("{cells}x{channels}");
            measure(&mut group, &name, batch, Work::Bytes(bytes as f64), || {
                let (dw, db) = (&mut dweight, &mut dbias);
                ops::group_norm_backward(
                    &x,
                    norm(&affine),
                    &stats,
                    &dy,
                    &mut dx,
                    false,
                    dw,
                    db,
                    None,
                )
                .unwrap();
            });
        }
    }
    group.finish();
}
