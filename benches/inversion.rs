//! Three-step inversion of features to their latent, and its score.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use invad::checkpoint::Preset;
use invad::diffusion::{Inverter, Parameterisation};
use invad::nn::Dit;
use invad::{DType, Device, Tensor, ops};

/// Normal numbers, none of them zero.
fn normal(shape: &[usize], scale: f32, step: u64) -> Tensor {
    let mut values = Tensor::zeros(shape, DType::F32, Device::Cpu).unwrap();
    let random = ops::Random { seed: 1, stream: ops::Stream::Noise, step };
    ops::normal(random, &mut values).unwrap();
    let scaled = values.to_vec_f32().into_iter().map(|v| scale * v).collect();
    Tensor::from_f32(scaled, shape, Device::Cpu).unwrap()
}

fn inversion(c: &mut Criterion) {
    let mut group = c.benchmark_group("inversion");
    let dit = Dit::new(Preset::Base.config(272, 16)).unwrap();
    let parameters = normal(&[dit.len()], 0.02, 0);
    let inverter =
        Inverter::new(&dit, &parameters, Parameterisation::Epsilon, 3, 100, Device::Cpu).unwrap();
    drop(parameters);
    for batch in [1, 4] {
        let mut latent = normal(&[batch, 16, 16, 272], 1.0, 1);
        let x = latent.to_vec_f32();
        let mut space = inverter.workspace(batch).unwrap();
        let mut map = Tensor::zeros(&[batch, 256], DType::F32, Device::Cpu).unwrap();
        let mut stats = Tensor::zeros(&[batch, ops::SCORE_STATS], DType::F32, Device::Cpu).unwrap();
        group.sample_size(10).throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("base", batch), |b| {
            b.iter(|| {
                latent.view_mut().copy_from_slice(&x).unwrap();
                inverter.invert(&mut latent, &mut space).unwrap();
                let tokens = latent.view().part(0, &[batch, 256, 272]).unwrap();
                ops::score(tokens, &mut map, &mut stats).unwrap();
            });
        });
        assert!(stats.to_vec_f32().iter().all(|v| v.is_finite()));
    }
    group.finish();
}

criterion_group!(benches, inversion);
criterion_main!(benches);
