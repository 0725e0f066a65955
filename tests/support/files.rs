//! Detector and training-state files, and ways to damage them.

use std::fs;

use invad::checkpoint::{Checkpoint, ImageStats, Levels};
use invad::denoisers::{self, FeatureShape};
use invad::gaussian::{Gaussians, Prior};
use serde_json::Value;
use tempfile::tempdir;

use super::networks::*;
use super::numbers::tensor;

/// With statistics of normal images, and where the recipe has a prior, that of one category and levels.
pub fn calibrated(mut checkpoint: Checkpoint) -> Checkpoint {
    let FeatureShape { grid, channels } =
        denoisers::read(&checkpoint.config.denoiser).unwrap().features();
    let cells = grid.pow(2);
    if checkpoint.config.recipe.prior {
        let [mean, std] = [3.0, 0.5].map(|at| (0..cells).map(|i| at + 0.1 * i as f32).collect());
        checkpoint.levels = Some(Levels::from_parts(mean, std).unwrap());
        let of = Gaussians {
            mean: tensor(1, &[cells, channels], 1.0),
            vectors: tensor(2, &[cells, 3, channels], 0.1),
        };
        let categories = [("dots".to_string(), of)].into();
        let prior = Prior::from_parts(tensor(3, &[channels, channels], 1.0), categories);
        checkpoint.prior = Some(prior.unwrap());
    }
    for (i, category) in ["stripes", "dots"].into_iter().enumerate() {
        let stats = |k: usize| {
            let v = (i + 2 * k) as f32;
            ImageStats { max: v + 4.0, abs: v, block: v + 3.0, top5: v + 3.5, nll: 100.0 * v }
        };
        checkpoint.calibration.categories.insert(category.into(), (0..4).map(stats).collect());
        if category == "dots" {
            checkpoint.calibration.trained.insert(category.into(), (4..9).map(stats).collect());
        }
    }
    checkpoint
}

/// A detector file and the state it was trained to, of a tiny denoiser.
pub fn detector_and_state() -> [Vec<u8>; 2] {
    let [whitened, _] = recipes();
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    let trainer = trained(&training(whitened, 5), 6, 5);
    trainer.state().save(&path).unwrap();
    let state = fs::read(&path).unwrap();
    calibrated(trainer.into_checkpoint().unwrap()).save(&path).unwrap();
    [fs::read(&path).unwrap(), state]
}

/// A safetensors file taken apart: 8 bytes of the header's length, the header, the numbers.
pub struct Parts {
    pub header: Value,
    pub data: Vec<u8>,
}

impl Parts {
    pub fn of(bytes: &[u8]) -> Self {
        let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..][..len]).unwrap();
        Self { header, data: bytes[8 + len..].to_vec() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).unwrap();
        [&(header.len() as u64).to_le_bytes()[..], &header, &self.data].concat()
    }

    /// The JSON object that the file describes itself with.
    pub fn config(&self) -> Value {
        serde_json::from_str(self.header["__metadata__"]["invad"].as_str().unwrap()).unwrap()
    }
}

/// The file with another header.
pub fn with_header(bytes: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut parts = Parts::of(bytes);
    change(&mut parts.header);
    parts.bytes()
}

/// The file with another description of itself.
pub fn with_config(bytes: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut parts = Parts::of(bytes);
    let mut config = parts.config();
    change(&mut config);
    parts.header["__metadata__"]["invad"] = config.to_string().into();
    parts.bytes()
}

/// The file with a value put at a place of its configuration.
pub fn with_setting(bytes: &[u8], place: &str, value: Value) -> Vec<u8> {
    with_config(bytes, |config| *config.pointer_mut(place).unwrap() = value.clone())
}
