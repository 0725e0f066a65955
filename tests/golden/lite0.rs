//! Section `lite0`: EfficientNet-Lite0 with its ImageNet weights.

use serde_json::Value;

use crate::golden::{Golden, Problem, Trials, compare, trial};
use crate::library;

pub fn trials(golden: &'static Golden, _: &'static Value) -> Trials {
    let tensors = golden.tensors("lite0")?;
    let Ok(image) = tensors.get("image_u8_256").cloned() else {
        return Err(Problem::Missing("no image_u8_256 in lite0.safetensors".into()));
    };
    let want = tensors.get("features")?.data.clone();
    Ok(vec![trial("lite0/features", move || {
        let [h, w, 3] = image.shape[..] else {
            return Err(format!("image_u8_256: {:?}", image.shape));
        };
        compare(library::lite0_features(&image.u8s(), [h, w])?, &want, 5e-6)
    })])
}
