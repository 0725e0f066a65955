//! How normal images that took no part in training score.

use std::collections::BTreeMap;

/// What an image's latent amounts to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageStats {
    /// The largest norm of the map.
    pub max: f32,
    /// Abs, the largest norm less the smallest.
    pub abs: f32,
    /// The mean of the 5 largest norms.
    pub top5: f32,
    /// The negative log-likelihood under the prior, in nats.
    pub nll: f32,
}

/// Mean and standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// The mean.
    pub mean: f64,
    /// The standard deviation, of n − 1; at least a tiny part of the mean, so that it divides.
    pub std: f64,
}

impl Moments {
    /// The moments of some numbers.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / n.max(1.0);
        let squares: f64 = values.map(|v| (v - mean).powi(2)).sum();
        let std = (squares / (n - 1.0).max(1.0)).sqrt();
        Self { mean, std: std.max(1e-6 * mean.abs()).max(1e-12) }
    }

    /// How many standard deviations `value` lies above the mean.
    pub fn standardise(self, value: f64) -> f64 {
        (value - self.mean) / self.std
    }
}

/// The statistics of held-out normal images, by category.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Category → its held-out images.
    pub categories: BTreeMap<String, Vec<ImageStats>>,
}

impl Calibration {
    /// The held-out images of a category, or of all categories.
    pub fn images(&self, category: Option<&str>) -> Vec<ImageStats> {
        match category {
            Some(name) => self.categories.get(name).cloned().unwrap_or_default(),
            None => self.categories.values().flatten().copied().collect(),
        }
    }
}
