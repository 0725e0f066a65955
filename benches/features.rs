//! Images to features.

use criterion::{BenchmarkId, Criterion, Throughput};
use invad::backbones::{self, Loaded, Workspace};
use invad::tensor::TensorView;
use invad::{DType, Device, Precision, Tensor};

/// EfficientNet-Lite0 on four images of 256×256, and the same from photographs' size.
pub fn lite0(c: &mut Criterion) {
    const BATCH: usize = 4;
    let mut group = c.benchmark_group("features");
    group.throughput(Throughput::Elements(BATCH as u64));

    let lite0 = backbones::named("efficientnet-lite0").unwrap();
    let packed = lite0.pack(Device::Cpu, Precision::F32).unwrap();
    let mut extractor = packed.extractor(BATCH, &mut Device::Cpu).unwrap();
    let rgb: Vec<u8> = (0..BATCH * 256 * 256 * 3).map(|i| (i * i / 7) as u8).collect();
    let rgb = TensorView::from_bytes(&rgb, &[BATCH, 256, 256, 3]).unwrap();
    let mut y = Tensor::zeros(&[BATCH, 16, 16, 192], DType::F32, Device::Cpu).unwrap();
    group.bench_function(BenchmarkId::new("lite0", BATCH), |b| {
        b.iter(|| extractor.extract(rgb, y.view_mut()).unwrap());
    });

    let backbone = Loaded::new(lite0, Device::Cpu).unwrap();
    let photo = |seed| {
        let value = |x: u32, y: u32, c: u32| (x * 7 + y * 13 + x * y / 64 + 50 * c + seed) as u8;
        image::RgbImage::from_fn(1024, 1024, |x, y| {
            image::Rgb([value(x, y, 0), value(x, y, 1), value(x, y, 2)])
        })
    };
    let photos: Vec<_> = (0..BATCH as u32).map(photo).collect();
    let mut workspace = Workspace::default();
    group.bench_function(BenchmarkId::new("lite0_from_1024x1024", BATCH), |b| {
        b.iter(|| backbone.extract(&photos, &mut y, &mut workspace).unwrap());
    });
    group.finish();
}
