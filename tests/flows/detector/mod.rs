//! Detectors of tiny pictures.

mod calibration;
mod independence;
mod moments;
mod prior;
mod regions;
mod scores;

use std::path::{Path, PathBuf};

use image::RgbImage;
use invad::checkpoint::{Checkpoint, ImageStats};
use invad::denoisers;
use invad::detect::Scored;
use invad::diffusion::Inverter;
use invad::{Detector, Device, Tensor};
use tempfile::tempdir;

use crate::support::networks::*;
use crate::support::numbers::poisoned;

/// Good and defective pictures of both kinds and several sizes.
fn tested() -> Vec<RgbImage> {
    let sizes = [(48, 40), (300, 20), (31, 97), (256, 256), (1, 1)];
    let kinds = [Kind::Stripes, Kind::Dots].into_iter().cycle();
    let mut all = Vec::new();
    for (i, ((width, height), kind)) in sizes.into_iter().zip(kinds).enumerate() {
        all.push(picture(kind, 200 + i as u64, width, height));
    }
    all.push(defective(Kind::Stripes, 300, 48, 40));
    all.push(defective(Kind::Dots, 301, 48, 40));
    all
}

/// Image files of a folder.
fn saved(folder: &Path, images: &[RgbImage]) -> Vec<PathBuf> {
    let paths = (0..images.len()).map(|i| folder.join(format!("{i}.png"))).collect::<Vec<_>>();
    images.iter().zip(&paths).for_each(|(image, path)| image.save(path).unwrap());
    paths
}

/// Files of images to learn a prior from, 9 of each kind.
fn trained_on(folder: &Path) -> Vec<(String, Vec<PathBuf>)> {
    let of = |name: &str, kind| {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        (name.to_string(), saved(&folder.join(name), &pictures(kind, 0..9)))
    };
    vec![of("dots", Kind::Dots), of("stripes", Kind::Stripes)]
}

/// A calibrated detector that holds latents against a prior.
fn with_prior() -> Detector {
    let [whitened, _] = recipes();
    let mut detector = Detector::new(checkpoint(whitened, 3)).unwrap();
    let folder = tempdir().unwrap();
    detector.learn_prior(&trained_on(folder.path()), |_, read| read).unwrap();
    assert!(detector.prior().is_some());
    detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
    detector.calibrate("stripes", &held_out(Kind::Stripes), &[]).unwrap();
    detector
}

fn stat_bits(s: &ImageStats) -> [u64; 5] {
    let [max, abs, block, top5] = [s.max, s.abs, s.block, s.top5].map(f64::from);
    [max, abs, block, top5, s.nll].map(f64::to_bits)
}

/// All bits of what was said of an image.
fn scored_bits(s: &Scored) -> (u64, [u64; 5], Vec<u32>) {
    let map = s.map.values().iter().map(|v| v.to_bits()).collect();
    (s.score.to_bits(), stat_bits(&s.stats), map)
}

fn score(detector: &Detector, images: &[RgbImage]) -> Vec<(u64, [u64; 5], Vec<u32>)> {
    detector.score(images).unwrap().iter().map(scored_bits).collect()
}

/// Features, whitening and inversion, one after another: (1, G², C).
fn latent(checkpoint: &Checkpoint, image: &RgbImage) -> Tensor {
    let backbone = lite0(Device::Cpu);
    let [_, _, g, c] = backbone.spec().features().of(1);
    let mut x = poisoned(&[1, g, g, c]);
    backbone.extract(std::slice::from_ref(image), &mut x, &mut Default::default()).unwrap();
    if let Some(whitening) = &checkpoint.whitening {
        let mut z = poisoned(x.shape());
        whitening.apply(&x, &mut z).unwrap();
        x = z;
    }
    let recipe = &checkpoint.config.recipe;
    let inverter = Inverter::new(
        &*denoisers::read(&checkpoint.config.denoiser).unwrap(),
        &checkpoint.ema,
        recipe.parameterisation,
        recipe.inversion_steps,
        recipe.single_timestep,
        Device::Cpu,
    )
    .unwrap();
    inverter.invert(&mut x, &mut inverter.workspace(1).unwrap()).unwrap();
    x.reshape(&[1, g * g, c]).unwrap()
}

#[track_caller]
fn close(got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{got} {want}");
}
