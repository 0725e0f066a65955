//! One step of the inversion, on the latent that all presets have.
//!
//! Small batches fit a cache, which can be faster than the ceiling: a copy in memory.

use criterion::Criterion;
use invad::{DType, ops};

use crate::common::{Work, batches, measure, normal_on_device, stored};

pub fn ddim_inversion(c: &mut Criterion) {
    let mut group = c.benchmark_group("ddim_inversion");
    for &batch in batches() {
        let shape = [batch, 16, 16, 272];
        let mut x = normal_on_device(&shape, 1.0, 0, DType::F32);
        let output = normal_on_device(&shape, 1.0, 1, stored());
        let bytes = x.len() * (2 * DType::F32.size() + stored().size());
        let work = Work::Bytes(bytes as f64);
        measure(&mut group, "latent", batch, work, || {
            // Factors that keep x bounded, however often they are applied.
            ops::inversion_step(&mut x, &output, 0.9, 0.1).unwrap();
        });
    }
    group.finish();
}
