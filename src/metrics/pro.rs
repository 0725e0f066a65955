//! The per-region overlap (PRO) curve and the area under it.

use super::pixel::{AnnotatedMap, Pixels};
use crate::error::{Error, Result};

/// The false positive rate to which AU-PRO is usually integrated.
pub const FPR_LIMIT: f64 = 0.3;

/// The area under the PRO curve from FPR 0 to `fpr_limit`, divided by `fpr_limit`.
///
/// Per-region overlap: the flagged fraction of an 8-connected anomalous region, averaged over the
/// regions of all images; FPR: the flagged fraction of all normal pixels. One point per distinct
/// score, after (0, 0), joined by straight lines. `None` unless there are both normal and anomalous pixels.
///
/// # Errors
/// As [`pixel_metrics`](super::pixel_metrics).
pub fn au_pro(images: &[AnnotatedMap<'_>], fpr_limit: f64) -> Result<Option<f64>> {
    const OP: &str = "au_pro";
    check_limit(OP, fpr_limit)?;
    Ok(Pixels::new(OP, images)?.au_pro(fpr_limit))
}

/// The PRO curve: (FPR, mean per-region overlap) after no threshold, (0, 0), and after each distinct score
/// from the highest down, (1, 1) last. `None` unless there are both normal and anomalous pixels.
///
/// # Errors
/// As [`pixel_metrics`](super::pixel_metrics), but for `fpr_limit`.
pub fn pro_curve(images: &[AnnotatedMap<'_>]) -> Result<Option<Vec<(f64, f64)>>> {
    Ok(Pixels::new("pro_curve", images)?.pro_curve().map(Iterator::collect))
}

pub(super) fn check_limit(op: &'static str, fpr_limit: f64) -> Result<()> {
    if fpr_limit > 0.0 && fpr_limit <= 1.0 {
        Ok(())
    } else {
        Err(Error::argument(op, "fpr_limit", "within (0, 1]", fpr_limit))
    }
}

impl Pixels {
    fn pro_curve(&self) -> Option<impl Iterator<Item = (f64, f64)>> {
        let normal = self.ranking.normal.len();
        if normal == 0 || self.regions == 0 {
            return None;
        }
        let mut sizes = self.region_sizes.iter().rev();
        let mut overlap = 0.0;
        let points = self.ranking.steps().map(move |step| {
            // A pixel of a region of n pixels adds 1/n to that region's overlap.
            overlap =
                sizes.by_ref().take(step.joined.0).fold(overlap, |o, &n| o + 1.0 / f64::from(n));
            (step.flagged.1 as f64 / normal as f64, overlap / self.regions as f64)
        });
        Some(std::iter::once((0.0, 0.0)).chain(points))
    }

    pub fn au_pro(&self, fpr_limit: f64) -> Option<f64> {
        let (mut area, mut x0, mut y0) = (0.0, 0.0, 0.0);
        for (x, y) in self.pro_curve()? {
            if x > fpr_limit {
                let y = y0 + (y - y0) * (fpr_limit - x0) / (x - x0);
                area += 0.5 * (fpr_limit - x0) * (y0 + y);
                break;
            }
            area += 0.5 * (x - x0) * (y0 + y);
            (x0, y0) = (x, y);
        }
        Some(area / fpr_limit)
    }
}
