//! Section `lite0`: EfficientNet-Lite0 with its ImageNet weights.

use serde_json::Value;

use crate::golden::{Golden, Problem, Trials, compare, trial};
use crate::library;
use crate::place::places;

/// Relative to the largest feature: f32, and f16 in the weights and between the layers. Roundings of some thirty
/// layers add up to a few of 2⁻¹¹ of the features' spread, and the largest error of tens of thousands of features
/// is a few times the usual one.
const TOLERANCE: [f64; 2] = [5e-6, 8e-3];

pub fn trials(golden: &'static Golden, _: &'static Value) -> Trials {
    let tensors = golden.tensors("lite0")?;
    let Ok(image) = tensors.get("image_u8_256").cloned() else {
        return Err(Problem::Missing("no image_u8_256 in lite0.safetensors".into()));
    };
    let want = tensors.get("features")?.data.clone();
    let trials = places().into_iter().map(|place| {
        let (image, want) = (image.clone(), want.clone());
        trial(place.label("lite0/features"), move || {
            let [h, w, 3] = image.shape[..] else {
                return Err(format!("image_u8_256: {:?}", image.shape));
            };
            let got = library::lite0_features(&image.u8s(), [h, w], place.device)?;
            compare(got, &want, place.tolerance(TOLERANCE))
        })
    });
    Ok(trials.collect())
}
