//! Section `evaluate_inv`: features through inversion, scores and metrics.

use std::sync::Arc;

use invad::metrics::{self, AnnotatedMap};
use serde_json::Value;

use crate::golden::{
    Golden, Shared, Tensors, Trials, compare, compare_absolute, number, shared, trial, whole,
};
use crate::library;
use crate::parameters::Config;
use crate::scoring::Scores;

/// What the library makes of the features.
struct Evaluated {
    latent: Vec<f32>,
    scores: Scores,
    /// Per image, the paper's score over the whole set.
    paper: Vec<f64>,
}

/// A tensor's name, the tolerance relative to its largest element, and what it is compared with.
type Figure = (&'static str, f64, fn(&Evaluated) -> Vec<f64>);

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = Arc::new(golden.tensors("evaluate_inv")?);
    let config = &section["config"];
    let steps = whole(config, "S")?;
    let evaluated = {
        let tensors = tensors.clone();
        shared(move || {
            let features = tensors.get("features")?;
            let [n, c, h, w] = features.shape[..] else { return Err("features: four axes".into()) };
            let (dit, batch) = (Config::read(config)?, whole(config, "bs")?.max(1));
            let mut latent = Vec::new();
            for features in features.f32s().chunks(batch * dit.elements()) {
                latent.extend(library::inversion(&dit, steps, features)?.latent);
            }
            let scores = library::scores(&latent, [n, c, h, w])?;
            let paper = library::paper_scores(&scores.abs, &scores.nll)?;
            Ok(Evaluated { latent, scores, paper })
        })
    };
    let mut trials = Vec::new();

    let close: [Figure; 4] = [
        ("latents_f64_as_f32", 1e-5, |e| wide(&e.latent)),
        ("latent_l2", 1e-5, |e| wide(&e.scores.l2)),
        ("ats", 1e-5, |e| e.scores.abs.clone()),
        ("nll", 1e-5, |e| e.scores.nll.clone()),
    ];
    for (name, tolerance, got) in close {
        let (want, evaluated) = (tensors.get(name)?.data.clone(), evaluated.clone());
        trials.push(trial(format!("evaluate_inv/{name}"), move || {
            compare(got(evaluated.as_ref().as_ref()?), &want, tolerance)
        }));
    }
    {
        // Each of the two terms is within [0, 1]; their ranges divide the errors up.
        let (want, evaluated) = (tensors.get("score")?.data.clone(), evaluated.clone());
        trials.push(trial("evaluate_inv/score", move || {
            compare_absolute(evaluated.as_ref().as_ref()?.paper.iter().copied(), &want, 5e-5)
        }));
    }
    {
        let (tensors, evaluated) = (tensors.clone(), evaluated.clone());
        trials.push(trial("evaluate_inv/maps_first2_last2", move || {
            let want = tensors.get("maps_first2_last2")?;
            let [_, side, _] = want.shape[..] else { return Err("maps: three axes".into()) };
            let maps = maps(evaluated.as_ref().as_ref()?, &tensors, side)?;
            let (first, last) = (&maps[..2], &maps[maps.len() - 2..]);
            compare(first.iter().chain(last).flatten().copied(), &want.data, 1e-5)
        }));
    }

    let exact = &section["exact_metrics_on_f64_scores"];
    for name in exact.as_object().into_iter().flat_map(|o| o.keys()) {
        let want = number(exact, name)?;
        let tensors = tensors.clone();
        let label = format!("evaluate_inv/{name}");
        if name.starts_with("I-") {
            trials.push(trial(label, move || image_metric(&tensors, name, want)));
        } else {
            let evaluated = evaluated.clone();
            trials.push(trial(label, move || pixel_metric(&evaluated, &tensors, name, want)));
        }
    }
    Ok(trials)
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
    maps.map(|map| library::resize_bilinear(map, 1, [h, w], [side, side])).collect()
}

fn labels(tensors: &Tensors) -> Result<Vec<bool>, String> {
    Ok(tensors.get("y_true")?.data.iter().map(|&y| y != 0.0).collect())
}

/// From the stored scores, so that only the metric itself is in question.
fn image_metric(tensors: &Tensors, name: &str, want: f64) -> Result<(), String> {
    let scores = &tensors.get("score")?.data;
    let got = metrics::image_metrics(scores, &labels(tensors)?).map_err(|e| e.to_string())?;
    let got = match name {
        "I-AUROC" => got.auroc.ok_or("AUROC should be defined")?,
        "I-AP" => got.ap,
        "I-F1Max_exact" => got.f1_max.value,
        _ => return Err(format!("`{name}` is not known here")),
    };
    compare([got], &[want], 1e-12)
}

/// From the library's own maps, in which close pixels may have changed places.
fn pixel_metric(
    evaluated: &Shared<Evaluated>,
    tensors: &Tensors,
    name: &str,
    want: f64,
) -> Result<(), String> {
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
    let got = match name {
        "P-AUROC_exact" => pixels.auroc.ok_or("AUROC should be defined")?,
        "P-AP" => pixels.ap,
        "P-F1Max_exact" => pixels.f1_max.value,
        "AUPRO_0.3_exact_8conn" => pixels.au_pro.ok_or("AU-PRO should be defined")?,
        _ => return Err(format!("`{name}` is not known here")),
    };
    compare_absolute([got], &[want], 1e-4)
}
