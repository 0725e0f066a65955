//! Maps against masks, pixel by pixel.

use super::components::connected_components;
use super::curve::{F1Max, Ranking, sort};
use super::pro;
use crate::error::{Error, Result};

/// The map of an image and what is true of its pixels; both row-major.
#[derive(Clone, Copy, Debug)]
pub struct AnnotatedMap<'a> {
    /// The score of every pixel.
    pub map: &'a [f32],
    /// Which pixels are anomalous; none of a good image.
    pub mask: &'a [bool],
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl AnnotatedMap<'_> {
    /// That a map and a mask of image `i` are of its size.
    pub(super) fn check(&self, op: &'static str, i: usize) -> Result<()> {
        let Self { width, height, .. } = *self;
        for (arg, len) in [("map", self.map.len()), ("mask", self.mask.len())] {
            if width.checked_mul(height) != Some(len) {
                let expected = format!("[{height}, {width}] (image {i})");
                return Err(Error::shape(op, arg, expected, &[len]));
            }
        }
        Ok(())
    }
}

/// How well maps agree with masks, over all pixels of all images; see [`pixel_metrics`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelMetrics {
    /// As [`auroc`](super::auroc).
    pub auroc: Option<f64>,
    /// As [`average_precision`](super::average_precision).
    pub ap: f64,
    /// As [`f1_max`](super::f1_max).
    pub f1_max: F1Max,
    /// As [`au_pro`](super::au_pro).
    pub au_pro: Option<f64>,
    /// The normal pixels.
    pub normal: usize,
    /// The anomalous pixels.
    pub anomalous: usize,
    /// The 8-connected anomalous regions.
    pub regions: usize,
}

/// AUROC, AP, F1-max and AU-PRO over all pixels of all images, ranked once.
///
/// `fpr_limit`: as in [`au_pro`](super::au_pro). Images may differ in size.
///
/// # Errors
/// [`Error::Shape`] if a map or a mask has not `height` × `width` pixels; [`Error::Argument`] if there
/// are no pixels, one is NaN, or `fpr_limit` is not within (0, 1].
pub fn pixel_metrics(images: &[AnnotatedMap<'_>], fpr_limit: f64) -> Result<PixelMetrics> {
    const OP: &str = "pixel_metrics";
    pro::check_limit(OP, fpr_limit)?;
    let pixels = Pixels::new(OP, images)?;
    let ranking = &pixels.ranking;
    let ((auroc, ap), (f1_max, au_pro)) = rayon::join(
        || (ranking.auroc(), ranking.average_precision()),
        || (ranking.f1_max(), pixels.au_pro(fpr_limit)),
    );
    Ok(PixelMetrics {
        auroc,
        ap,
        f1_max,
        au_pro,
        normal: ranking.normal.len(),
        anomalous: ranking.anomalous.len(),
        regions: pixels.regions,
    })
}

/// The pixels of all images, ranked.
pub(super) struct Pixels {
    pub ranking: Ranking<f32>,
    /// For each anomalous pixel of the ranking, the pixels of its region.
    pub region_sizes: Vec<u32>,
    /// The regions of all images.
    pub regions: usize,
}

impl Pixels {
    pub fn new(op: &'static str, images: &[AnnotatedMap<'_>]) -> Result<Self> {
        let total = images.iter().map(|i| i.map.len()).sum();
        if total == 0 {
            return Err(Error::argument(op, "images", "maps with at least one pixel", "none"));
        }
        let mut normal = Vec::with_capacity(total);
        let mut anomalous = Vec::new();
        let mut regions = 0;
        for (i, image) in images.iter().enumerate() {
            image.check(op, i)?;
            let &AnnotatedMap { map, mask, width, height } = image;
            if let Some(pixel) = map.iter().position(|s| s.is_nan()) {
                let got = format!("NaN in image {i} at x {}, y {}", pixel % width, pixel / width);
                return Err(Error::argument(op, "map", "numbers", got));
            }
            if !mask.contains(&true) {
                normal.extend_from_slice(map);
                continue;
            }
            let components = connected_components(mask, width, height)?;
            regions += components.sizes.len();
            for (&score, &label) in map.iter().zip(&components.labels) {
                match label {
                    0 => normal.push(score),
                    _ => anomalous.push((score, components.sizes[label as usize - 1])),
                }
            }
        }
        sort(&mut normal);
        // Equal scores by size, so that sums over them have one order.
        sort(&mut anomalous);
        let (anomalous, region_sizes) = anomalous.into_iter().unzip();
        Ok(Self { ranking: Ranking { normal, anomalous }, region_sizes, regions })
    }
}
