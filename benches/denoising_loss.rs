//! The loss of a batch of predictions and its gradient.
//!
//! Small batches fit a cache, which can be faster than the ceiling: a copy in memory.

use criterion::Criterion;
use invad::DType;
use invad::ops::{self, Target};

use crate::common::{Work, batches, measure, normal_on_device, stored, zeros};

pub fn denoising_loss(c: &mut Criterion) {
    let mut group = c.benchmark_group("denoising_loss");
    for &batch in batches() {
        let shape = [batch, 16, 16, 272];
        let prediction = normal_on_device(&shape, 1.0, 0, stored());
        let x0 = normal_on_device(&shape, 1.0, 1, stored());
        let noise = normal_on_device(&shape, 1.0, 2, DType::F32);
        let [a, s, weight, slope] =
            [3, 4, 5, 6].map(|step| normal_on_device(&[batch], 1.0, step, DType::F32));
        let (mut loss, mut gradient) = (zeros(&[batch], DType::F32), zeros(&shape, stored()));
        let bytes = noise.len() * (3 * stored().size() + DType::F32.size());
        measure(&mut group, "features", batch, Work::Bytes(bytes as f64), || {
            let target = Target {
                x0: x0.view(),
                noise: noise.view(),
                signal_scale: a.view(),
                noise_scale: s.view(),
            };
            let gradient = Some(gradient.view_mut());
            ops::denoising_loss(&prediction, target, &weight, &slope, &mut loss, gradient).unwrap();
        });
    }
    group.finish();
}
