//! Detector and training-state files, and ways to damage them.

use std::fs;

use invad::checkpoint::{Checkpoint, ImageStats, Levels};
use invad::denoisers::{self, FeatureShape};
use invad::gaussian::{Gaussians, Prior};
use serde_json::Value;
use sha2::{Digest, Sha256};
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
            ImageStats {
                max: v + 4.0,
                abs: v,
                block: v + 3.0,
                top5: v + 3.5,
                nll: 100.1 * f64::from(v),
            }
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
        Self::parse(bytes).expect("a file of safetensors")
    }

    /// As far as it is one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        let (header, data) = rest.split_at_checked(u64::from_le_bytes(*len).try_into().ok()?)?;
        let header: Value = serde_json::from_slice(header).ok()?;
        header.is_object().then(|| Self { header, data: data.to_vec() })
    }

    /// Whether the checksum of a whole file is that of what it holds.
    pub fn checksum_holds(bytes: &[u8]) -> bool {
        let parts = Self::of(bytes);
        let header = &bytes[8..bytes.len() - parts.data.len()];
        let header = std::str::from_utf8(header).unwrap();
        let sum = parts.checksum().expect("a checksum");
        parts.sum(&header.replacen(&sum, &"0".repeat(64), 1)) == sum
    }

    /// The file, sealed with its checksum if it has one.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = serde_json::to_string(&self.header).unwrap();
        if let Some(old) = self.checksum() {
            let unknown = header.replacen(&old, &"0".repeat(64), 1);
            header = header.replacen(&old, &self.sum(&unknown), 1);
        }
        let header = header.into_bytes();
        [&(header.len() as u64).to_le_bytes()[..], &header, &self.data].concat()
    }

    /// SHA-256 of the SHA-256 of each MiB of each tensor, in the order of their offsets, and of the header.
    fn sum(&self, header: &str) -> String {
        let tensors = self.header.as_object().unwrap().iter();
        let tensors = tensors.filter(|(name, _)| *name != "__metadata__");
        let mut places: Vec<[u64; 2]> = tensors
            .filter_map(|(_, info)| serde_json::from_value(info["data_offsets"].clone()).ok())
            .collect();
        places.sort_unstable();
        let mut sum = Sha256::new();
        for [start, end] in places {
            let tensor = self.data.get(start as usize..end as usize).unwrap_or_default();
            tensor.chunks(1 << 20).for_each(|piece| sum.update(Sha256::digest(piece)));
        }
        sum.update(header);
        sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The checksum that the file says it has.
    fn checksum(&self) -> Option<String> {
        let own = self.header.get("__metadata__")?.get("invad")?.as_str()?;
        let own: Value = serde_json::from_str(own).ok()?;
        Some(own.get("checksum")?.as_str()?.into())
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
