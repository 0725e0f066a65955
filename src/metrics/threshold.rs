//! What a fixed threshold does.

use super::curve::{Score, check};
use crate::error::{Error, Result};

/// The flagged fraction of the normal: those with score ≥ `threshold`. `None` if none is normal.
///
/// `labels`: true for anomalous.
///
/// # Errors
/// [`Error::Shape`] if there are not as many labels as scores; [`Error::Argument`] if a score or the
/// threshold is NaN.
pub fn false_alarm_rate<T: Score>(
    scores: &[T],
    labels: &[bool],
    threshold: T,
) -> Result<Option<f64>> {
    flagged("false_alarm_rate", scores, labels, threshold, false)
}

/// The flagged fraction of the anomalous: those with score ≥ `threshold`. `None` if none is anomalous.
///
/// `labels`: true for anomalous.
///
/// # Errors
/// As [`false_alarm_rate`].
pub fn recall<T: Score>(scores: &[T], labels: &[bool], threshold: T) -> Result<Option<f64>> {
    flagged("recall", scores, labels, threshold, true)
}

/// The least score of an anomalous image at which at most a fraction `limit` of the normal is flagged. `None` if there
/// is none.
///
/// `labels`: true for anomalous.
///
/// # Errors
/// As [`false_alarm_rate`], of the limit.
pub fn threshold_within<T: Score>(scores: &[T], labels: &[bool], limit: f64) -> Result<Option<T>> {
    const OP: &str = "threshold_within";
    check(OP, scores, labels)?;
    if limit.is_nan() {
        return Err(Error::argument(OP, "limit", "a number", "NaN"));
    }
    let of = |anomalous: bool| {
        let some = scores.iter().zip(labels).filter(move |(_, label)| **label == anomalous);
        some.map(|(score, _)| *score)
    };
    let within = |threshold: &T| {
        of(false).filter(|score| score >= threshold).count() as f64
            <= limit * of(false).count() as f64
    };
    let mut candidates: Vec<T> = of(true).collect();
    candidates.sort_by(|a, b| (*a).into().total_cmp(&(*b).into()));
    Ok(candidates.into_iter().find(within))
}

fn flagged<T: Score>(
    op: &'static str,
    scores: &[T],
    labels: &[bool],
    threshold: T,
    anomalous: bool,
) -> Result<Option<f64>> {
    check(op, scores, labels)?;
    if threshold.into().is_nan() {
        return Err(Error::argument(op, "threshold", "a number", "NaN"));
    }
    let of = || scores.iter().zip(labels).filter(|(_, label)| **label == anomalous);
    let (flagged, all) = (of().filter(|(s, _)| **s >= threshold).count(), of().count());
    Ok((all > 0).then(|| flagged as f64 / all as f64))
}
