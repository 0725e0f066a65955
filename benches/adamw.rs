//! The optimiser over all parameters of a network: the gradient's norm, and the step.

use criterion::Criterion;
use invad::denoisers::{Denoiser, Dit};
use invad::ops::{self, AdamW, Moved};
use invad::{DType, Device, Tensor};

use crate::common::{Work, device, measure, normal_on_device, presets, stored, zeros};

pub fn adamw(c: &mut Criterion) {
    let (name, sizes) = presets()[0];
    let len = Dit::new(sizes).unwrap().len();
    let gradient = normal_on_device(&[len], 1e-3, 0, DType::F32);
    let numbers = AdamW { learning_rate: 1e-4, ..AdamW::default() }.numbers(1, 1.0, 0.999).unwrap();
    let numbers = Tensor::from_f32(numbers.to_vec(), &[AdamW::NUMBERS], device()).unwrap();
    let mut norm = zeros(&[2], DType::F32);
    let size = DType::F32.size();

    let mut group = c.benchmark_group("global_norm");
    measure(&mut group, name, 1, Work::Bytes((len * size) as f64), || {
        ops::global_norm(&gradient, 1.0, &numbers, &mut norm).unwrap();
    });
    group.finish();

    let [mut parameters, mut m, mut v, mut average] = [(); 4].map(|()| zeros(&[len], DType::F32));
    let mut rounded = (device() != Device::Cpu).then(|| zeros(&[len], stored()));
    ops::global_norm(&gradient, 1.0, &numbers, &mut norm).unwrap();
    // The gradient is read, four tensors are read and written, one is written.
    let bytes = len * (9 * size + rounded.as_ref().map_or(0, |t| t.dtype().size()));
    let mut group = c.benchmark_group("adamw");
    measure(&mut group, name, 1, Work::Bytes(bytes as f64), || {
        let moved = Moved {
            parameters: parameters.view_mut(),
            m: m.view_mut(),
            v: v.view_mut(),
            average: Some(average.view_mut()),
            rounded: rounded.as_mut().map(Tensor::view_mut),
        };
        ops::adamw(&gradient, &numbers, &norm, 0, moved).unwrap();
    });
    group.finish();
}
