//! A training step: noising, forward, loss, backward, clipping, AdamW, EMA. Operations are those of the
//! matrix products and the attention, three times those of a forward pass; what is computed again is
//! not counted.

use std::hint::black_box;

use criterion::Criterion;
use invad::checkpoint::{BackboneId, Ema, Recipe, TrainingConfig};
use invad::denoisers::{DenoiserId, DitConfig};
use invad::train::{Average, Resources};
use invad::{DType, Device, Error, Tensor, Trainer, ops};

use crate::common::{
    Network, Work, device, is_picked, is_test, measure_calls, networks, small_mlp, transformer,
};

/// 272 channels on a grid of 16, ε-prediction. As much of the batch at once as the device has memory for.
fn trainer(denoiser: DenoiserId, batch: usize, resources: Resources) -> Trainer {
    let config = TrainingConfig {
        recipe: Recipe::paper().batch(batch).ema(Ema::Constant(0.999)),
        denoiser,
        backbone: BackboneId { name: "none".into(), hash: String::new(), image_size: 256 },
        seed: 0,
        steps: 1_000_000,
        categories: Vec::new(),
    };
    let mut features = Tensor::zeros(&[64, 16, 16, 272], DType::F32, Device::Cpu).unwrap();
    let random = ops::Random { seed: 1, stream: ops::Stream::Noise, step: 0 };
    ops::normal(random, &mut features).unwrap();
    let mut micro_batch = batch;
    loop {
        let resources = resources.micro_batch(Some(micro_batch));
        match Trainer::new(config.clone(), features.clone(), resources) {
            Err(Error::TooLarge { .. }) if micro_batch > 1 => micro_batch /= 2,
            trainer => return trainer.unwrap(),
        }
    }
}

pub fn training(c: &mut Criterion) {
    let mut group = c.benchmark_group("training");
    let sizes =
        |width, depth, heads| DitConfig { channels: 272, grid: 16, width, depth, heads, patch: 1 };
    let here = Resources::from(device());
    let small = here.moments(DType::BF16).average(Average::Host { every: 1_000_000 });
    let mut cases: Vec<(Network, usize, Resources)> = Vec::new();
    if device() == Device::Cpu {
        cases.push((transformer("w256d4", sizes(256, 4, 8)), 8, here));
        cases.push((transformer("w128d2", sizes(128, 2, 2)), 8, here));
        cases.push((small_mlp(), 8, here));
    } else {
        for network in networks() {
            let is_large = ["gigant", "unet"].contains(&network.0);
            let resources = if is_large { small } else { here };
            let batches: &[_] = if is_test() { &[1] } else { &[8, 64] };
            cases.extend(batches.iter().map(|&batch| (network.clone(), batch, resources)));
        }
    }
    cases.retain(|((name, ..), ..)| is_picked("training", name));
    for ((name, denoiser, flops), batch, resources) in cases {
        let mut trainer = trainer(denoiser.id(), batch, resources);
        let work = Work::Flops(3.0 * batch as f64 * flops);
        measure_calls(&mut group, name, batch, work, || {
            black_box(trainer.step().unwrap());
        });
    }
    group.finish();
}
