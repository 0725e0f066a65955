//! The score of a latent: the map of norms and what is taken from it. And the distances of features to a
//! Gaussian of each position, whose vectors are read once for all images.
//!
//! Small batches fit a cache, which can be faster than the ceiling: a copy in memory.

use criterion::Criterion;
use invad::{DType, ops};

use crate::common::{Work, batches, measure, normal_on_device, stored, zeros};

pub fn anomaly_score(c: &mut Criterion) {
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

pub fn mahalanobis(c: &mut Criterion) {
    const POSITIONS: usize = 256;
    const VECTORS: usize = 16;
    const CHANNELS: usize = 192;
    let mut group = c.benchmark_group("mahalanobis");
    let mean = normal_on_device(&[POSITIONS, CHANNELS], 0.1, 0, DType::F32);
    let vectors = normal_on_device(&[POSITIONS, VECTORS, CHANNELS], 0.01, 1, DType::F32);
    for &batch in batches() {
        let x = normal_on_device(&[batch, POSITIONS, CHANNELS], 1.0, 2, stored());
        let mut map = zeros(&[batch, POSITIONS], DType::F32);
        let f32s = mean.len() + vectors.len() + map.len();
        let bytes = f32s * DType::F32.size() + x.len() * stored().size();
        measure(&mut group, "features", batch, Work::Bytes(bytes as f64), || {
            ops::mahalanobis(&x, &mean, &vectors, &mut map).unwrap();
        });
    }
    group.finish();
}
