//! Three-step inversion of features to their latent, and its score.

use criterion::Criterion;
use invad::diffusion::{Inverter, Parameterisation};
use invad::{DType, Device, Precision, Products, ops};

use crate::common::{
    Work, batches, device, is_picked, is_test, measure_calls, networks, normal, normal_on_device,
    stored, zeros,
};

const STEPS: usize = 3;

pub fn inversion(c: &mut Criterion) {
    let mut group = c.benchmark_group("inversion");
    let on_gpu = [1, 4, 8, 16, 64];
    let batches = if device() == Device::Cpu || is_test() { batches() } else { &on_gpu };
    for (name, network, flops) in networks() {
        // It takes a CPU minutes.
        if device() == Device::Cpu && ["gigant", "unet"].contains(&name) {
            continue;
        }
        let label = |products: Option<Products>| {
            products.map_or(name.to_string(), |products| format!("{name}-{products}"))
        };
        let mut kinds = vec![None, Some(Products::Int8), Some(Products::Bf16)];
        kinds.retain(|&products| is_picked("inversion", &label(products)));
        if kinds.is_empty() {
            continue;
        }
        let parameters = normal(&[network.len()], 0.02, 0);
        let kind = Parameterisation::Epsilon;
        for products in kinds {
            let precision = Precision::of(device()).with_products(products);
            if precision.require("inversion", device()).is_err() {
                continue;
            }
            let label = label(products);
            let evaluations = (STEPS, 100);
            let inverter = Inverter::in_precision(
                &*network,
                &parameters,
                kind,
                evaluations,
                device(),
                precision,
            )
            .unwrap();
            for &batch in batches {
                let shape = [batch, 16, 16, 272];
                let features = normal_on_device(&shape, 1.0, 1, stored());
                let host = if device() == Device::Cpu { features.to_vec_f32() } else { Vec::new() };
                let mut latent = zeros(&shape, DType::F32);
                let mut space = inverter.workspace(batch).unwrap();
                let work = Work::Flops((batch * STEPS) as f64 * flops);
                measure_calls(&mut group, &label, batch, work, || {
                    match device() {
                        Device::Cpu => latent.view_mut().copy_from_slice(&host).unwrap(),
                        // A copy that stays on the GPU, as the features of a network do.
                        Device::Cuda(_) => {
                            ops::inversion_step(&mut latent, &features, 0.0, 1.0).unwrap();
                        }
                    }
                    inverter.score(&mut latent, &mut space).unwrap();
                });
                let (_, stats) = inverter.score(&mut latent, &mut space).unwrap();
                assert!(stats.to_vec_f32().iter().all(|v| v.is_finite()));
            }
        }
    }
    group.finish();
}
