//! A directory of golden files: a manifest, tensors, and the rule that generates inputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use libtest_mimic::Trial;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Why the trials of a file cannot be listed.
pub enum Problem {
    /// The directory does not have the file.
    Missing(String),
    /// The file is not what it should be.
    Broken(String),
}

/// What a section's trials are, or why there are none.
pub type Trials = Result<Vec<Trial>, Problem>;

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Problem::Broken(reason)
    }
}

impl From<&str> for Problem {
    fn from(reason: &str) -> Self {
        Problem::Broken(reason.into())
    }
}

pub struct Golden {
    dir: PathBuf,
    pub manifest: serde_json::Map<String, Value>,
}

impl Golden {
    pub fn open(dir: PathBuf) -> Result<Self, String> {
        let path = dir.join("manifest.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let manifest: serde_json::Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        if manifest.is_empty() {
            return Err(format!("{}: no sections", path.display()));
        }
        Ok(Self { dir, manifest })
    }

    /// Where a file would be.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The tensors of `<file>.safetensors`.
    pub fn tensors(&self, file: &str) -> Result<Tensors, Problem> {
        let file = format!("{file}.safetensors");
        Tensors::read(&self.dir.join(&file), &file)
    }
}

/// A tensor with its elements in f64, which holds all of the files' types exactly.
#[derive(Clone, Debug)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Arc<Vec<f64>>,
}

impl Array {
    pub fn f32s(&self) -> Vec<f32> {
        self.data.iter().map(|&v| v as f32).collect()
    }

    pub fn u8s(&self) -> Vec<u8> {
        self.data.iter().map(|&v| v as u8).collect()
    }
}

/// The tensors of one file, by name.
#[derive(Clone)]
pub struct Tensors {
    file: String,
    arrays: BTreeMap<String, Array>,
}

impl Tensors {
    fn read(path: &Path, file: &str) -> Result<Self, Problem> {
        if !path.exists() {
            return Err(Problem::Missing(format!("no {file}")));
        }
        let bytes = std::fs::read(path).map_err(|error| format!("{file}: {error}"))?;
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|error| format!("{file}: {error}"))?;
        let mut arrays = BTreeMap::new();
        for (name, view) in tensors.tensors() {
            let bytes = view.data();
            let data: Vec<f64> = match view.dtype() {
                Dtype::F64 => of(bytes, f64::from_le_bytes),
                Dtype::F32 => of(bytes, |b| f64::from(f32::from_le_bytes(b))),
                Dtype::I64 => of(bytes, |b| i64::from_le_bytes(b) as f64),
                Dtype::I32 => of(bytes, |b| f64::from(i32::from_le_bytes(b))),
                Dtype::U8 | Dtype::BOOL => of(bytes, |[b]| f64::from(b)),
                other => {
                    return Err(Problem::Broken(format!("{file}: {name} holds {other:?}")));
                }
            };
            arrays.insert(name, Array { shape: view.shape().to_vec(), data: Arc::new(data) });
        }
        Ok(Self { file: file.to_owned(), arrays })
    }

    pub fn get(&self, name: &str) -> Result<&Array, String> {
        self.arrays.get(name).ok_or_else(|| format!("{}: no tensor `{name}`", self.file))
    }

    /// Those of [`under`](Self::under), as they would be of a file of their own.
    pub fn part(&self, prefix: &str) -> Self {
        let arrays = self.under(prefix).map(|(name, array)| (name.to_owned(), array.clone()));
        Self { file: self.file.clone(), arrays: arrays.collect() }
    }

    pub fn put(&mut self, name: &str, array: Array) {
        self.arrays.insert(name.to_owned(), array);
    }

    /// All tensors, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.arrays.iter().map(|(name, array)| (name.as_str(), array))
    }

    /// The tensors whose names start with `prefix`, without it.
    pub fn under(&self, prefix: &str) -> impl Iterator<Item = (&str, &Array)> {
        self.iter().filter_map(move |(name, array)| Some((name.strip_prefix(prefix)?, array)))
    }
}

fn of<const N: usize>(bytes: &[u8], element: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks::<N>().0.iter().map(|&b| element(b)).collect()
}

/// A result that several trials share and the first of them computes.
pub type Shared<T> =
    Arc<LazyLock<Result<T, String>, Box<dyn FnOnce() -> Result<T, String> + Send>>>;

pub fn shared<T>(compute: impl FnOnce() -> Result<T, String> + Send + 'static) -> Shared<T> {
    Arc::new(LazyLock::new(Box::new(compute)))
}

/// Part of a result: its name and where it is.
pub type Part<T, V> = (&'static str, fn(&T) -> &V);

/// A trial that passes if `check` returns `Ok`.
pub fn trial(
    name: impl Into<String>,
    check: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Trial {
    Trial::test(name, || Ok(check()?))
}

/// A trial that is listed and not run; the reason is part of its name.
pub fn ignored(name: &str, reason: &str) -> Trial {
    Trial::test(format!("{name} (ignored: {reason})"), || Ok(())).with_ignored_flag(true)
}

/// A number of a manifest object.
pub fn number(object: &Value, key: &str) -> Result<f64, String> {
    object[key].as_f64().ok_or_else(|| format!("manifest: `{key}` should be a number"))
}

/// A whole number of a manifest object.
pub fn whole(object: &Value, key: &str) -> Result<usize, String> {
    object[key]
        .as_u64()
        .map(|v| v as usize)
        .ok_or_else(|| format!("manifest: `{key}` should be a whole number"))
}

/// The entries of a manifest object that are objects themselves: its cases.
pub fn cases(object: &'static Value) -> impl Iterator<Item = (&'static str, &'static Value)> {
    let entries = object.as_object().into_iter().flatten();
    entries.filter(|(_, case)| case.is_object()).map(|(name, case)| (name.as_str(), case))
}

/// Passes if the largest difference is at most `tolerance` of the largest expected magnitude.
/// A NaN on either side fails.
pub fn compare(
    got: impl IntoIterator<Item = impl Into<f64>>,
    want: &[f64],
    tolerance: f64,
) -> Result<(), String> {
    let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    compare_absolute(got, want, tolerance * largest)
        .map_err(|error| format!("{error}; {tolerance:.1e} of the largest, {largest}"))
}

/// Passes if the largest difference is at most twice that of `naive` (see [`naive`](crate::naive)), and a
/// rounding to f16. A NaN on any side fails.
pub fn compare_as_good(
    got: impl IntoIterator<Item = impl Into<f64>>,
    want: &[f64],
    naive: impl IntoIterator<Item = impl Into<f64>>,
) -> Result<(), String> {
    let naive: Vec<f64> = naive.into_iter().map(Into::into).collect();
    if naive.len() != want.len() || naive.iter().any(|v| !v.is_finite()) {
        return Err(format!("the plain computation: {} elements, {naive:?}", naive.len()));
    }
    let largest =
        |values: &mut dyn Iterator<Item = f64>| values.fold(0.0f64, |m, v| m.max(v.abs()));
    let error = largest(&mut naive.iter().zip(want).map(|(n, w)| n - w));
    let rounding = largest(&mut want.iter().copied()) / 4096.0;
    compare_absolute(got, want, 2.0 * error + rounding)
        .map_err(|beyond| format!("{beyond}; a plain computation is {error:.2e} apart"))
}

/// Passes if no difference is larger than `allowed`. A NaN on either side fails.
pub fn compare_absolute(
    got: impl IntoIterator<Item = impl Into<f64>>,
    want: &[f64],
    allowed: f64,
) -> Result<(), String> {
    let got: Vec<f64> = got.into_iter().map(Into::into).collect();
    if got.len() != want.len() || want.is_empty() {
        return Err(format!("{} elements, expected {}", got.len(), want.len()));
    }
    // Differences of equal infinities are NaN, and that of a NaN counts as the worst of all.
    let difference = |i: usize| {
        let d = (got[i] - want[i]).abs();
        if got[i] == want[i] {
            0.0
        } else if d.is_nan() {
            f64::INFINITY
        } else {
            d
        }
    };
    let worst = (0..want.len())
        .max_by(|&a, &b| difference(a).total_cmp(&difference(b)))
        .unwrap_or_default();
    let apart = difference(worst);
    if apart <= allowed {
        return Ok(());
    }
    let beyond = (0..want.len()).filter(|&i| difference(i) > allowed).count();
    let (g, w, n) = (got[worst], want[worst], want.len());
    Err(format!(
        "[{worst}] got {g}, want {w}: {apart:.2e} apart, allowed {allowed:.2e} ({beyond} of {n} elements beyond)"
    ))
}

/// Mean, standard deviation, largest magnitude, the first four numbers and the last two.
pub fn statistics(x: &[f32]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let squares = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
    // So that a NaN is seen.
    let largest = x.iter().fold(0.0f64, |m, v| {
        let v = f64::from(v.abs());
        if v > m || v.is_nan() { v } else { m }
    });
    let ends = x[..4].iter().chain(&x[x.len() - 2..]).map(|&v| f64::from(v));
    [mean, (squares / (n - 1.0)).sqrt(), largest].into_iter().chain(ends).collect()
}

/// The 64-bit stream of a seed and a name: FNV-1a of the name, then SplitMix64.
pub fn stream(seed: u64, name: &str) -> impl Iterator<Item = u64> {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    let start = hash ^ seed.wrapping_mul(GOLDEN);
    (1u64..).map(move |i| {
        let mut z = start.wrapping_add(i.wrapping_mul(GOLDEN));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// Numbers uniform in [-1, 1), exact in f32.
pub fn unif(seed: u64, name: &str, n: usize) -> Vec<f32> {
    stream(seed, name).take(n).map(|z| (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

/// `offset + scale·v` for the numbers v of [`unif`], rounded to f32 after each operation.
pub fn fill(seed: u64, name: &str, n: usize, scale: f64, offset: f32) -> Vec<f32> {
    let scale = scale as f32;
    let mut values = unif(seed, name, n);
    for v in &mut values {
        *v *= scale;
        if offset != 0.0 {
            *v += offset;
        }
    }
    values
}

/// The scale at which [`fill`] has unit variance.
pub fn sqrt3() -> f64 {
    3f64.sqrt()
}

/// The generator itself and the comparison, which every other trial relies on.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("fill/test_vector", || {
            let bits: Vec<u32> = unif(1, "test", 4).iter().map(|v| v.to_bits()).collect();
            let want = [0xBF36_4448, 0xBD4F_87E0, 0xBF2A_68D0, 0xBF1D_C936];
            if bits == want { Ok(()) } else { Err(format!("{bits:08x?}")) }
        }),
        trial("compare/refuses", || {
            let nan = f64::NAN;
            let refused = [
                compare([1.0, nan], &[1.0, 2.0], 1e9).is_err(),
                compare([1.0, 2.0], &[1.0, nan], 1e9).is_err(),
                compare([1.0], &[1.0, 2.0], 1e9).is_err(),
                compare([1.0, 2.003], &[1.0, 2.0], 1e-3).is_err(),
                compare([0.0; 0], &[], 1.0).is_err(),
            ];
            let accepted = compare([1.0, 2.001], &[1.0, 2.0], 1e-3).is_ok();
            if accepted && refused == [true; 5] { Ok(()) } else { Err(format!("{refused:?}")) }
        }),
    ]
}
