//! Per-image overlap against false positives on normal images alone, and the area under it.

use rayon::prelude::*;

use super::curve::sort;
use super::pixel::AnnotatedMap;
use crate::error::{Error, Result};

const OP: &str = "aupimo";
/// Thresholds that a thread takes at once.
const PART: usize = 1 << 12;
/// Points of a curve that are too few to integrate.
const TOO_FEW: usize = 30;

/// At which thresholds AUPIMO is computed and between which false positive rates it is integrated.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PimoOptions {
    /// Thresholds, evenly from the smallest to the largest score of the normal images.
    pub thresholds: usize,
    /// The false positive rates.
    pub fpr: [f64; 2],
}

impl Default for PimoOptions {
    /// 300,000 thresholds, rates from 1e-5 to 1e-4, as published.
    fn default() -> Self {
        Self { thresholds: 300_000, fpr: [1e-5, 1e-4] }
    }
}

setters!(PimoOptions { thresholds: usize, fpr: [f64; 2] });

/// Areas under the per-image overlap curves; see [`aupimo`].
#[derive(Clone, Debug, PartialEq)]
pub struct Aupimo {
    /// The area of each anomalous image, in their order, in [0, 1].
    pub images: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// The thresholds between which it is integrated: the first has the largest rate.
    pub thresholds: [f64; 2],
    /// Their indices among all thresholds.
    pub indices: [usize; 2],
    /// The false positive rates there.
    pub fpr: [f64; 2],
    /// Points of the integral.
    pub points: usize,
}

/// The area under each anomalous image's overlap over the logarithm of the normal images' false positive rate.
///
/// A pixel is flagged where its score ≥ θ. F(θ): the flagged part of a normal image, in the mean over normal images,
/// which are those without an anomalous pixel. T(θ): the flagged part of an anomalous image's anomalous pixels. θ runs
/// through evenly spaced thresholds ([`PimoOptions`]); from the one at which F is nearest to the larger rate U to the
/// one at which it is nearest to the smaller L, ∫ T d ln F by trapezoids, divided by ln(U/L). So a detector that finds all
/// gets less than 1 where F does not come to lie at the rates. After Bertoldo et al., "AUPIMO: Redefining Visual Anomaly
/// Detection Benchmarks with High Speed and Low Tolerance", 2024. Images may differ in size.
///
/// # Errors
/// [`Error::Shape`] if a map or a mask has not `height` × `width` pixels; [`Error::Argument`] if there is no normal or
/// no anomalous image, a score is not finite, all scores of normal images are the same, the rates are not
/// 0 < L < U ≤ 1, F does not reach down to L (its least is one pixel's part of all normal ones at best, so that the
/// default needs 100,000 of them), or thresholds between the rates are 30 or fewer.
pub fn aupimo(images: &[AnnotatedMap<'_>], options: &PimoOptions) -> Result<Aupimo> {
    let PimoOptions { thresholds: count, fpr: [lower, upper] } = *options;
    let refused =
        |arg, expected: &str, got: String| Err(Error::argument(OP, arg, expected.to_string(), got));
    if !(0.0 < lower && lower < upper && upper <= 1.0) {
        return refused("fpr", "0 < lower < upper ≤ 1", format!("{lower}, {upper}"));
    }
    if !(2..=1 << 24).contains(&count) {
        return refused("thresholds", "in 2..=16777216", count.to_string());
    }
    let (mut normal, mut anomalous) = (Vec::new(), Vec::new());
    for (i, image) in images.iter().enumerate() {
        image.check(OP, i)?;
        if let Some(bad) = image.map.iter().find(|score| !score.is_finite()) {
            return refused("map", "finite numbers", format!("{bad} in image {i}"));
        }
        let pixels = image.map.iter().zip(image.mask).filter(|(_, anomalous)| **anomalous);
        let pixels: Vec<f32> = pixels.map(|(score, _)| *score).collect();
        if !pixels.is_empty() {
            anomalous.push(pixels);
        } else if !image.map.is_empty() {
            normal.push(image.map.to_vec());
        }
    }
    if normal.is_empty() || anomalous.is_empty() {
        let got = format!("{} normal, {} anomalous", normal.len(), anomalous.len());
        return refused("images", "normal and anomalous ones", got);
    }
    normal.par_iter_mut().chain(&mut anomalous).for_each(|scores| sort(scores));
    let thresholds = Thresholds::of(&normal, count)?;

    let mut fpr = vec![0.0; count];
    fpr.par_chunks_mut(PART).enumerate().for_each(|(part, fpr)| {
        let start = part * PART;
        for scores in &normal {
            thresholds.flagged(scores, start..start + fpr.len(), |i, flagged| fpr[i] += flagged);
        }
        fpr.iter_mut().for_each(|sum| *sum /= normal.len() as f64);
    });
    if lower < fpr[count - 1] || upper > fpr[0] {
        let got = format!("{:e} to {:e}", fpr[count - 1], fpr[0]);
        let expected =
            format!("scores whose false positive rates reach from {lower:e} to {upper:e}");
        return refused("images", &expected, got);
    }
    let (first, last) = (nearest(&fpr, upper), nearest(&fpr, lower));
    let points = (last + 1).saturating_sub(first);
    if points <= TOO_FEW {
        let got = format!("{points}, with {count} in all");
        return refused("thresholds", "more than 30 between the false positive rates", got);
    }
    let logs: Vec<f64> = fpr[first..=last].iter().map(|rate| rate.ln()).collect();
    let area = |scores: &Vec<f32>| {
        let (mut area, mut before) = (0.0, None);
        thresholds.flagged(scores, first..last + 1, |i, part| {
            if let Some(before) = before {
                area += 0.5 * (before + part) * (logs[i - 1] - logs[i]);
            }
            before = Some(part);
        });
        (area / (upper / lower).ln()).clamp(0.0, 1.0)
    };
    let images: Vec<f64> = anomalous.par_iter().map(area).collect();
    Ok(Aupimo {
        mean: images.iter().sum::<f64>() / images.len() as f64,
        images,
        thresholds: [thresholds.at(first), thresholds.at(last)],
        indices: [first, last],
        fpr: [fpr[first], fpr[last]],
        points,
    })
}

/// Evenly spaced thresholds, ascending.
struct Thresholds {
    ends: [f64; 2],
    count: usize,
}

impl Thresholds {
    /// From the least to the largest of these scores, each of which ascend.
    fn of(normal: &[Vec<f32>], count: usize) -> Result<Self> {
        let least = normal.iter().map(|scores| scores[0]).fold(f32::INFINITY, f32::min);
        let largest = normal.iter().map(|scores| scores[scores.len() - 1]);
        let largest = largest.fold(f32::NEG_INFINITY, f32::max);
        if least == largest {
            let expected = "such that scores of normal images differ";
            return Err(Error::argument(OP, "images", expected, format!("{least} everywhere")));
        }
        Ok(Self { ends: [least.into(), largest.into()], count })
    }

    /// From the nearer end, so that both are met exactly.
    fn at(&self, i: usize) -> f64 {
        let [first, last] = self.ends;
        let step = (last - first) / (self.count - 1) as f64;
        match 2 * i < self.count {
            true => first + step * i as f64,
            false => last - step * (self.count - 1 - i) as f64,
        }
    }

    /// Hands over the part of the scores, which ascend, at or above each threshold of a range; indices from its start.
    fn flagged(
        &self,
        scores: &[f32],
        range: std::ops::Range<usize>,
        mut each: impl FnMut(usize, f64),
    ) {
        let first = self.at(range.start);
        let mut below = scores.partition_point(|&score| f64::from(score) < first);
        for i in range.clone() {
            let threshold = self.at(i);
            while below < scores.len() && f64::from(scores[below]) < threshold {
                below += 1;
            }
            each(i - range.start, (scores.len() - below) as f64 / scores.len() as f64);
        }
    }
}

/// The first index at which `rates` comes nearest to `rate`.
fn nearest(rates: &[f64], rate: f64) -> usize {
    let apart = |i: usize| (rates[i] - rate).abs();
    (1..rates.len()).fold(0, |best, i| if apart(i) < apart(best) { i } else { best })
}
