//! Section `aupimo`.

use invad::metrics::{self, AnnotatedMap, PimoOptions};
use serde_json::Value;

use crate::golden::{
    Array, Golden, Tensors, Trials, cases, compare, compare_absolute, number, trial, unif, whole,
};
use crate::metrics::{truths, with_images};

/// Of areas, where thresholds are f64 on both sides.
const TOLERANCE: f64 = 1e-9;

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("aupimo")?;
    let mut trials = vec![trial("aupimo/refusals", refusals)];
    for (case, want) in cases(&section["cases"]) {
        let maps = maps(case, want, &tensors)?;
        let masks = tensors.get(&format!("{case}.masks"))?.clone();
        let of = |name: &str| tensors.get(&format!("{case}.{name}")).map(|t| t.data.clone());
        let areas = of("aupimo")?;
        let curve = of("thresholds").and_then(|at| Ok((at, of("shared_fpr")?))).ok();
        trials.push(trial(format!("aupimo/{case}"), move || {
            with_images(&maps, &masks, |images| {
                let got = metrics::aupimo(images, &options(want)?).map_err(|e| e.to_string())?;
                compare_absolute(got.images, &areas, TOLERANCE)?;
                compare_absolute([got.mean], &[number(want, "mean")?], TOLERANCE)?;
                let fpr = [number(want, "fpr_at_first")?, number(want, "fpr_at_last")?];
                compare(got.fpr, &fpr, 1e-12)?;
                let indices = [whole(want, "first")?, whole(want, "last")?];
                if got.indices != indices || got.points != whole(want, "n_points")? {
                    return Err(format!("{:?}, {} points", got.indices, got.points));
                }
                let Some((at, fpr)) = &curve else { return Ok(()) };
                let pick = |of: &[f64]| indices.map(|i| of[i]);
                compare(got.thresholds, &pick(at), 1e-15)?;
                compare(got.fpr, &pick(fpr), 1e-15)
            })
        }));
    }
    Ok(trials)
}

fn options(case: &Value) -> Result<PimoOptions, String> {
    let bounds: Option<Vec<f64>> =
        case["fpr_bounds"].as_array().map(|b| b.iter().filter_map(Value::as_f64).collect());
    match bounds.as_deref() {
        Some(&[lower, upper]) => Ok(PimoOptions::default()
            .thresholds(whole(case, "num_thresholds")?)
            .fpr([lower, upper])),
        other => Err(format!("fpr_bounds: {other:?}")),
    }
}

/// Stored, or made by the rule where only how they begin is.
fn maps(case: &str, manifest: &Value, tensors: &Tensors) -> Result<Array, String> {
    if let Ok(maps) = tensors.get(&format!("{case}.maps")) {
        return Ok(maps.clone());
    }
    let masks = tensors.get(&format!("{case}.masks"))?;
    let head = tensors.get(&format!("{case}.maps_head"))?;
    let seed = whole(manifest, "seed")? as u64;
    let [images, height, width] = masks.shape[..] else {
        return Err(format!("{case}.masks: {:?}", masks.shape));
    };
    let (pixels, shown) = (height * width, head.data.len() / images);
    let masks = truths(masks);
    let mut data = Vec::new();
    for (i, mask) in masks.chunks(pixels).enumerate() {
        let v = unif(seed, &format!("pimo.{case}.map.{i}"), pixels);
        let u = unif(seed, &format!("pimo.{case}.extra.{i}"), pixels);
        let score = |p: usize| {
            let score = 1.0 / (1.001f32 - v[p].abs());
            if mask[p] { score + (600.0 + 500.0 * u[p]) } else { score }
        };
        let map: Vec<f64> = (0..pixels).map(|p| f64::from(score(p))).collect();
        compare(map[..shown].iter().copied(), &head.data[i * shown..][..shown], 1e-7)?;
        data.extend(map);
    }
    Ok(Array { shape: vec![images, height, width], data: data.into() })
}

/// What has no area is an error.
fn refusals() -> Result<(), String> {
    const SIDE: usize = 10;
    let rising: Vec<f32> = (0..SIDE * SIDE).map(|i| i as f32).collect();
    let (constant, good, mut bad) =
        ([1.0; SIDE * SIDE], [false; SIDE * SIDE], [false; SIDE * SIDE]);
    bad[..20].fill(true);
    fn image<'a>(map: &'a [f32], mask: &'a [bool]) -> AnnotatedMap<'a> {
        AnnotatedMap { map, mask, width: SIDE, height: SIDE }
    }
    let wide = PimoOptions::default().thresholds(500).fpr([0.01, 0.5]);
    let (normal, anomalous) = (image(&rising, &good), image(&rising, &bad));
    metrics::aupimo(&[normal, anomalous], &wide).map_err(|e| e.to_string())?;
    for (what, images, options, reason) in [
        ("no normal image", vec![anomalous], wide, "normal and anomalous"),
        ("no anomalous image", vec![normal], wide, "normal and anomalous"),
        ("constant", vec![image(&constant, &good), anomalous], wide, "differ"),
        ("few pixels", vec![normal, anomalous], PimoOptions::default(), "reach from"),
        ("few points", vec![normal, anomalous], wide.thresholds(20), "more than 30"),
    ] {
        match metrics::aupimo(&images, &options) {
            Ok(got) => return Err(format!("{what}: {got:?}")),
            Err(e) if e.to_string().contains(reason) => {}
            Err(e) => return Err(format!("{what}: refused for another reason: {e}")),
        }
    }
    Ok(())
}
