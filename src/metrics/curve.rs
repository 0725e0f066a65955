//! What follows from how the anomalous rank among the normal: AUROC, AP, F1-max.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::error::{Error, Result};

/// A number to rank by: `f32` or `f64`.
pub trait Score: Copy + PartialOrd + Send + Sync + Into<f64> {}

impl Score for f32 {}
impl Score for f64 {}

/// The largest F1 over all thresholds, and where it is reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct F1Max {
    /// F1 = 2·TP / (2·TP + FP + FN); 0 where nothing is anomalous.
    pub value: f64,
    /// The lowest threshold that reaches it: scores ≥ this are flagged.
    pub threshold: f64,
}

/// How well scores separate the anomalous from the normal; see [`image_metrics`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageMetrics {
    /// As [`auroc`].
    pub auroc: Option<f64>,
    /// As [`average_precision`].
    pub ap: f64,
    /// As [`f1_max`].
    pub f1_max: F1Max,
}

/// The area under the ROC curve: the probability that an anomalous score exceeds a normal one, ties
/// counted half. `None` unless there are both normal and anomalous ones.
///
/// `labels`: true for anomalous.
///
/// # Errors
/// [`Error::Shape`] if there are not as many labels as scores; [`Error::Argument`] if there are none
/// or one is NaN.
pub fn auroc<T: Score>(scores: &[T], labels: &[bool]) -> Result<Option<f64>> {
    Ok(Ranking::new("auroc", scores, labels)?.auroc())
}

/// Average precision, Σᵢ (Rᵢ − Rᵢ₋₁)·Pᵢ over the thresholds from the highest down, with precision P
/// and recall R at each. 0 where nothing is anomalous.
///
/// `labels`: true for anomalous.
///
/// # Errors
/// As [`auroc`].
pub fn average_precision<T: Score>(scores: &[T], labels: &[bool]) -> Result<f64> {
    Ok(Ranking::new("average_precision", scores, labels)?.average_precision())
}

/// The largest F1 over all thresholds.
///
/// `labels`: true for anomalous.
///
/// # Errors
/// As [`auroc`].
pub fn f1_max<T: Score>(scores: &[T], labels: &[bool]) -> Result<F1Max> {
    Ok(Ranking::new("f1_max", scores, labels)?.f1_max())
}

/// [`auroc`], [`average_precision`] and [`f1_max`] of the same scores.
///
/// # Errors
/// As [`auroc`].
pub fn image_metrics<T: Score>(scores: &[T], labels: &[bool]) -> Result<ImageMetrics> {
    let ranking = Ranking::new("image_metrics", scores, labels)?;
    Ok(ImageMetrics {
        auroc: ranking.auroc(),
        ap: ranking.average_precision(),
        f1_max: ranking.f1_max(),
    })
}

/// The ROC curve: (false positive rate, recall) after no threshold, (0, 0), and after each distinct
/// score from the highest down, (1, 1) last. `None` unless there are both normal and anomalous scores.
///
/// `labels`: true for anomalous.
///
/// # Errors
/// As [`auroc`].
pub fn roc_curve<T: Score>(scores: &[T], labels: &[bool]) -> Result<Option<Vec<(f64, f64)>>> {
    let ranking = Ranking::new("roc_curve", scores, labels)?;
    let (anomalous, normal) = (ranking.anomalous.len() as f64, ranking.normal.len() as f64);
    if anomalous * normal == 0.0 {
        return Ok(None);
    }
    let points =
        ranking.steps().map(|s| (s.flagged.1 as f64 / normal, s.flagged.0 as f64 / anomalous));
    Ok(Some(std::iter::once((0.0, 0.0)).chain(points).collect()))
}

/// The precision-recall curve: (recall, precision) after each distinct score from the highest down.
/// `None` where nothing is anomalous.
///
/// `labels`: true for anomalous.
///
/// # Errors
/// As [`auroc`].
pub fn precision_recall_curve<T: Score>(
    scores: &[T],
    labels: &[bool],
) -> Result<Option<Vec<(f64, f64)>>> {
    let ranking = Ranking::new("precision_recall_curve", scores, labels)?;
    let anomalous = ranking.anomalous.len() as f64;
    let points = ranking.steps().map(|s| {
        let (tp, fp) = (s.flagged.0 as f64, s.flagged.1 as f64);
        (tp / anomalous, tp / (tp + fp))
    });
    Ok((anomalous > 0.0).then(|| points.collect()))
}

/// Refuses labels that do not match the scores, and scores that cannot be ranked.
pub(super) fn check<T: Score>(op: &'static str, scores: &[T], labels: &[bool]) -> Result<()> {
    if labels.len() != scores.len() {
        return Err(Error::shape(op, "labels", format!("[{}]", scores.len()), &[labels.len()]));
    }
    match scores.iter().position(|&s| s.into().is_nan()) {
        Some(i) => Err(Error::argument(op, "scores", "numbers", format!("NaN at index {i}"))),
        None => Ok(()),
    }
}

/// Ascending. The numbers are not NaN.
pub(super) fn sort<T: PartialOrd + Send>(values: &mut [T]) {
    values.par_sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
}

/// The scores of the normal and of the anomalous, each ascending; at least one in all, none NaN.
pub(super) struct Ranking<T> {
    pub normal: Vec<T>,
    pub anomalous: Vec<T>,
}

/// One threshold: the scores equal to it join those flagged before.
pub(super) struct Step<T> {
    pub threshold: T,
    /// Anomalous and normal scores that join.
    pub joined: (usize, usize),
    /// Anomalous and normal scores flagged in all: true and false positives.
    pub flagged: (usize, usize),
}

impl<T: Score> Ranking<T> {
    fn new(op: &'static str, scores: &[T], labels: &[bool]) -> Result<Self> {
        check(op, scores, labels)?;
        if scores.is_empty() {
            return Err(Error::argument(op, "scores", "at least one score", "none"));
        }
        let of = |label| scores.iter().zip(labels).filter(move |l| *l.1 == label).map(|s| *s.0);
        let (mut normal, mut anomalous): (Vec<T>, Vec<T>) =
            (of(false).collect(), of(true).collect());
        sort(&mut normal);
        sort(&mut anomalous);
        Ok(Self { normal, anomalous })
    }

    /// The thresholds from the highest down.
    pub fn steps(&self) -> impl Iterator<Item = Step<T>> {
        let (mut anomalous, mut normal) = (&self.anomalous[..], &self.normal[..]);
        std::iter::from_fn(move || {
            let threshold = match (anomalous.last(), normal.last()) {
                (Some(&a), Some(&n)) => {
                    if a > n {
                        a
                    } else {
                        n
                    }
                }
                (Some(&a), None) => a,
                (None, Some(&n)) => n,
                (None, None) => return None,
            };
            let joined = (pop(&mut anomalous, threshold), pop(&mut normal, threshold));
            let flagged =
                (self.anomalous.len() - anomalous.len(), self.normal.len() - normal.len());
            Some(Step { threshold, joined, flagged })
        })
    }

    pub fn auroc(&self) -> Option<f64> {
        if self.normal.is_empty() || self.anomalous.is_empty() {
            return None;
        }
        // Twice the pairs in the right order: an integer, so the area is rounded only once.
        let doubled: u128 =
            self.steps().map(|s| s.joined.1 as u128 * (2 * s.flagged.0 - s.joined.0) as u128).sum();
        Some(doubled as f64 / (2.0 * self.anomalous.len() as f64 * self.normal.len() as f64))
    }

    pub fn average_precision(&self) -> f64 {
        let hits: f64 = self
            .steps()
            .filter(|s| s.joined.0 > 0)
            .map(|s| s.joined.0 as f64 * s.flagged.0 as f64 / (s.flagged.0 + s.flagged.1) as f64)
            .sum();
        hits / self.anomalous.len().max(1) as f64
    }

    pub fn f1_max(&self) -> F1Max {
        self.steps().fold(F1Max { value: 0.0, threshold: f64::NAN }, |best, s| {
            let (tp, fp) = s.flagged;
            let value = 2.0 * tp as f64 / (tp + fp + self.anomalous.len()) as f64;
            if value >= best.value {
                // + 0.0: of the equal scores −0 and 0 always the latter.
                F1Max { value, threshold: s.threshold.into() + 0.0 }
            } else {
                best
            }
        })
    }
}

/// Drops the scores equal to `score` from the end and counts them.
#[inline(always)]
fn pop<T: Score>(ascending: &mut &[T], score: T) -> usize {
    let before = ascending.len();
    while let Some((&last, rest)) = ascending.split_last()
        && last == score
    {
        *ascending = rest;
    }
    before - ascending.len()
}
