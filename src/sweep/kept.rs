//! What is kept of a sweep: a name for each piece of work that differs with everything that decides it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::engine::SweepOptions;
use super::measure::Measurement;
use super::setting::{Method, Setting, Sweep};
use super::unreadable::{Unreadable, mended};
use crate::backbones::BackboneSpec;
use crate::checkpoint::{BackboneId, Recipe};
use crate::data::{Category, Dataset, Sample};
use crate::denoisers::DenoiserId;
use crate::error::{Error, Result};
use crate::files::{FolderLock, write_atomic};
use crate::weights::hexadecimal;

/// Grows when the same settings come to mean something else.
const VERSION: u32 = 2;
/// The folders of what is kept.
pub(super) const FOLDERS: [&str; 2] = [DETECTORS, MEASUREMENTS];
const DETECTORS: &str = "detectors";
const MEASUREMENTS: &str = "measurements";

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
    /// The [`fingerprint`] of the good images.
    good: String,
    pub categories: Vec<String>,
}

/// Everything that decides what a measurement gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MeasurementKey {
    pub training: TrainingKey,
    /// The [`fingerprint`] of the test images.
    tests: String,
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
    /// The SHA-256 of the measurement's text.
    sha256: String,
    /// A [`Measurement`].
    measurement: Box<RawValue>,
}

/// What stands beside a detector.
#[derive(Serialize, Deserialize)]
pub(super) struct Trained {
    pub key: TrainingKey,
    /// The SHA-256 of the detector's file, once it is there.
    pub sha256: Option<String>,
    /// Images that the training left out.
    pub unreadable: Vec<Unreadable>,
}

/// What a file of the sweep's own holds, if it is there; or why that is of no use.
pub(super) type Held<T> = std::result::Result<Option<T>, String>;

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
            good: fingerprint(dataset, Category::good),
            categories: dataset.categories().iter().map(|of| of.name.clone()).collect(),
        })
    }
}

impl MeasurementKey {
    pub fn new(
        training: TrainingKey,
        setting: &Setting,
        dataset: &Dataset,
        options: &SweepOptions,
    ) -> Self {
        Self {
            training,
            tests: fingerprint(dataset, Category::test),
            evaluations: setting.evaluations,
            method: setting.method,
            device: options.resources.device.to_string(),
            batch: options.batch,
        }
    }
}

/// A folder or file of a name that can be read, and told from those of other keys.
fn place(name: &str, key: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(key).map_err(|e| Error::io(name, e.into()))?;
    let hash = hash(json);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = name.chars().map(plain).take(80).collect();
    Ok(format!("{}-{}", name.trim_matches('.'), &hash[..12]))
}

/// The SHA-256 of a text.
fn hash(text: impl AsRef<[u8]>) -> String {
    hexadecimal(Sha256::digest(text))
}

/// The SHA-256 of a file.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let fail = |e| Error::io(path, e);
    let mut file = fs::File::open(path).map_err(fail)?;
    let (mut hash, mut part) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut part).map_err(fail)? {
            0 => return Ok(hexadecimal(hash.finalize())),
            bytes => hash.update(&part[..bytes]),
        }
    }
}

/// Tells images of a data set from others: by their names, sizes, times of the last change and labels. Those that it
/// cannot look at, nobody can read.
fn fingerprint(dataset: &Dataset, images: fn(&Category) -> &[Sample]) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    };
    for category in dataset.categories() {
        add(&category.name);
        for sample in images(category) {
            let files = [Some(&sample.path), sample.mask.as_ref()].into_iter().flatten();
            for path in files {
                let file = fs::metadata(path).ok();
                let size = file.as_ref().map_or(0, fs::Metadata::len);
                let changed = file.and_then(|file| file.modified().ok());
                let changed = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                let below = path.strip_prefix(dataset.root()).unwrap_or(path);
                add(&format!("{} {size} {:?}", below.display(), changed.unwrap_or_default()));
            }
            add(&format!("{:?} {:?}", sample.split, sample.defect));
        }
    }
    hexadecimal(hash.finalize())
}

/// Where a detector is kept.
pub(super) fn detector_folder(out: &Path, setting: &Setting, key: &TrainingKey) -> Result<PathBuf> {
    let mut name = format!("{}-{}-{}", setting.denoiser, setting.recipe, setting.backbone);
    if setting.per_category {
        name = format!("{}-{name}", key.categories.join("-"));
    }
    Ok(out.join(DETECTORS).join(place(&name, key)?))
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
    Ok(out.join(MEASUREMENTS).join(file))
}

/// The measurement of a file, which is of this key.
pub(super) fn read_measurement(
    path: &Path,
    key: &MeasurementKey,
    dataset: &Dataset,
) -> Held<Measurement> {
    let Some(Kept { key: of, sha256, measurement }) = read(path)? else { return Ok(None) };
    if of != *key {
        return Err("it is of something else".into());
    }
    if hash(measurement.get()) != sha256 {
        return Err("it is not what was measured: its checksum is another".into());
    }
    let measurement: Measurement =
        serde_json::from_str(measurement.get()).map_err(|e| e.to_string())?;
    mended(&measurement.unreadable, dataset)?;
    Ok(Some(measurement))
}

/// Keeps a measurement.
pub(super) fn write_measurement(
    path: &Path,
    key: &MeasurementKey,
    measurement: &Measurement,
) -> Result<()> {
    let kept = serde_json::value::to_raw_value(measurement).and_then(|measurement| {
        let sha256 = hash(measurement.get());
        serde_json::to_vec(&Kept { key: key.clone(), sha256, measurement })
    });
    let json = kept.map_err(|e| Error::io(path, e.into()))?;
    write_atomic(path, |file| file.write_all(&json))
}

/// What is said beside a detector.
pub(super) fn read_trained(path: &Path) -> Held<Trained> {
    read(path)
}

/// Says it.
pub(super) fn write_trained(path: &Path, trained: &Trained) -> Result<()> {
    let json = serde_json::to_vec_pretty(trained).map_err(|e| Error::io(path, e.into()))?;
    write_atomic(path, |file| file.write_all(&json))
}

fn read<T: DeserializeOwned>(path: &Path) -> Held<T> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| e.to_string()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// Creates a folder of the experiment's and those above it.
pub(super) fn create_folder(path: &Path) -> Result<()> {
    let file = path.ancestors().find(|part| part.exists()).filter(|part| !part.is_dir());
    match file {
        Some(file) => Err(Error::file(
            file,
            "a file is where a folder of the experiment belongs; move it away, or choose another folder for the results",
        )),
        None => fs::create_dir_all(path).map_err(|e| Error::io(path, e)),
    }
}

/// Refuses a folder in the place of a file, before work that would end there.
pub(super) fn require_file(path: &Path) -> Result<()> {
    match path.is_dir() {
        true => Err(Error::file(
            path,
            "a folder is where a file of the experiment belongs; move it away, or choose another folder for the results",
        )),
        false => Ok(()),
    }
}

impl Sweep {
    /// Removes what runs that were killed left half written in the folder of `lock`: of this sweep's results, and of all
    /// that sweeps keep there.
    pub fn remove_leftovers(&self, lock: &FolderLock) {
        lock.remove_leftovers_below("", &self.name);
        lock.remove_leftovers_below(MEASUREMENTS, "");
        let detectors = fs::read_dir(lock.folder().join(DETECTORS));
        for detector in detectors.into_iter().flatten().flatten() {
            lock.remove_leftovers_below(Path::new(DETECTORS).join(detector.file_name()), "");
        }
    }
}
