//! Images to features.

use criterion::{BenchmarkId, Criterion, Throughput};
use invad::backbones::{self, Backbone, EfficientNet, Loaded, VitConfig, Workspace};
use invad::tensor::TensorView;
use invad::{DType, Device, Precision, Tensor};

use crate::support::networks::{any_efficientnet_weights, random_vit, weights};

const BATCH: usize = 4;

/// EfficientNet-Lite0 on four images of 256×256, and the same from photographs' size.
pub fn lite0(c: &mut Criterion) {
    let lite0 = backbones::named("efficientnet-lite0").unwrap();
    of_bytes(c, "lite0", &*lite0);

    let backbone = Loaded::new(lite0, Device::Cpu).unwrap();
    let photo = |seed| {
        let value = |x: u32, y: u32, c: u32| (x * 7 + y * 13 + x * y / 64 + 50 * c + seed) as u8;
        image::RgbImage::from_fn(1024, 1024, |x, y| {
            image::Rgb([value(x, y, 0), value(x, y, 1), value(x, y, 2)])
        })
    };
    let photos: Vec<_> = (0..BATCH as u32).map(photo).collect();
    let mut y = Tensor::zeros(&[BATCH, 16, 16, 192], DType::F32, Device::Cpu).unwrap();
    let mut workspace = Workspace::default();
    let mut group = c.benchmark_group("features");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(BenchmarkId::new("lite0_from_1024x1024", BATCH), |b| {
        b.iter(|| backbone.extract(&photos, &mut y, &mut workspace).unwrap());
    });
    group.finish();
}

/// EfficientNet-B4 on four images of 256×256, with weights that mean nothing.
pub fn b4(c: &mut Criterion) {
    let b4 = EfficientNet::named("efficientnet-b4").unwrap();
    let weights = any_efficientnet_weights(&b4);
    of_bytes(c, "b4", &*b4.with_weights("b4", weights).unwrap());
}

/// DINOv2's smallest on four images of 224×224.
pub fn dinov2(c: &mut Criterion) {
    let config = VitConfig::named("dinov2-vits14").unwrap();
    let file = weights(&random_vit(&config));
    of_bytes(c, "dinov2-vits14", &*backbones::vit("dinov2-vits14", config, file).unwrap());
}

/// A backbone on four images that lie in memory in its size.
fn of_bytes(c: &mut Criterion, name: &str, backbone: &dyn Backbone) {
    let mut group = c.benchmark_group("features");
    group.throughput(Throughput::Elements(BATCH as u64));
    let packed = backbone.pack(Device::Cpu, Precision::F32).unwrap();
    let mut extractor = packed.extractor(BATCH, &mut Device::Cpu).unwrap();
    let shape = backbone.spec().rgb(BATCH);
    let rgb: Vec<u8> = (0..shape.iter().product::<usize>()).map(|i| (i * i / 7) as u8).collect();
    let rgb = TensorView::from_bytes(&rgb, &shape).unwrap();
    let shape = backbone.spec().features().of(BATCH);
    let mut y = Tensor::zeros(&shape, DType::F32, Device::Cpu).unwrap();
    group.bench_function(BenchmarkId::new(name, BATCH), |b| {
        b.iter(|| extractor.extract(rgb, y.view_mut()).unwrap());
    });
    group.finish();
}
