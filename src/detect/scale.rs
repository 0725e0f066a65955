//! How raw numbers become scores.

use super::measure::Measured;
use super::{AnomalyMap, Moments, Scored, drift};
use crate::checkpoint::{Checkpoint, ImageStats};
use crate::error::{Error, Result};

/// Which deviation from the mean counts as anomalous by default, see [`Moments::bound`].
pub(crate) const DEVIATIONS: f64 = 3.0;

/// How much the numbers of normal images vary, in parts of their mean, where a single held-out image
/// says nothing of it: about what it is where there are more, of latents and of what stands out.
const LONE_SPREAD: f64 = 0.05;
pub(crate) const LONE_SPREAD_STANDING_OUT: f64 = 0.2;

/// From how many standard deviations above that of normal images on a negative log-likelihood is that of something
/// else, and the least standard deviation, in parts of the mean: of good images of other days, of light a little
/// different, it is up to 5 % higher, of more noise, less contrast or a shift up to 14 %, of other things from 15 % to
/// several times.
const UNFAMILIAR: f64 = 5.0;
const LEAST_SPREAD_OF_NLL: f64 = 0.03;

/// Which number is an image's score. All are standardised with held-out normal images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScoreKind {
    /// The largest mean of 2 × 2 neighbouring cells of the map, or with a [`Prior`](crate::gaussian::Prior) the norm of order 4 of all of
    /// them ([`AnomalyMap::block`]): a defect's cells touch each other, chance peaks need not.
    #[default]
    Block,
    /// The mean of the 5 largest cells of the map.
    Top5,
    /// Abs, the latent's largest norm less its smallest, whatever the map is.
    Abs,
    /// The latent's negative log-likelihood.
    Nll,
    /// The sum of the standardised Abs and NLL.
    Both,
}

/// From which score on an image counts as anomalous.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// As rare among normal images as a Gaussian's values so many standard deviations above its
    /// mean. The fewer the held-out images, the less is known of mean and spread, and the higher is
    /// the score that this takes: [`Moments::bound`].
    StandardDeviations(f64),
    /// The score that this share of the held-out normal images does not exceed.
    Quantile(f64),
    /// This score. Where it is not the detector's own, cells of the map are judged as with the default.
    Score(f64),
}

impl Default for Threshold {
    fn default() -> Self {
        Threshold::StandardDeviations(DEVIATIONS)
    }
}

/// How to score.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ScoreOptions {
    /// The category whose held-out images calibrate the score; `None` for each image that which it is
    /// likeliest of, or without a [`Prior`](crate::gaussian::Prior) all of them pooled.
    pub category: Option<String>,
    /// Which number is the score.
    pub kind: ScoreKind,
    /// What counts as anomalous.
    pub threshold: Threshold,
}

setters!(ScoreOptions {
    category: Option<String>,
    kind: ScoreKind,
    threshold: Threshold,
});

/// How raw numbers become scores, by category where there is a prior.
pub(super) struct Scales<'d> {
    /// The categories that images are held against; none without a prior.
    pub names: Vec<&'d str>,
    /// One for each of them, or for all.
    all: Vec<Scale>,
}

impl<'d> Scales<'d> {
    /// Those of the categories that `options` name, or of all.
    pub fn new(checkpoint: &'d Checkpoint, options: &ScoreOptions) -> Result<Self> {
        let calibration = &checkpoint.calibration;
        let names = match (&checkpoint.prior, &options.category) {
            (None, _) => vec![],
            (_, Some(name)) => calibration.categories.get_key_value(name).into_iter().collect(),
            _ => calibration.categories.iter().collect::<Vec<_>>(),
        };
        let names: Vec<&str> = names.into_iter().map(|(name, _)| name.as_str()).collect();
        let scale = |category: Option<&str>| {
            let held_out = calibration.images(category);
            if held_out.is_empty() {
                let known: Vec<_> = calibration.categories.keys().cloned().collect();
                let expected = match known.len() {
                    0 => "calibrated: call `calibrate` first".into(),
                    _ => format!("one of {}", known.join(", ")),
                };
                let got = category.unwrap_or("none");
                return Err(Error::argument("score", "category", expected, got));
            }
            let prior = checkpoint.prior.is_some();
            Scale::new(&held_out, &calibration.trained(category), prior, options)
        };
        let all = match names[..] {
            [] => vec![scale(options.category.as_deref())?],
            _ => names.iter().map(|name| scale(Some(name))).collect::<Result<_>>()?,
        };
        Ok(Self { names, all })
    }

    /// The scores of images of the first category, and its threshold.
    pub fn scores(&self, images: &[ImageStats]) -> (Vec<f64>, f64) {
        let scale = &self.all[0];
        (images.iter().map(|stats| scale.score(stats)).collect(), scale.threshold)
    }

    /// What is said of an image.
    pub fn judge(&self, measured: Measured) -> Scored {
        let category = self.names.get(measured.category).map(|name| name.to_string());
        self.all[measured.category].judge(measured.stats, measured.map, category)
    }
}

/// How raw numbers become scores.
struct Scale {
    kind: ScoreKind,
    abs: Moments,
    block: Moments,
    top5: Moments,
    nll: Moments,
    threshold: f64,
    /// The negative log-likelihood that no familiar image exceeds.
    unfamiliar: f64,
    map_threshold: f32,
    map_range: (f32, f32),
}

impl Scale {
    fn new(
        held_out: &[ImageStats],
        trained: &[ImageStats],
        prior: bool,
        options: &ScoreOptions,
    ) -> Result<Self> {
        let standing_out = if prior { LONE_SPREAD_STANDING_OUT } else { LONE_SPREAD };
        let spread_or = |lone: f64, f: &dyn Fn(&ImageStats) -> f64| {
            let of = |images: &[ImageStats]| Moments::of(images.iter().map(f));
            let moments = of(held_out);
            match held_out.len() {
                1 => moments.lone(lone),
                _ if prior => {
                    let scores: Vec<f64> = held_out.iter().map(f).collect();
                    moments.with_spread_of(of(trained)).with_drift(drift(&scores))
                }
                _ => moments.with_spread_of(of(trained)),
            }
        };
        let spread = |f: &dyn Fn(&ImageStats) -> f64| spread_or(standing_out, f);
        let moments = |f: fn(&ImageStats) -> f32| spread(&|s| f64::from(f(s)));
        let kind = options.kind;
        // In units of the map's cells, as a norm is not.
        let cell: fn(&ImageStats) -> f32 = if prior { |s| s.top5 } else { |s| s.block };
        let cells = moments(cell);
        let mut scale = Self {
            kind,
            abs: spread_or(LONE_SPREAD, &|s| s.abs.into()),
            block: moments(|s| s.block),
            top5: moments(|s| s.top5),
            nll: spread_or(LONE_SPREAD, &|s| s.nll),
            threshold: f64::NAN,
            unfamiliar: f64::INFINITY,
            map_threshold: f32::NAN,
            map_range: (f32::NAN, f32::NAN),
        };
        let map_threshold = match options.threshold {
            Threshold::StandardDeviations(d) if d.is_finite() && held_out.len() == 1 => {
                // It scores 0, and its numbers were divided by their spread.
                let deviations = Moments { mean: 0.0, std: 1.0, count: 1 }.lone_bound(d);
                scale.threshold = match kind {
                    ScoreKind::Both => 2.0 * deviations,
                    _ => deviations,
                };
                cells.lone_bound(d)
            }
            Threshold::StandardDeviations(d) if d.is_finite() => {
                scale.threshold = spread(&|s| scale.score(s)).bound(d);
                cells.bound(d)
            }
            Threshold::Quantile(q) if (0.0..=1.0).contains(&q) => {
                let quantile = |mut values: Vec<f64>| {
                    values.sort_by(f64::total_cmp);
                    let at = (q * values.len() as f64).ceil() as usize;
                    values[at.clamp(1, values.len()) - 1]
                };
                // The next number, so that an image which only reaches the quantile is normal.
                scale.threshold =
                    quantile(held_out.iter().map(|s| scale.score(s)).collect()).next_up();
                quantile(held_out.iter().map(|s| f64::from(cell(s))).collect())
            }
            Threshold::Score(score) if score.is_finite() => {
                scale.threshold = score;
                if kind == ScoreKind::Block {
                    cells.mean + score * cells.std
                } else {
                    cells.bound(DEVIATIONS)
                }
            }
            other => {
                let expected = "a finite number, or a quantile in 0..=1";
                return Err(Error::argument("score", "threshold", expected, format!("{other:?}")));
            }
        };
        scale.map_threshold = map_threshold as f32;
        if prior {
            let Moments { mean, std, .. } = scale.nll;
            scale.unfamiliar = mean + UNFAMILIAR * std.max(LEAST_SPREAD_OF_NLL * mean.abs());
        }
        let Moments { mean, std, .. } = cells;
        // What stands out of an image, does so from 0.
        let low = if prior { 0.0 } else { mean - 0.5 * scale.abs.mean };
        let high = low + 2.0 * (mean + DEVIATIONS * std - low);
        scale.map_range = (low as f32, high as f32);
        Ok(scale)
    }

    fn judge(&self, stats: ImageStats, map: AnomalyMap, category: Option<String>) -> Scored {
        let score = self.score(&stats);
        Scored {
            score,
            threshold: self.threshold,
            is_anomalous: score >= self.threshold,
            is_unfamiliar: stats.nll > self.unfamiliar,
            category,
            stats,
            map,
            map_threshold: self.map_threshold,
            map_range: self.map_range,
        }
    }

    fn score(&self, s: &ImageStats) -> f64 {
        match self.kind {
            ScoreKind::Block => self.block.standardise(f64::from(s.block)),
            ScoreKind::Top5 => self.top5.standardise(f64::from(s.top5)),
            ScoreKind::Abs => self.abs.standardise(f64::from(s.abs)),
            ScoreKind::Nll => self.nll.standardise(s.nll),
            ScoreKind::Both => self.abs.standardise(f64::from(s.abs)) + self.nll.standardise(s.nll),
        }
    }
}
