//! Section `evaluate_inv`: features through inversion, scores and metrics.

use std::sync::Arc;

use invad::Device;
use invad::metrics::{self, AnnotatedMap};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::golden::{
    Golden, Shared, Tensors, Trials, compare, compare_absolute, compare_as_good, number, shared,
    trial, whole,
};
use crate::imported;
use crate::library;
use crate::naive;
use crate::parameters::Config;
use crate::place::{Place, places};
use crate::scoring::Scores;

/// What the library makes of the features.
struct Evaluated {
    device: Device,
    latent: Vec<f32>,
    scores: Scores,
    /// Per image, the paper's score over the whole set.
    paper: Vec<f64>,
}

/// Of latents and scores, relative to the largest, in f32.
const TOLERANCE: f64 = 1e-5;
/// Of the paper's score, absolute, in f32: each of its two terms is within [0, 1], and the range of the set
/// divides the errors up.
const PAPER: f64 = 5e-5;
/// Of metrics of pixels, absolute, in f32 and where the network's results are stored in f16: close pixels may
/// change places. A metric is one number, which a plain computation may hit by chance.
const PIXELS: [f64; 2] = [1e-4, 1e-3];

/// A tensor's name, and what is compared with it.
type Figure = (&'static str, fn(&Evaluated) -> Vec<f64>);

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = Arc::new(golden.tensors("evaluate_inv")?);
    let config = Config::read(&section["config"])?;
    let steps = whole(&section["config"], "S")?;
    let mut trials = imported::detector_trials(&tensors, config.clone(), steps)?;
    for place in places() {
        match place.refusal("evaluate_inv", &config) {
            Some(refusal) => trials.push(refusal),
            None => trials.extend(place_trials(&tensors, section, place)?),
        }
    }
    // From the stored scores, so that only the metric itself is in question.
    for (name, want) in exact_metrics(section)?.into_iter().filter(|(name, _)| of_images(name)) {
        let tensors = tensors.clone();
        trials.push(trial(format!("evaluate_inv/{name}"), move || {
            let scores = &tensors.get("score")?.data;
            compare([image_metric(scores, &tensors, name)?], &[want], 1e-12)
        }));
    }
    Ok(trials)
}

/// Names of metrics and their values for the reference's scores.
fn exact_metrics(section: &'static Value) -> Result<Vec<(&'static str, f64)>, String> {
    let exact = &section["exact_metrics_on_f64_scores"];
    let names = exact.as_object().into_iter().flat_map(|o| o.keys());
    names.map(|name| Ok((name.as_str(), number(exact, name)?))).collect()
}

fn of_images(metric: &str) -> bool {
    metric.starts_with("I-")
}

fn place_trials(
    tensors: &Arc<Tensors>,
    section: &'static Value,
    place: Place,
) -> Result<Vec<Trial>, String> {
    let evaluated = {
        let (tensors, config) = (tensors.clone(), &section["config"]);
        shared(move || {
            evaluate(&tensors, config, place.device, |c, steps, x| {
                Ok(library::inversion(c, steps, x, place.device)?.latent)
            })
        })
    };
    let plain = {
        let (tensors, config) = (tensors.clone(), &section["config"]);
        shared(move || {
            evaluate(&tensors, config, Device::Cpu, |c, steps, x| {
                Ok(naive::inversion(c, steps, x)?.latent)
            })
        })
    };
    let mut trials = Vec::new();
    let close: [Figure; 5] = [
        ("latents_f64_as_f32", |e| wide(&e.latent)),
        ("latent_l2", |e| wide(&e.scores.l2)),
        ("ats", |e| e.scores.abs.clone()),
        ("nll", |e| e.scores.nll.clone()),
        ("score", |e| e.paper.clone()),
    ];
    for (name, got) in close {
        let (evaluated, plain) = (evaluated.clone(), plain.clone());
        let want = tensors.get(name)?.data.clone();
        trials.push(trial(place.label(format!("evaluate_inv/{name}")), move || {
            let value = got(evaluated.as_ref().as_ref()?);
            match place.device {
                Device::Cpu if name == "score" => compare_absolute(value, &want, PAPER),
                Device::Cpu => compare(value, &want, TOLERANCE),
                _ => compare_as_good(value, &want, got(plain.as_ref().as_ref()?)),
            }
        }));
    }
    {
        let (tensors, evaluated, plain) = (tensors.clone(), evaluated.clone(), plain.clone());
        trials.push(trial(place.label("evaluate_inv/maps_first2_last2"), move || {
            let want = tensors.get("maps_first2_last2")?;
            let [_, side, _] = want.shape[..] else { return Err("maps: three axes".into()) };
            let four = |evaluated: &Evaluated| -> Result<Vec<f32>, String> {
                let maps = maps(evaluated, &tensors, side)?;
                let (first, last) = (&maps[..2], &maps[maps.len() - 2..]);
                Ok([first, last].concat().concat())
            };
            let got = four(evaluated.as_ref().as_ref()?)?;
            match place.device {
                Device::Cpu => compare(got, &want.data, TOLERANCE),
                _ => compare_as_good(got, &want.data, four(plain.as_ref().as_ref()?)?),
            }
        }));
    }
    for (name, want) in exact_metrics(section)?.into_iter().filter(|(name, _)| !of_images(name)) {
        let (tensors, evaluated) = (tensors.clone(), evaluated.clone());
        trials.push(trial(place.label(format!("evaluate_inv/{name}")), move || {
            let got = pixel_metric(&evaluated, &tensors, name)?;
            compare_absolute([got], &[want], place.tolerance(PIXELS))
        }));
    }
    Ok(trials)
}

/// With the latents of `invert`, the rest on `device`.
fn evaluate(
    tensors: &Tensors,
    config: &Value,
    device: Device,
    invert: impl Fn(&Config, usize, &[f32]) -> Result<Vec<f32>, String>,
) -> Result<Evaluated, String> {
    let features = tensors.get("features")?;
    let [n, c, h, w] = features.shape[..] else { return Err("features: four axes".into()) };
    let (dit, batch) = (Config::read(config)?, whole(config, "bs")?.max(1));
    let steps = whole(config, "S")?;
    let mut latent = Vec::new();
    for features in features.f32s().chunks(batch * dit.elements()) {
        latent.extend(invert(&dit, steps, features)?);
    }
    let scores = library::scores(&latent, [n, c, h, w], device)?;
    let paper = library::paper_scores(&scores.abs, &scores.nll)?;
    Ok(Evaluated { device, latent, scores, paper })
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// The norms of every image, resized to `side` × `side`.
fn maps(evaluated: &Evaluated, tensors: &Tensors, side: usize) -> Result<Vec<Vec<f32>>, String> {
    let [_, h, w] = tensors.get("latent_l2")?.shape[..] else {
        return Err("latent_l2: three axes".into());
    };
    let maps = evaluated.scores.l2.chunks(h * w);
    maps.map(|map| library::resize_bilinear(map, 1, [h, w], [side, side], evaluated.device))
        .collect()
}

fn labels(tensors: &Tensors) -> Result<Vec<bool>, String> {
    Ok(tensors.get("y_true")?.data.iter().map(|&y| y != 0.0).collect())
}

fn image_metric(scores: &[f64], tensors: &Tensors, name: &str) -> Result<f64, String> {
    let got = metrics::image_metrics(scores, &labels(tensors)?).map_err(|e| e.to_string())?;
    match name {
        "I-AUROC" => got.auroc.ok_or("AUROC should be defined".into()),
        "I-AP" => Ok(got.ap),
        "I-F1Max_exact" => Ok(got.f1_max.value),
        _ => Err(format!("`{name}` is not known here")),
    }
}

/// From the library's own maps.
fn pixel_metric(
    evaluated: &Shared<Evaluated>,
    tensors: &Tensors,
    name: &str,
) -> Result<f64, String> {
    let masks = tensors.get("masks")?;
    let [_, height, width] = masks.shape[..] else { return Err("masks: three axes".into()) };
    let maps = maps(evaluated.as_ref().as_ref()?, tensors, width)?;
    let masks: Vec<bool> = masks.data.iter().map(|&m| m != 0.0).collect();
    let images: Vec<AnnotatedMap<'_>> = maps
        .iter()
        .zip(masks.chunks(width * height))
        .map(|(map, mask)| AnnotatedMap { map, mask, width, height })
        .collect();
    let pixels = metrics::pixel_metrics(&images, 0.3).map_err(|e| e.to_string())?;
    match name {
        "P-AUROC_exact" => pixels.auroc.ok_or("AUROC should be defined".into()),
        "P-AP" => Ok(pixels.ap),
        "P-F1Max_exact" => Ok(pixels.f1_max.value),
        "AUPRO_0.3_exact_8conn" => pixels.au_pro.ok_or("AU-PRO should be defined".into()),
        _ => Err(format!("`{name}` is not known here")),
    }
}
