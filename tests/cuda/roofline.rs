//! What the example `roofline` counts is what the kernels read and write.

use std::collections::BTreeMap;
use std::fs;

use invad::denoisers::{Denoiser, Dit, DitConfig};
use invad::diffusion::{Inverter, Parameterisation};
use invad::{DType, Device, Precision, Products, Tensor};
use tempfile::TempDir;

use crate::alone::passes_alone;
use crate::support::emulator::{gpu, is_emulated};

#[path = "../../examples/common/roofline.rs"]
mod counted;

const CONFIG: DitConfig =
    DitConfig { channels: 24, grid: 12, width: 128, depth: 3, heads: 4, patch: 2 };
const BATCH: usize = 5;
const EVALUATIONS: usize = 2;

/// Bytes read and written, and operations, by the beginning of a kernel's name.
type Work = BTreeMap<String, (usize, usize, f64)>;

fn invert(products: Option<Products>) {
    let Some(gpu) = gpu() else { return };
    let denoiser = Dit::new(CONFIG).unwrap();
    let zeros = Tensor::zeros(&[denoiser.len()], DType::F32, Device::Cpu).unwrap();
    let precision = Precision::of(gpu).with_products(products);
    let (kind, evaluations) = (Parameterisation::Epsilon, (EVALUATIONS, 100));
    let inverter =
        Inverter::in_precision(&denoiser, &zeros, kind, evaluations, gpu, precision).unwrap();
    let mut space = inverter.workspace(BATCH).unwrap();
    let DitConfig { grid, channels, .. } = CONFIG;
    let mut x = Tensor::zeros(&[BATCH, grid, grid, channels], DType::F32, gpu).unwrap();
    println!("packed");
    if let Ok(file) = std::env::var("INVAD_EMULATOR_TRAFFIC") {
        x.to_vec_f32();
        fs::write(file, "").unwrap();
    }
    inverter.invert(&mut x, &mut space).unwrap();
    x.to_vec_f32();
}

#[test]
#[ignore = "run by the other tests"]
fn an_inversion() {
    invert(None);
}

#[test]
#[ignore = "run by the other tests"]
fn an_inversion_of_codes() {
    invert(Some(Products::Int8));
}

/// What the emulated GPU counts in a test.
fn measured(test: &str) -> Work {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("traffic");
    passes_alone(test, &[("INVAD_EMULATOR_TRAFFIC", file.to_str().unwrap())]);
    let mut work = Work::new();
    for line in fs::read_to_string(file).unwrap().lines() {
        let words: Vec<_> = line.split(' ').collect();
        let &[name, read, written, operations] = &words[..] else { panic!("{line}") };
        // Attention has a kernel for each number of tokens.
        let name = if name.starts_with("attention") { "attention" } else { name };
        let all = work.entry(name.into()).or_default();
        all.0 += read.parse::<usize>().unwrap();
        all.1 += written.parse::<usize>().unwrap();
        all.2 += operations.parse::<f64>().unwrap();
    }
    work
}

/// What the formulas say.
fn expected(products: Option<Products>) -> Work {
    let mut work = Work::new();
    for stage in counted::evaluation(&CONFIG, BATCH, products) {
        let all = work.entry(stage.kernel.into()).or_default();
        let calls = stage.calls * EVALUATIONS;
        all.0 += calls * stage.read;
        all.1 += calls * stage.written;
        all.2 += calls as f64 * stage.operations;
    }
    work
}

#[test]
fn work_is_what_is_counted() {
    if !is_emulated() {
        return;
    }
    let (mut got, mut want) = (measured("roofline::an_inversion"), expected(None));
    // They read and write single numbers, which are not counted.
    for of in [&mut got, &mut want] {
        of.remove("patchify").unwrap();
        of.remove("unpatchify").unwrap();
    }
    // The emulated GPU counts the operations of cuBLASLt alone.
    let attention = want.get_mut("attention").unwrap();
    assert_eq!(attention.2, (4 * EVALUATIONS * CONFIG.depth * BATCH * 36 * 36 * 128) as f64);
    attention.2 = 0.0;
    assert_eq!(got, want);
}

/// Scales, codes and outputs are written as single numbers, and the first are read so.
#[test]
fn work_of_codes_is_what_is_counted() {
    if !is_emulated() {
        return;
    }
    let products = Some(Products::Int8);
    let (got, want) = (measured("roofline::an_inversion_of_codes"), expected(products));
    assert_eq!(got["quantise"].0, want["quantise"].0);
    assert_eq!(got["cublasLtMatmul"], want["cublasLtMatmul"]);
    assert_eq!(got["adaln_zero"], want["adaln_zero"]);
    let (codes, all) = (got["linear_quantised"].0 as f64, want["linear_quantised"].0 as f64);
    assert!(codes < all && codes > 0.9 * all, "{codes} {all}");
    let f16 = &expected(None)["cublasLtMatmul"];
    assert_eq!(want["linear_quantised"].2 + want["cublasLtMatmul"].2, f16.2);
}
