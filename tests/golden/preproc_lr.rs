//! Section `preproc_lr`: images to network inputs, and the learning rate.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::golden::{
    Golden, Tensors, Trials, cases, compare, compare_absolute, number, stream, trial, whole,
};
use crate::library;

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("preproc_lr")?;
    let seed = whole(section, "seed")? as u64;
    let mut trials = image_trials(&tensors, section, seed)?;
    for (name, manifest) in cases(section).filter(|(name, _)| name.starts_with("lr.")) {
        let steps = tensors.get(&format!("{name}.step"))?.data.clone();
        let want = tensors.get(&format!("{name}.lr"))?.data.clone();
        let rate = LearningRate::read(manifest)?;
        trials.push(trial(format!("preproc_lr/{name}"), move || {
            let got = steps.iter().map(|&k| library::learning_rate(&rate, k as u64));
            compare(got, &want, 1e-12)
        }));
    }
    Ok(trials)
}

/// A warm-up from `initial` to `peak`, then a cosine to `last`; in steps.
pub struct LearningRate {
    pub initial: f64,
    pub peak: f64,
    pub last: f64,
    pub warm: u64,
    pub total: u64,
}

impl LearningRate {
    fn read(manifest: &Value) -> Result<Self, String> {
        let per_epoch = whole(manifest, "iters_per_epoch")? as u64;
        Ok(Self {
            initial: number(manifest, "init")?,
            peak: number(manifest, "peak")?,
            last: number(manifest, "min_lr_hardcoded")?,
            warm: whole(manifest, "warmup_epochs")? as u64 * per_epoch,
            total: whole(manifest, "epochs")? as u64 * per_epoch,
        })
    }
}

fn image_trials(tensors: &Tensors, section: &Value, seed: u64) -> Result<Vec<Trial>, String> {
    let mut trials = Vec::new();
    for (name, want) in tensors.iter() {
        let (label, want) = (format!("preproc_lr/{name}"), want.data.clone());
        if let Some(rest) = name.strip_prefix("resize.") {
            let (kind, sizes) = rest.split_once('.').ok_or_else(|| format!("{name}: which?"))?;
            let [h, w, side] = sizes_of(sizes)?;
            let smooth = kind == "smooth";
            trials.push(trial(label, move || {
                let image = if smooth { smooth_image(h, w) } else { noise_image(seed, h, w) };
                compare_absolute(
                    library::resize_antialias(&image, [h, w], [side, side])?,
                    &want,
                    0.0,
                )
            }));
        } else if let Some(sizes) = name.strip_prefix("mask_nearest.") {
            let [h, w, side] = sizes_of(sizes)?;
            trials.push(trial(label, move || {
                let mask = bytes(seed, &format!("mask.{h}x{w}"), h * w);
                let mask: Vec<bool> = mask.iter().map(|&m| m > 200).collect();
                let got = library::resize_mask(&mask, [h, w], [side, side])?;
                compare_absolute(got.iter().map(|&m| if m { 255.0 } else { 0.0 }), &want, 0.0)
            }));
        } else if name == "rgb_to_L" {
            trials.push(trial(label, move || {
                let image = bytes(seed, "rgb", 3 * want.len());
                compare_absolute(library::rgb_to_luma(&image)?, &want, 0.0)
            }));
        } else if name == "normalised.last_smooth" {
            let image = last_image(section)?;
            let resized = tensors.get(&format!("resize.smooth.{image}"))?.u8s();
            trials.push(trial(label, move || compare(library::normalise(&resized)?, &want, 1e-6)));
        }
    }
    Ok(trials)
}

/// The last of the manifest's images, as tensors name it.
fn last_image(section: &Value) -> Result<String, String> {
    let last = section["images"].as_array().and_then(|images| images.last());
    match last.and_then(|image| image.as_array()).map(Vec::as_slice) {
        Some([h, w, side]) => Ok(format!("{h}x{w}_{side}")),
        _ => Err("manifest: `images` should list height, width and side".into()),
    }
}

/// `97x141_64`: height, width and the side it is resized to.
fn sizes_of(sizes: &str) -> Result<[usize; 3], String> {
    let numbers: Vec<usize> = sizes.split(['x', '_']).filter_map(|n| n.parse().ok()).collect();
    numbers.try_into().map_err(|_| format!("`{sizes}` should be like 97x141_64"))
}

/// The top bytes of a stream.
fn bytes(seed: u64, name: &str, n: usize) -> Vec<u8> {
    stream(seed, name).take(n).map(|z| (z >> 56) as u8).collect()
}

fn noise_image(seed: u64, h: usize, w: usize) -> Vec<u8> {
    bytes(seed, &format!("img.{h}x{w}"), 3 * h * w)
}

fn smooth_image(h: usize, w: usize) -> Vec<u8> {
    let pixel = |i: usize| {
        let (y, x) = (i / w, i % w);
        [3 * y + 5 * x, y * y / 7 + x, 255 * x / (w - 1)].map(|v| (v % 256) as u8)
    };
    (0..h * w).flat_map(pixel).collect()
}
