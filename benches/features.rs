//! Images to features.

use criterion::{BenchmarkId, Criterion, Throughput};
use invad::nn::efficientnet::{EfficientNet, Workspace};
use invad::nn::features::{self, Backbone};
use invad::{DType, Device, Tensor};

/// EfficientNet-Lite0 on four normalised images of 256×256, and the same from photographs' size.
pub fn lite0(c: &mut Criterion) {
    const BATCH: usize = 4;
    let mut group = c.benchmark_group("features");
    group.throughput(Throughput::Elements(BATCH as u64));

    let network = EfficientNet::lite0();
    let x: Vec<f32> = (0..BATCH * 256 * 256 * 3).map(|i| (i as f32 * 0.37).sin() * 2.0).collect();
    let x = Tensor::from_f32(x, &[BATCH, 256, 256, 3], Device::Cpu).unwrap();
    let mut y = Tensor::zeros(&[BATCH, 16, 16, 192], DType::F32, Device::Cpu).unwrap();
    let mut workspace = Workspace::default();
    group.bench_function(BenchmarkId::new("lite0", BATCH), |b| {
        b.iter(|| network.forward(&x, &mut y, &mut workspace).unwrap());
    });

    let backbone = Backbone::lite0();
    let photo = |seed| {
        let value = |x: u32, y: u32, c: u32| (x * 7 + y * 13 + x * y / 64 + 50 * c + seed) as u8;
        image::RgbImage::from_fn(1024, 1024, |x, y| {
            image::Rgb([value(x, y, 0), value(x, y, 1), value(x, y, 2)])
        })
    };
    let photos: Vec<_> = (0..BATCH as u32).map(photo).collect();
    let mut workspace = features::Workspace::default();
    group.bench_function(BenchmarkId::new("lite0_from_1024x1024", BATCH), |b| {
        b.iter(|| backbone.extract(&photos, &mut y, &mut workspace).unwrap());
    });
    group.finish();
}
