//! The convolution of a UNet: patches, and with them a product whose floor is its operations where there are many
//! cells, and the bandwidth of its weights where there are few.

use criterion::Criterion;
use invad::ops::{self, Activation, PackedWeight, Resample};

use crate::common::{Work, batches, is_test, measure, normal_on_device, stored, zeros};

/// Side of the grid, channels in and out.
fn sizes() -> &'static [[usize; 3]] {
    if is_test() { &[[4, 16, 8]] } else { &[[16, 512, 512], [4, 1536, 1536], [2, 2048, 2048]] }
}

pub fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("gather_patches");
    for &[side, channels, _] in sizes() {
        for &batch in batches() {
            let x = normal_on_device(&[batch, side, side, channels], 1.0, 0, stored());
            let mut patches = zeros(&[batch, side * side, 9 * channels], stored());
            let bytes = (x.len() + patches.len()) * stored().size();
            let name = format!("{side}x{side}x{channels}");
            measure(&mut group, &name, batch, Work::Bytes(bytes as f64), || {
                ops::gather_patches(&x, Resample::Same, &mut patches).unwrap();
            });
        }
    }
    group.finish();
}

pub fn backward(c: &mut Criterion) {
    let mut group = c.benchmark_group("gather_patches_backward");
    for &[side, channels, _] in sizes() {
        for &batch in batches() {
            let mut dx = zeros(&[batch, side, side, channels], stored());
            let shape = [batch, side * side, 9 * channels];
            let dpatches = normal_on_device(&shape, 1.0, 0, stored());
            let bytes = (dx.len() + dpatches.len()) * stored().size();
            let name = format!("{side}x{side}x{channels}");
            measure(&mut group, &name, batch, Work::Bytes(bytes as f64), || {
                ops::gather_patches_backward(&dpatches, Resample::Same, &mut dx, false).unwrap();
            });
        }
    }
    group.finish();
}

pub fn convolution(c: &mut Criterion) {
    let mut group = c.benchmark_group("gather_patches_convolution");
    for &[side, channels, out] in sizes() {
        let weight = normal_on_device(&[out, 9 * channels], 0.02, 1, stored());
        let weight = PackedWeight::new(&weight).unwrap();
        for &batch in batches() {
            let x = normal_on_device(&[batch, side, side, channels], 1.0, 0, stored());
            let mut patches = zeros(&[batch, side * side, 9 * channels], stored());
            let mut y = zeros(&[batch, side, side, out], stored());
            let flops = 2.0 * (patches.len() * out) as f64;
            let bytes = (9 * channels * out * stored().size()) as f64;
            // Of few cells the weights are what takes time.
            let work =
                if batch * side * side < 64 { Work::Bytes(bytes) } else { Work::Flops(flops) };
            let name = format!("{side}x{side}x{channels}");
            measure(&mut group, &name, batch, work, || {
                ops::gather_patches(&x, Resample::Same, &mut patches).unwrap();
                ops::linear(&patches, &weight, None, Activation::None, None, &mut y).unwrap();
            });
        }
    }
    group.finish();
}

pub fn old(c: &mut Criterion) {
    let mut group = c.benchmark_group("gather_patches_old");
    for &[side, channels, out] in sizes() {
        let weight = normal_on_device(&[3, 3, channels, out], 0.02, 1, stored());
        let bias = zeros(&[out], stored());
        for &batch in batches() {
            let x = normal_on_device(&[batch, side, side, channels], 1.0, 0, stored());
            let mut y = zeros(&[batch, side, side, out], stored());
            let flops = 2.0 * (9 * y.len() * channels) as f64;
            let name = format!("{side}x{side}x{channels}");
            let conv = ops::Convolution { padding: ops::Padding::all(1), ..Default::default() };
            measure(&mut group, &name, batch, Work::Flops(flops), || {
                ops::conv2d(&x, &weight, &bias, conv, &mut y).unwrap();
            });
            let mut patches = zeros(&[batch, side * side, 9 * channels], stored());
            let plain = normal_on_device(&[out, 9 * channels], 0.02, 1, stored());
            measure(&mut group, &format!("plain{name}"), batch, Work::Flops(flops), || {
                ops::gather_patches(&x, Resample::Same, &mut patches).unwrap();
                ops::linear(&patches, &plain, None, Activation::None, None, &mut y).unwrap();
            });
        }
    }
    group.finish();
}
