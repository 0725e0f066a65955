//! How normal images score, those that took no part in training above all.

use std::collections::BTreeMap;

/// What an image's latent amounts to. `max`, `block` and `top5` are of the map
/// ([`AnomalyMap`](crate::detect::AnomalyMap)); `abs` and `nll` are always of the latent as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageStats {
    /// The largest cell of the map.
    pub max: f32,
    /// Abs, the largest norm of the latent less the smallest.
    pub abs: f32,
    /// The largest mean of 2 × 2 neighbouring cells of the map; the norm of order 4 of all of them where there
    /// is a prior.
    pub block: f32,
    /// The mean of the 5 largest cells of the map.
    pub top5: f32,
    /// The negative log-likelihood under the prior, in nats ([`negative_log_likelihood`](crate::ops::negative_log_likelihood)).
    pub nll: f64,
}

/// The statistics of normal images, by category.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Category → its held-out images.
    pub categories: BTreeMap<String, Vec<ImageStats>>,
    /// Category → its training images, where they are known: held against each other where there is a prior.
    /// A detector scores these too low, but they vary as new ones do, and there are more of them.
    pub trained: BTreeMap<String, Vec<ImageStats>>,
}
