//! Section `scoring`: resizing of maps and features, and scores of latents.

use serde_json::Value;

use crate::golden::{Golden, Part, Trials, compare, fill, shared, sqrt3, trial, whole};
use crate::library;
use crate::place::places;

/// The scores of latents.
pub struct Scores {
    /// Norm over channels, per image and cell.
    pub l2: Vec<f32>,
    /// Largest minus smallest norm, per image.
    pub abs: Vec<f64>,
    /// Negative log-likelihood, per image.
    pub nll: Vec<f64>,
}

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("scoring")?;
    let seed = whole(section, "seed")? as u64;
    let mut trials = Vec::new();
    for place in places() {
        for (name, want) in tensors.iter() {
            let Some(from) = resized_from(name) else { continue };
            let [_, channels, height, width] = want.shape[..] else { continue };
            let (want, name) = (want.data.clone(), name.to_owned());
            trials.push(trial(place.label(format!("scoring/{name}")), move || {
                let x = fill(seed, &name, channels * from * from, sqrt3(), 0.0);
                // Ratios that are no power of two have rounded coordinates.
                let dyadic = dyadic(from, width) && dyadic(from, height);
                let tolerance = if dyadic { 1e-6 } else { 5e-6 };
                let (from, to) = ([from, from], [height, width]);
                let got = library::resize_bilinear(&x, channels, from, to, place.device)?;
                compare(got, &want, tolerance)
            }));
        }
        if let Some(text) = section["score.latent"].as_str() {
            let latent = Latent::parse(text, seed)?;
            // Latents are f32 everywhere.
            let scores =
                shared(move || library::scores(&latent.values, latent.shape, place.device));
            let l2 = tensors.get("score.l2")?.data.clone();
            let of = scores.clone();
            trials.push(trial(place.label("scoring/score.l2"), move || {
                compare(of.as_ref().as_ref()?.l2.iter().copied(), &l2, 1e-6)
            }));
            let per_image: [Part<Scores, Vec<f64>>; 2] =
                [("score.ats", |s| &s.abs), ("score.nll", |s| &s.nll)];
            for (name, got) in per_image {
                let (want, scores) = (tensors.get(name)?.data.clone(), scores.clone());
                trials.push(trial(place.label(format!("scoring/{name}")), move || {
                    compare(got(scores.as_ref().as_ref()?).iter().copied(), &want, 1e-6)
                }));
            }
        }
    }
    Ok(trials)
}

/// `up.8_64` and `down.64` are made from 8 × 8 and 64 × 64.
fn resized_from(name: &str) -> Option<usize> {
    let sizes = name.strip_prefix("up.").or_else(|| name.strip_prefix("down."))?;
    sizes.split('_').next()?.parse().ok()
}

fn dyadic(a: usize, b: usize) -> bool {
    let (small, large) = (a.min(b), a.max(b));
    large % small == 0 && (large / small).is_power_of_two()
}

/// The latent that the manifest describes in words:
/// `fill(seed, "score.latent", (B,C,g,g), scale s), then in f64 image i rows a..b cols c..d … multiplied by m`.
struct Latent {
    values: Vec<f32>,
    shape: [usize; 4],
}

impl Latent {
    fn parse(text: &str, seed: u64) -> Result<Self, String> {
        let after = |word: &str| -> Vec<f64> {
            let rest = text.split_once(word).map_or("", |(_, rest)| rest);
            let list = rest.trim_start_matches([' ', '(']).replace("..", ",");
            let end = list.find(|c: char| !c.is_ascii_digit() && !".,".contains(c));
            let list = &list[..end.unwrap_or(list.len())];
            list.split(',').filter_map(|n| n.trim_end_matches('.').parse().ok()).collect()
        };
        let unclear = || format!("manifest: `score.latent` is not as expected: {text}");
        let shape: [usize; 4] = after("\"score.latent\", ")
            .iter()
            .map(|&n| n as usize)
            .collect::<Vec<_>>()
            .try_into()
            .map_err(|_| unclear())?;
        let ([scale, ..], [image, ..], [top, bottom, ..], [left, right, ..], [factor, ..]) = (
            &after("scale ")[..],
            &after("image ")[..],
            &after("rows ")[..],
            &after("cols ")[..],
            &after("multiplied by ")[..],
        ) else {
            return Err(unclear());
        };
        let [b, c, h, w] = shape;
        let mut values = fill(seed, "score.latent", b * c * h * w, *scale, 0.0);
        for (i, value) in values.iter_mut().enumerate() {
            let (x, y, image_of) = ((i % w) as f64, (i / w % h) as f64, (i / (w * h * c)) as f64);
            let inside = (*top..=*bottom).contains(&y) && (*left..=*right).contains(&x);
            if image_of == *image && inside {
                *value = (f64::from(*value) * factor) as f32;
            }
        }
        Ok(Self { values, shape })
    }
}
