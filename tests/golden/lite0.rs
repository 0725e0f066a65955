//! Section `lite0`: EfficientNet-Lite0 with its ImageNet weights.

use invad::Device;
use serde_json::Value;

use crate::golden::{Golden, Problem, Trials, compare, compare_as_good, trial};
use crate::library;
use crate::naive::{self, Stored};
use crate::place::places;

/// Relative to the largest feature, in f32.
const TOLERANCE: f64 = 5e-6;

pub fn trials(golden: &'static Golden, _: &'static Value) -> Trials {
    let tensors = golden.tensors("lite0")?;
    let Ok(image) = tensors.get("image_u8_256").cloned() else {
        return Err(Problem::Missing("no image_u8_256 in lite0.safetensors".into()));
    };
    let want = tensors.get("features")?.data.clone();
    let [h, w, 3] = image.shape[..] else {
        return Err(format!("image_u8_256: {:?}", image.shape))?;
    };
    let mut trials = Vec::new();
    for place in places() {
        let (image, want) = (image.u8s(), want.clone());
        trials.push(trial(place.label("lite0/features"), move || {
            let got = library::lite0_features(&image, [h, w], place.device)?;
            match place.device {
                Device::Cpu => compare(got, &want, TOLERANCE),
                _ => compare_as_good(got, &want, naive::lite0_features(&image, Stored::F16)?),
            }
        }));
    }
    trials.push(trial("lite0/features of the plain computation", move || {
        compare(naive::lite0_features(&image.u8s(), Stored::F32)?, &want, TOLERANCE)
    }));
    Ok(trials)
}
