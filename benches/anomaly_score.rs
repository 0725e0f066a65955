//! The score of a latent: the map of norms and what is taken from it.
//!
//! Small batches fit a cache, which can be faster than the ceiling: a copy in memory.

mod common;

use common::{Work, batches, measure, normal_on_device, zeros};
use criterion::{Criterion, criterion_group, criterion_main};
use invad::{DType, ops};

fn anomaly_score(c: &mut Criterion) {
    const TOKENS: usize = 256;
    let mut group = c.benchmark_group("anomaly_score");
    for &batch in batches() {
        let latent = normal_on_device(&[batch, TOKENS, 272], 1.0, 0, DType::F32);
        let mut map = zeros(&[batch, TOKENS], DType::F32);
        let mut stats = zeros(&[batch, ops::SCORE_STATS], DType::F32);
        let bytes = (latent.len() + map.len() + stats.len()) * DType::F32.size();
        let work = Work::Bytes(bytes as f64);
        measure(&mut group, "latent", batch, work, || {
            ops::score(&latent, &mut map, &mut stats).unwrap();
        });
    }
    group.finish();
}

criterion_group!(benches, anomaly_score);
criterion_main!(benches);
