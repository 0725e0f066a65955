//! Options of several programs.

use std::path::Path;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use invad::backbones;
use invad::detect::{ScoreKind, ScoreOptions, Threshold};
use invad::{Detector, Device, Error, Result};

/// A number of things of which there is one or more; more than 2³⁰ are none that a program could have.
pub fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1 << 30)
}

/// A number of optimiser steps, which are counted in 31 bits.
pub fn steps() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..=i32::MAX as u64)
}

/// Where images are scored.
#[derive(Args)]
pub struct Computing {
    /// Where to compute: cpu, cuda, cuda:N or best
    #[arg(long, default_value = "best")]
    device: Device,
    /// Images to compute at once; they cost memory
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
}

impl Computing {
    /// Whether the device can be used.
    pub fn require(&self) -> Result<()> {
        self.device.require()
    }

    /// Where, and how many at once.
    pub fn place(&self) -> (Device, usize) {
        (self.device, self.batch.into())
    }

    /// The detector of a file.
    pub fn detector(&self, path: &Path) -> Result<Detector> {
        if path.is_dir() {
            let reason = "is a folder; name a file in it, as CATEGORY/detector.safetensors";
            return Err(Error::file(path, reason));
        }
        self.ready(Detector::load(path)?)
    }

    /// A detector where it is to compute.
    pub fn ready(&self, detector: Detector) -> Result<Detector> {
        detector.to_device(self.device)?.with_batch_size(self.batch.into())
    }
}

/// The name of a backbone that there is; whether its weights are there shows later.
pub fn backbone(name: &str) -> std::result::Result<String, String> {
    let known = backbones::known();
    match known.iter().any(|known| known == name) {
        true => Ok(name.into()),
        false => Err(format!("it should be one of {}", known.join(", "))),
    }
}

/// How images are judged.
#[derive(Args)]
pub struct Judging {
    /// Which number is the score of an image, in standard deviations above the mean of held-out
    /// normal images
    #[arg(long, value_enum, default_value = "block")]
    score: Score,
    #[command(flatten)]
    limit: Limit,
}

/// From which score on an image is anomalous.
#[derive(Args)]
#[group(multiple = false)]
struct Limit {
    /// Images are anomalous that are as rare among normal ones as a Gaussian's values X standard
    /// deviations above its mean; with few held-out images that takes a higher score [default: 3]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    threshold: Option<f64>,
    /// Images are anomalous above the score that a share Q (0 to 1) of the held-out normal images
    /// does not exceed
    #[arg(long, value_name = "Q", allow_negative_numbers = true, value_parser = share)]
    quantile: Option<f64>,
    /// Images are anomalous from the score S
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = finite)]
    threshold_score: Option<f64>,
}

fn finite(text: &str) -> std::result::Result<f64, &'static str> {
    text.parse().ok().filter(|value: &f64| value.is_finite()).ok_or("not a finite number")
}

fn share(text: &str) -> std::result::Result<f64, &'static str> {
    let value = finite(text)?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("not in 0..=1") }
}

#[derive(Clone, Copy, ValueEnum)]
enum Score {
    /// Norm of order 4 of the means of 2 × 2 neighbouring values of the map; for a detector of an older
    /// version, or of the paper's recipe, the largest
    Block,
    /// Mean of the 5 largest values of the map
    Top5,
    /// Largest less smallest norm of the latent
    Abs,
    /// Negative log-likelihood
    Nll,
    /// Sum of abs and nll
    Both,
}

impl Judging {
    /// The options for a detector.
    pub fn options(&self, category: Option<String>) -> ScoreOptions {
        let Limit { threshold, quantile, threshold_score } = self.limit;
        let kind = match self.score {
            Score::Block => ScoreKind::Block,
            Score::Top5 => ScoreKind::Top5,
            Score::Abs => ScoreKind::Abs,
            Score::Nll => ScoreKind::Nll,
            Score::Both => ScoreKind::Both,
        };
        let threshold = threshold
            .map(Threshold::StandardDeviations)
            .or(quantile.map(Threshold::Quantile))
            .or(threshold_score.map(Threshold::Score))
            .unwrap_or_default();
        ScoreOptions::default().category(category).kind(kind).threshold(threshold)
    }
}
