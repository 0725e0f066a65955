//! Section `pth`: files of PyTorch, and what should be refused.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use half::{bf16, f16};
use invad::weights::{Element, Weights};
use serde_json::Value;

use crate::golden::{Golden, Problem, Tensors, Trials, cases, trial};
use crate::support::memory::peak;

/// What any file may take.
const LONGEST: Duration = Duration::from_secs(5);
const MEMORY: usize = 16 << 20;

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let mut trials = Vec::new();
    for (name, case) in cases(section) {
        let path = golden.path(&format!("pth_{name}.pth"));
        if !path.exists() {
            return Err(Problem::Missing(format!("no pth_{name}.pth")));
        }
        let expected = match case["expected"].as_str() {
            Some(file) => Some(golden.tensors(file.trim_end_matches(".safetensors"))?),
            None => None,
        };
        trials.push(trial(format!("pth/{name}"), move || check(&path, case, expected.as_ref())));
    }
    Ok(trials)
}

fn check(path: &Path, case: &Value, expected: Option<&Tensors>) -> Result<(), String> {
    let sentinel = case["sentinel"]
        .as_str()
        .map(|name| std::env::var_os("TMPDIR").map_or("/tmp".into(), PathBuf::from).join(name));
    if let Some(sentinel) = &sentinel {
        std::fs::remove_file(sentinel).ok();
    }
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len() as usize;
    let begun = Instant::now();
    let (result, taken) = peak(|| read(path, case));
    if begun.elapsed() > LONGEST || taken > 3 * size + MEMORY {
        return Err(format!("{:?}, {taken} bytes of memory for {size}", begun.elapsed()));
    }
    if sentinel.is_some_and(|sentinel| sentinel.exists()) {
        return Err("something in it was executed".into());
    }
    match (result, case["accept"].as_bool()) {
        (Ok(_), Some(false)) => Err("it was read".into()),
        (Err(e), Some(true)) => Err(e),
        (Err(e), _) => {
            println!("{e}");
            Ok(())
        }
        (Ok(tensors), _) => match expected {
            Some(expected) => compare(&tensors, case, expected),
            None if case["accept"] == true => Err("the manifest names nothing expected".into()),
            None => Ok(()),
        },
    }
}

/// A tensor as it was read, with its elements in f64.
struct Read {
    name: String,
    element: Element,
    shape: Vec<usize>,
    numbers: Vec<f64>,
}

fn read(path: &Path, case: &Value) -> Result<Vec<Read>, String> {
    let fail = |e: invad::Error| e.to_string();
    let mut weights = Weights::open(path).map_err(fail)?;
    if let Some(key) = case["under"].as_str() {
        weights = weights.below(key).map_err(fail)?;
    }
    if let Some(prefix) = case["strip_prefix"].as_str() {
        weights = weights.without_prefixes(&[prefix]).map_err(fail)?;
    }
    let tensors = weights.entries().map(|(name, entry)| {
        let bytes = weights.bytes(name).map_err(fail)?;
        let (name, element, shape) = (name.to_string(), entry.element, entry.shape.clone());
        let numbers: Vec<f64> = match element {
            Element::F64 => of(&bytes, f64::from_le_bytes),
            Element::F32 => of(&bytes, |b| f32::from_le_bytes(b).into()),
            Element::F16 => of(&bytes, |b| f16::from_le_bytes(b).into()),
            Element::Bf16 => of(&bytes, |b| bf16::from_le_bytes(b).into()),
            Element::I64 => of(&bytes, |b| i64::from_le_bytes(b) as f64),
            Element::I32 => of(&bytes, |b| i32::from_le_bytes(b).into()),
            Element::I16 => of(&bytes, |b| i16::from_le_bytes(b).into()),
            Element::I8 => of(&bytes, |b| i8::from_le_bytes(b).into()),
            Element::U8 | Element::Bool => of(&bytes, |[b]| b.into()),
            other => return Err(format!("`{name}` holds {other:?}")),
        };
        // As backbones read them, those that are finite.
        if matches!(element, Element::F64 | Element::F32 | Element::F16 | Element::Bf16)
            && numbers.iter().all(|&number| (number as f32).is_finite())
        {
            let f32s = weights.f32s(&name, &shape).map_err(fail)?;
            if !f32s.iter().zip(&numbers).all(|(&got, &want)| got == want as f32) {
                return Err(format!("`{name}` is not the same in f32"));
            }
        }
        Ok(Read { name, element, shape, numbers })
    });
    tensors.collect()
}

fn of<const N: usize>(bytes: &[u8], each: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|&b| each(b)).collect()
}

fn compare(tensors: &[Read], case: &Value, expected: &Tensors) -> Result<(), String> {
    let [got, want]: [Vec<&str>; 2] = [
        tensors.iter().map(|tensor| &tensor.name[..]).collect(),
        expected.iter().map(|(name, _)| name).collect(),
    ];
    if got != want {
        return Err(format!("it has {got:?}, expected {want:?}"));
    }
    for Read { name, element, shape, numbers } in tensors {
        let want = expected.get(name)?;
        let same = |(got, want): (&f64, &f64)| {
            got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan()
        };
        if shape != &want.shape || !numbers.iter().zip(&want.data[..]).all(same) {
            return Err(format!("`{name}`: {shape:?} {numbers:?}, expected {want:?}"));
        }
        let named = match *element {
            Element::F64 => "float64",
            Element::F32 => "float32",
            Element::F16 => "float16",
            Element::Bf16 => "bfloat16",
            Element::I64 => "int64",
            Element::I32 => "int32",
            Element::I16 => "int16",
            Element::I8 => "int8",
            Element::U8 => "uint8",
            _ => "bool",
        };
        if case["tensors"][name]["dtype"] != named {
            return Err(format!("`{name}` holds {named}: {}", case["tensors"][name]));
        }
    }
    Ok(())
}
