//! A training step: noising, forward, loss, backward, clipping, AdamW, EMA.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use invad::checkpoint::{BackboneId, Ema, Recipe, TrainingConfig};
use invad::nn::DitConfig;
use invad::{DType, Device, Tensor, Trainer, ops};

/// 272 channels on a grid of 16, ε-prediction.
fn trainer(width: usize, depth: usize, heads: usize, batch: usize) -> Trainer {
    let denoiser = DitConfig { channels: 272, grid: 16, width, depth, heads, patch: 1 };
    let config = TrainingConfig {
        recipe: Recipe { batch, ema: Ema::Constant(0.999), ..Recipe::paper() },
        denoiser,
        backbone: BackboneId { name: "none".into(), hash: String::new(), image_size: 256 },
        seed: 0,
        steps: 1_000_000,
        categories: Vec::new(),
    };
    let mut features = Tensor::zeros(&[64, 16, 16, 272], DType::F32, Device::Cpu).unwrap();
    let random = ops::Random { seed: 1, stream: ops::Stream::Noise, step: 0 };
    ops::normal(random, &mut features).unwrap();
    Trainer::new(config, features, Device::Cpu).unwrap()
}

fn training(c: &mut Criterion) {
    let mut group = c.benchmark_group("training");
    for (name, width, depth, heads, batch) in [("w256d4", 256, 4, 8, 8), ("w128d2", 128, 2, 2, 8)] {
        let mut trainer = trainer(width, depth, heads, batch);
        group.sample_size(10).throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new(name, batch), |b| {
            b.iter(|| black_box(trainer.step().unwrap()));
        });
    }
    group.finish();
}

criterion_group!(benches, training);
criterion_main!(benches);
