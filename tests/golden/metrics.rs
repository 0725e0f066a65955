//! Section `metrics`.

use std::sync::Arc;

use invad::metrics::{self, AnnotatedMap};
use serde_json::Value;

use crate::golden::{Array, Golden, Trials, cases, compare, compare_absolute, trial};

/// Both sides are f64 and differ by the order of their sums.
const TOLERANCE: f64 = 1e-12;

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("metrics")?;
    let mut trials = Vec::new();

    for (case, want) in cases(&section["image"]) {
        let scores = tensors.get(&format!("img.{case}.scores"))?.data.clone();
        let labels = &tensors.get(&format!("img.{case}.labels"))?.data;
        let labels: Arc<Vec<bool>> = Arc::new(labels.iter().map(|&l| l != 0.0).collect());
        for (quantity, value) in want.as_object().into_iter().flatten() {
            let check = match quantity.as_str() {
                "auroc" => auroc,
                "ap" => average_precision,
                "f1max_exact" => f1_max,
                "f1max_threshold" => f1_max_threshold,
                _ => continue,
            };
            let (scores, labels) = (scores.clone(), labels.clone());
            trials.push(trial(format!("metrics/image/{case}/{quantity}"), move || {
                check(&scores, &labels, value)
            }));
        }
    }

    let masks = Arc::new(tensors.get("px.masks")?.clone());
    for (case, want) in cases(&section["pixel"]) {
        let maps = Arc::new(tensors.get(&format!("px.{case}.maps"))?.clone());
        for (quantity, value) in want.as_object().into_iter().flatten() {
            let Some(check) = PixelQuantity::parse(quantity) else { continue };
            let (maps, masks) = (maps.clone(), masks.clone());
            trials.push(trial(format!("metrics/pixel/{case}/{quantity}"), move || {
                with_images(&maps, &masks, |images| check.check(images, value))
            }));
        }
        let curve = |axis: &str| tensors.get(&format!("px.{case}.pro_curve_{axis}"));
        if let (Ok(fpr), Ok(pro)) = (curve("fpr"), curve("pro")) {
            let (fpr, pro) = (fpr.data.clone(), pro.data.clone());
            let masks = masks.clone();
            trials.push(trial(format!("metrics/pixel/{case}/pro_curve"), move || {
                with_images(&maps, &masks, |images| pro_curve(images, &fpr, &pro))
            }));
        }
    }

    if let Ok(want) = tensors.get("px.ncomp8") {
        let want = want.data.clone();
        trials.push(trial("metrics/components", move || {
            let [_, height, width] = dimensions(&masks)?;
            let masks = truths(&masks);
            let got: Result<Vec<_>, _> = masks
                .chunks(height * width)
                .map(|mask| metrics::connected_components(mask, width, height))
                .collect();
            let got = got.map_err(|error| error.to_string())?;
            compare_absolute(got.iter().map(|c| c.sizes.len() as f64), &want, 0.0)
        }));
    }
    Ok(trials)
}

/// Passes if both are the same number or neither is one.
fn same(got: Option<f64>, want: &Value) -> Result<(), String> {
    match (got, want.as_f64()) {
        (Some(got), Some(want)) => compare_absolute([got], &[want], TOLERANCE),
        (None, None) if want.is_null() => Ok(()),
        (got, _) => Err(format!("got {got:?}, want {want}")),
    }
}

fn auroc(scores: &[f64], labels: &[bool], want: &Value) -> Result<(), String> {
    same(metrics::auroc(scores, labels).map_err(|e| e.to_string())?, want)
}

fn average_precision(scores: &[f64], labels: &[bool], want: &Value) -> Result<(), String> {
    same(Some(metrics::average_precision(scores, labels).map_err(|e| e.to_string())?), want)
}

fn f1_max(scores: &[f64], labels: &[bool], want: &Value) -> Result<(), String> {
    same(Some(metrics::f1_max(scores, labels).map_err(|e| e.to_string())?.value), want)
}

/// Where several thresholds reach the maximum the reference may report another of them, so its threshold
/// has to be ours or one at which F1 is the same.
fn f1_max_threshold(scores: &[f64], labels: &[bool], want: &Value) -> Result<(), String> {
    let ours = metrics::f1_max(scores, labels).map_err(|e| e.to_string())?;
    let theirs = want.as_f64().ok_or("the manifest's threshold should be a number")?;
    let f1_at = |threshold: f64| {
        let flagged = scores.iter().zip(labels).filter(|(s, _)| **s >= threshold);
        let (tp, n) = flagged.fold((0, 0), |(tp, n), (_, &l)| (tp + usize::from(l), n + 1));
        let positive = labels.iter().filter(|&&l| l).count();
        2.0 * tp as f64 / (n + positive) as f64
    };
    compare_absolute([ours.value], &[f1_at(ours.threshold)], TOLERANCE)?;
    if (ours.threshold - theirs).abs() <= TOLERANCE * theirs.abs() || f1_at(theirs) == ours.value {
        Ok(())
    } else {
        Err(format!("got {ours:?}, want {theirs}, where F1 is {}", f1_at(theirs)))
    }
}

/// A quantity over the pixels of all images.
enum PixelQuantity {
    Auroc,
    AveragePrecision,
    F1Max,
    /// Up to this FPR.
    AuPro(f64),
    Regions,
}

impl PixelQuantity {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "auroc" => Self::Auroc,
            "ap" => Self::AveragePrecision,
            "f1max_exact" => Self::F1Max,
            "n_components_conn8" => Self::Regions,
            _ => Self::AuPro(name.strip_prefix("aupro_")?.parse().ok()?),
        })
    }

    fn check(&self, images: &[AnnotatedMap<'_>], want: &Value) -> Result<(), String> {
        let limit = if let Self::AuPro(limit) = self { *limit } else { metrics::FPR_LIMIT };
        let got = metrics::pixel_metrics(images, limit).map_err(|error| error.to_string())?;
        let got = match self {
            Self::Auroc => got.auroc,
            Self::AveragePrecision => Some(got.ap),
            Self::F1Max => Some(got.f1_max.value),
            Self::AuPro(_) => got.au_pro,
            Self::Regions => Some(got.regions as f64),
        };
        same(got, want)
    }
}

/// The reference closes its curve with (1, 1), which ours has reached by then.
fn pro_curve(images: &[AnnotatedMap<'_>], fpr: &[f64], pro: &[f64]) -> Result<(), String> {
    let mut got = metrics::pro_curve(images)
        .map_err(|error| error.to_string())?
        .ok_or("there should be a curve")?;
    got.resize(fpr.len(), (1.0, 1.0));
    compare(got.iter().map(|p| p.0), fpr, TOLERANCE).map_err(|error| format!("FPR {error}"))?;
    compare(got.iter().map(|p| p.1), pro, TOLERANCE).map_err(|error| format!("PRO {error}"))
}

/// Any non-zero pixel of a mask is anomalous.
pub fn truths(masks: &Array) -> Vec<bool> {
    masks.data.iter().map(|&m| m != 0.0).collect()
}

fn dimensions(array: &Array) -> Result<[usize; 3], String> {
    array.shape[..].try_into().map_err(|_| format!("three axes expected, got {:?}", array.shape))
}

pub fn with_images(
    maps: &Array,
    masks: &Array,
    check: impl FnOnce(&[AnnotatedMap<'_>]) -> Result<(), String>,
) -> Result<(), String> {
    let [_, height, width] = dimensions(maps)?;
    if maps.shape != masks.shape {
        return Err(format!("maps {:?}, masks {:?}", maps.shape, masks.shape));
    }
    let (maps, masks) = (maps.f32s(), truths(masks));
    let images: Vec<AnnotatedMap<'_>> = maps
        .chunks(height * width)
        .zip(masks.chunks(height * width))
        .map(|(map, mask)| AnnotatedMap { map, mask, width, height })
        .collect();
    check(&images)
}
