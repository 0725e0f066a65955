//! Nearest vectors: an inverted file.

use rayon::prelude::*;

use crate::cpu::gemm::{Epilogue, Mat, Packed, Threads, gemm};
use crate::ops::{Random, Stream};

/// The most vectors that are all compared with a query.
const MANY: usize = 1 << 13;
/// How often the lists are divided anew around their means.
const ROUNDS: usize = 4;
/// Lists that a query is compared with.
const PROBES: usize = 16;
/// Queries that one task multiplies with a list.
const QUERIES: usize = 128;

/// Vectors in lists, each around a mean, about as many as the root of their number. A query is compared with
/// the lists of the 16 nearest means (Sivic & Zisserman, 2003); up to 8192 vectors are one list, so that
/// nothing is missed.
pub(super) struct Index {
    means: List,
    lists: Vec<List>,
}

impl Index {
    /// The index of `vectors`: (n, C), n ≥ 1.
    pub fn new(vectors: Vec<f32>, channels: usize) -> Self {
        let n = vectors.len() / channels;
        let mut lists = vec![vectors];
        if n > MANY {
            let random = Random { seed: 0, stream: Stream::Lists, step: 0 };
            let first = random.permutation(n);
            let vector = |&i: &usize| lists[0][i * channels..][..channels].to_vec();
            let mut means: Vec<f32> = first[..n.isqrt()].iter().flat_map(vector).collect();
            for _ in 0..ROUNDS {
                lists = divide(&lists, means, channels);
                means = means_of(&lists, channels);
            }
        }
        let means = List::new(means_of(&lists, channels), channels);
        let lists = lists.into_par_iter().map(|vectors| List::new(vectors, channels)).collect();
        Self { means, lists }
    }

    /// The distance of each query to the nearest vector that is found. `queries`: (m, C).
    ///
    /// It does not depend on the other queries.
    pub fn distances(&self, queries: &[f32]) -> Vec<f32> {
        let c = self.means.channels;
        let query = |q: usize| &queries[q * c..][..c];
        let mut asked = vec![Vec::new(); self.lists.len()];
        let probes = self.means.each(queries, |nearness| {
            let mut lists: Vec<usize> = (0..nearness.len()).collect();
            let probes = PROBES.min(lists.len());
            let order = |a: &usize, b: &usize| nearness[*b].total_cmp(&nearness[*a]).then(a.cmp(b));
            lists.select_nth_unstable_by(probes - 1, order);
            lists[..probes].to_vec()
        });
        for (q, probes) in probes.into_iter().enumerate() {
            probes.into_iter().for_each(|list| asked[list].push(q));
        }
        let found = self.lists.par_iter().zip(asked).flat_map_iter(|(list, asked)| {
            let gathered: Vec<f32> = asked.iter().flat_map(|&q| query(q)).copied().collect();
            let nearest = list.nearest(&gathered);
            // Small distances between long vectors: without the cancellation.
            asked
                .into_iter()
                .zip(nearest)
                .map(move |(q, i)| (q, distance(query(q), list.vector(i))))
        });
        let mut distances = vec![f32::INFINITY; queries.len() / c];
        for (q, distance) in found.collect::<Vec<_>>() {
            distances[q] = distances[q].min(distance);
        }
        distances
    }
}

/// Vectors, ready to be multiplied.
struct List {
    channels: usize,
    /// (n, C).
    vectors: Vec<f32>,
    /// Their transpose.
    packed: Packed,
    /// −½·|v|² of each.
    halves: Vec<f32>,
}

impl List {
    fn new(vectors: Vec<f32>, channels: usize) -> Self {
        let n = vectors.len() / channels;
        let packed = Packed::new(Mat::new(&vectors, n, channels).t());
        let half = |v: &[f32]| -0.5 * v.iter().map(|v| v * v).sum::<f32>();
        let halves = vectors.chunks_exact(channels).map(half).collect();
        Self { channels, vectors, packed, halves }
    }

    fn vector(&self, i: usize) -> &[f32] {
        &self.vectors[i * self.channels..][..self.channels]
    }

    /// What `f` makes of the nearness of each query to all vectors: x·v − ½·|v|², which is ½·|x|² less half
    /// the square of the distance.
    fn each<T: Send>(&self, queries: &[f32], f: impl Fn(&[f32]) -> T + Sync) -> Vec<T> {
        let (n, c) = (self.halves.len(), self.channels);
        let parts = queries.par_chunks(QUERIES * c).flat_map_iter(|x| {
            let mut nearness = vec![0.0; x.len() / c * n];
            let epilogue = Epilogue { bias: Some(&self.halves), ..Default::default() };
            let x = Mat::new(x, x.len() / c, c);
            gemm(x, &self.packed, &mut nearness, n, epilogue, Threads::One);
            nearness.chunks_exact(n).map(&f).collect::<Vec<_>>()
        });
        parts.collect()
    }

    /// Which vector is nearest to each query.
    fn nearest(&self, queries: &[f32]) -> Vec<usize> {
        self.each(queries, |nearness| {
            let mut nearest = 0;
            for (i, &near) in nearness.iter().enumerate() {
                if near > nearness[nearest] {
                    nearest = i;
                }
            }
            nearest
        })
    }
}

/// The vectors of all lists, divided by which of `means` is nearest; no list is empty.
fn divide(lists: &[Vec<f32>], means: Vec<f32>, channels: usize) -> Vec<Vec<f32>> {
    let means = List::new(means, channels);
    let mut divided = vec![Vec::new(); means.halves.len()];
    for list in lists {
        for (vector, to) in list.chunks_exact(channels).zip(means.nearest(list)) {
            divided[to].extend_from_slice(vector);
        }
    }
    divided.retain(|list| !list.is_empty());
    divided
}

/// The mean of each list, (lists, C).
fn means_of(lists: &[Vec<f32>], channels: usize) -> Vec<f32> {
    let mean = |list: &Vec<f32>| {
        let mut sums = vec![0.0; channels];
        for vector in list.chunks_exact(channels) {
            sums.iter_mut().zip(vector).for_each(|(s, &v)| *s += f64::from(v));
        }
        let n = (list.len() / channels) as f64;
        sums.into_iter().map(move |s| (s / n) as f32)
    };
    lists.par_iter().flat_map_iter(mean).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
}
