//! Metrics of maps, exact over all pixels: as many as MVTec AD has test images, at 256 × 256.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use invad::metrics::{self, AnnotatedMap, PimoOptions};

use crate::common::{is_test, normal};

pub fn metrics(c: &mut Criterion) {
    let side = 256;
    let pixels = side * side;
    // An image's noise is another part of a long line, which begins so much later.
    let (images, later) = if is_test() { (8, pixels) } else { (1725, 64) };
    let noise = normal(&[pixels + later * images], 1.0, 0).to_vec_f32();
    let mask: Vec<bool> = (0..pixels).map(|p| (p % side).max(p / side) < side / 8).collect();
    let good = vec![false; pixels];
    // As in MVTec AD, about a quarter is good.
    let of = |i: usize| if i.is_multiple_of(4) { &good } else { &mask };
    let maps: Vec<Vec<f32>> = (0..images)
        .map(|i| {
            let noise = noise[later * i..].iter().zip(of(i));
            noise.map(|(v, &anomalous)| v + if anomalous { 3.0 } else { 0.0 }).collect()
        })
        .collect();
    let annotated: Vec<AnnotatedMap> = maps
        .iter()
        .enumerate()
        .map(|(i, map)| AnnotatedMap { map, mask: of(i), width: side, height: side })
        .collect();

    let mut group = c.benchmark_group("metrics");
    group.throughput(Throughput::Elements(images as u64)).sample_size(10);
    group.sampling_mode(SamplingMode::Flat).warm_up_time(Duration::from_millis(1));
    group.bench_function(BenchmarkId::new("pixels", images), |b| {
        b.iter(|| black_box(metrics::pixel_metrics(&annotated, metrics::FPR_LIMIT).unwrap()));
    });
    group.bench_function(BenchmarkId::new("aupimo", images), |b| {
        b.iter(|| black_box(metrics::aupimo(&annotated, &PimoOptions::default()).unwrap()));
    });
    group.finish();
}
