//! What is kept of a sweep: a name for each piece of work that differs with everything that decides it.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::measure::Measurement;
use super::setting::{Method, Setting};
use crate::backbones::BackboneSpec;
use crate::checkpoint::{BackboneId, Recipe};
use crate::data::Dataset;
use crate::denoisers::DenoiserId;
use crate::error::{Error, Result};
use crate::files::write_atomic;

/// Grows when the same settings come to mean something else.
const VERSION: u32 = 1;

/// Everything that decides what a training leads to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainingKey {
    version: u32,
    pub backbone: BackboneId,
    pub denoiser: DenoiserId,
    pub recipe: Recipe,
    pub seed: u64,
    /// `None`: the recipe's.
    pub steps: Option<u64>,
    /// The SHA-256 of the names and sizes of all images.
    data: String,
    pub categories: Vec<String>,
}

/// Everything that decides what a measurement gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MeasurementKey {
    pub training: TrainingKey,
    pub evaluations: usize,
    pub method: Method,
    /// Where it is measured, which decides the images a second and the last digits.
    pub device: String,
    pub batch: usize,
}

/// A measurement and what it is of.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: MeasurementKey,
    measurement: Measurement,
}

impl TrainingKey {
    pub fn new(
        spec: &BackboneSpec,
        denoiser: DenoiserId,
        setting: &Setting,
        dataset: &Dataset,
        (seed, steps): (u64, Option<u64>),
    ) -> Result<Self> {
        Ok(Self {
            version: VERSION,
            backbone: spec.into(),
            denoiser,
            recipe: setting.training()?,
            seed,
            steps,
            data: fingerprint(dataset)?,
            categories: dataset.categories().iter().map(|of| of.name.clone()).collect(),
        })
    }
}

/// A folder or file of a name that can be read, and told from those of other keys.
fn place(name: &str, key: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(key).map_err(|e| Error::io(name, e.into()))?;
    let hash = hex(Sha256::digest(json));
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = name.chars().map(plain).take(80).collect();
    Ok(format!("{}-{}", name.trim_matches('.'), &hash[..12]))
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tells a data set from others: by the names, sizes, times of the last change and labels of all images.
fn fingerprint(dataset: &Dataset) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    };
    for category in dataset.categories() {
        add(&category.name);
        for sample in category.good().iter().chain(category.test()) {
            let files = [Some(&sample.path), sample.mask.as_ref()].into_iter().flatten();
            for path in files {
                let file = fs::metadata(path).map_err(|e| Error::io(path, e))?;
                let (size, changed) = (file.len(), file.modified().ok());
                let changed = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                let below = path.strip_prefix(dataset.root()).unwrap_or(path);
                add(&format!("{} {size} {:?}", below.display(), changed.unwrap_or_default()));
            }
            add(&format!("{:?} {:?}", sample.split, sample.defect));
        }
    }
    Ok(hex(hash.finalize()))
}

/// Where a detector is kept.
pub(super) fn detector_folder(out: &Path, setting: &Setting, key: &TrainingKey) -> Result<PathBuf> {
    let mut name = format!("{}-{}-{}", setting.denoiser, setting.recipe, setting.backbone);
    if setting.per_category {
        name = format!("{}-{name}", key.categories.join("-"));
    }
    Ok(out.join("detectors").join(place(&name, key)?))
}

/// Where a measurement is kept.
pub(super) fn measurement_file(
    out: &Path,
    setting: &Setting,
    key: &MeasurementKey,
) -> Result<PathBuf> {
    let Setting { denoiser, recipe, evaluations, .. } = setting;
    let method = match setting.method {
        Method::Inversion => String::new(),
        Method::Reconstruction { noise_step } => format!("-from-{noise_step}"),
    };
    let name = format!("{denoiser}-{recipe}-{evaluations}{method}");
    let mut file = place(&name, key)?;
    file += ".json";
    Ok(out.join("measurements").join(file))
}

/// The measurement of a file, if it is there and of this key. One that is damaged counts as none.
pub(super) fn read_measurement(path: &Path, key: &MeasurementKey) -> Result<Option<Measurement>> {
    let kept: Option<Kept> = read(path)?;
    Ok(kept.filter(|kept| kept.key == *key).map(|kept| kept.measurement))
}

/// Keeps a measurement.
pub(super) fn write_measurement(
    path: &Path,
    key: &MeasurementKey,
    measurement: &Measurement,
) -> Result<()> {
    let kept = Kept { key: key.clone(), measurement: measurement.clone() };
    let json = serde_json::to_vec(&kept).map_err(|e| Error::io(path, e.into()))?;
    write_atomic(path, |file| file.write_all(&json))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, e)),
    };
    let read = serde_json::from_slice(&bytes);
    if let Err(e) = &read {
        log::warn!("{}: {e}; it is measured again", path.display());
    }
    Ok(read.ok())
}
