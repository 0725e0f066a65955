//! Each test of the file is of processes of their own: what is kept is read once in each.

use std::fs;
use std::path::{Path, PathBuf};

use invad::cuda::measure_products;
use invad::ops::{self, Activation};
use invad::{DType, Device, Tensor};
use tempfile::TempDir;

use crate::alone::passes_alone;
use crate::support::emulator::gpu;
use crate::support::numbers::tensor;

const SIZES: [usize; 3] = [33, 1000, 40];

/// A layer of these numbers, whose last bits tell in how many parts its sums are made.
fn layer(gpu: Device) -> Tensor {
    let [m, k, n] = SIZES;
    let halves =
        |seed, shape: &[usize]| tensor(seed, shape, 1.0).view().copied_to(gpu, DType::F16).unwrap();
    let (x, w) = (halves(1, &[m, k]), halves(2, &[n, k]));
    let mut y = Tensor::from_f32(vec![f32::NAN; m * n], &[m, n], gpu).unwrap();
    ops::linear(&x, &w, None, Activation::None, None, &mut y).unwrap();
    y
}

fn bits(y: &Tensor) -> String {
    let bits = y.to_vec_f32().into_iter().map(|y| y.to_bits());
    format!("bits: {:?}", bits.collect::<Vec<_>>())
}

#[test]
#[ignore = "run by the other tests"]
fn a_product() {
    let Some(gpu) = gpu() else { return };
    println!("{}", bits(&layer(gpu)));
}

#[test]
#[ignore = "run by the other tests"]
fn a_measurement() {
    let Some(gpu) = gpu() else { return };
    let mut before = None;
    let measured = measure_products(gpu, || {
        before = Some(layer(gpu));
        Ok(())
    });
    let measured = measured.unwrap();
    let (name, choice) = measured.first_key_value().unwrap();
    assert_eq!(measured.len(), 1, "{measured:?}");
    assert_eq!(name, "output, m 33, n 40, k 1000, f32");
    assert!(choice.tried > 1 && choice.seconds > 0.0, "{choice:?}");
    assert!(choice.seconds <= choice.suggested, "{choice:?}");
    // From then on the product is computed by what was chosen.
    assert_eq!(bits(&before.unwrap()), bits(&layer(gpu)));
    println!("{}", bits(&layer(gpu)));
}

fn run(test: &str, cache: &Path) -> String {
    let text = passes_alone(test, &[("INVAD_KERNEL_CACHE", cache.to_str().unwrap())]);
    text.lines().find(|line| line.contains("bits: ")).map(String::from).unwrap_or_default()
}

fn kept(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|name| name == "json"))
}

#[test]
fn what_was_measured_is_kept_and_used() {
    let Some(_) = gpu() else { return };
    let folder = TempDir::new().unwrap();
    let cache = folder.path();
    let suggested = run("tuning::a_product", cache);
    assert_eq!(kept(cache), None, "nothing is measured without being asked");
    let measured = run("tuning::a_measurement", cache);
    assert_eq!(run("tuning::a_product", cache), measured);
    // Whatever was fastest: each algorithm of the file has its own bits.
    let path = kept(cache).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut with_block = |k: u64| {
        let (_, choice) = file["products"].as_object_mut().unwrap().iter_mut().next().unwrap();
        choice["algorithm"][1] = k.into();
        fs::write(&path, file.to_string()).unwrap();
        run("tuning::a_product", cache)
    };
    let of = [with_block(256), with_block(64), with_block(16)];
    assert_eq!(of[0], suggested);
    assert!(of[0] != of[1] && of[1] != of[2] && of[2] != of[0], "{of:?}");
    assert!(of.contains(&measured));
    assert_eq!(with_block(65), suggested, "an algorithm that cuBLASLt refuses");
    with_block(16);
    let other = fs::read_to_string(&path).unwrap();
    for damaged in
        [other.replace("Emulated", "Another"), other[..other.len() / 2].into(), String::new()]
    {
        assert_ne!(damaged, other);
        fs::write(&path, damaged).unwrap();
        assert_eq!(run("tuning::a_product", cache), suggested);
    }
    // It is written anew over what cannot be read.
    let measured = run("tuning::a_measurement", cache);
    assert_eq!(run("tuning::a_product", cache), measured);
}

#[test]
fn refused_where_nothing_is_kept() {
    let Some(_) = gpu() else { return };
    passes_alone("tuning::a_refusal", &[("INVAD_KERNEL_CACHE", "")]);
}

#[test]
#[ignore = "run by the other test"]
fn a_refusal() {
    let Some(gpu) = gpu() else { return };
    let refused = measure_products(gpu, || unreachable!()).unwrap_err().to_string();
    assert!(refused.contains("INVAD_KERNEL_CACHE"), "{refused}");
    let refused = measure_products(Device::Cpu, || unreachable!()).unwrap_err().to_string();
    assert!(refused.contains("a GPU"), "{refused}");
}
