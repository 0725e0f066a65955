//! What is allocated in the loops that run for every batch, and for files that lie.

use std::alloc::System;
use std::fs;
use std::sync::{Mutex, MutexGuard};

use common::*;
use files::*;
use invad::checkpoint::{Checkpoint, TrainingState};
use invad::diffusion::{Inverter, Parameterisation};
use invad::nn::features::{Backbone, Workspace};
use invad::nn::{Dit, DitConfig};
use invad::{Device, Trainer};
use numbers::tensor;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[allow(dead_code)]
#[path = "flows/common.rs"]
mod common;
#[path = "flows/files.rs"]
mod files;
#[allow(dead_code)]
#[path = "ops/common.rs"]
mod numbers;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for all threads, so that one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Bytes that `f` allocates.
fn bytes(f: impl FnOnce()) -> (usize, usize) {
    let region = Region::new(ALLOCATOR);
    f();
    let change = region.change();
    (change.bytes_allocated, change.allocations)
}

/// Asserts that a call allocates less than `few` bytes (the median of several, after some to warm
/// up) beside what matrix products do.
#[track_caller]
fn assert_few(name: &str, few: usize, mut call: impl FnMut()) {
    (0..4).for_each(|_| call());
    let mut calls: Vec<_> = (0..7).map(|_| bytes(&mut call)).collect();
    calls.sort();
    let (bytes, allocations) = calls[3];
    println!("{name}: {allocations} allocations, {bytes} bytes");
    // The `gemm` crate packs operands in memory of its own, tens of KB a product; the activations of
    // a batch are larger by far. On AMX nothing is packed anew.
    let amx = fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| info.contains(" amx_bf16 "));
    let few = if amx { few } else { few + (10 << 20) };
    assert!(bytes < few, "{name}: {bytes} bytes in {allocations} allocations");
}

/// Lists of slices and rayon's jobs; no buffer of numbers is as small.
const LISTS: usize = 8 << 10;

/// A denoiser of the small preset's sizes.
const SMALL: DitConfig =
    DitConfig { channels: 192, grid: 16, width: 128, depth: 2, heads: 2, patch: 1 };

#[test]
fn inversion() {
    let _alone = alone();
    let dit = Dit::new(SMALL).unwrap();
    let velocity = Parameterisation::Velocity;
    let inverter =
        Inverter::new(&dit, &parameters(&dit, 1), velocity, 3, 100, Device::Cpu).unwrap();
    for threads in [1, 3] {
        on_threads(threads, || {
            for batch in [1, 8] {
                let mut z = tensor(1, &[batch, 16, 16, 192], 1.0);
                let mut space = inverter.workspace(batch).unwrap();
                let name = format!("inversion of {batch} on {threads} threads");
                assert_few(&name, LISTS, || {
                    z.view_mut().fill(0.5).unwrap();
                    inverter.invert(&mut z, &mut space).unwrap();
                });
            }
        });
    }
}

/// Products with fewer rows than the tiles of AMX, as those of the timesteps of a batch, are the
/// `gemm` crate's on every machine.
#[test]
fn training_step() {
    let _alone = alone();
    let [whitened, _] = recipes();
    let mut config = training(whitened, 1000);
    config.denoiser = SMALL;
    for threads in [1, 3] {
        on_threads(threads, || {
            let features = tensor(1, &[6, 16, 16, 192], 1.0);
            let mut trainer = Trainer::new(config.clone(), features, Device::Cpu).unwrap();
            assert_few(&format!("training step on {threads} threads"), 512 << 10, || {
                trainer.step().unwrap();
            });
        });
    }
}

#[test]
fn features() {
    let _alone = alone();
    let backbone = Backbone::lite0();
    let images = [pictures(Kind::Stripes, 0..1), pictures(Kind::Dots, 0..2)].concat();
    for threads in [1, 2] {
        on_threads(threads, || {
            let mut space = Workspace::default();
            let mut x = tensor(1, &[3, 16, 16, 192], 0.0);
            assert_few(&format!("features of 3 images on {threads} threads"), LISTS, || {
                backbone.extract(&images, &mut x, &mut space).unwrap();
            });
        });
    }
}

/// No file makes its reader set aside much more memory than it has bytes, whatever it claims.
#[test]
fn files_that_claim_much() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let [detector, state] = detector_and_state();
    let mut numbers = Numbers::new(3);
    for (bytes_of, at, tensor) in
        [(&detector, "/config", "denoiser.pos_embed"), (&state, "/config/config", "parameters")]
    {
        let mut files = Vec::new();
        for len in [100_000_000, 1 << 32, 1 << 40, u64::MAX - 8, u64::MAX] {
            files.push([&len.to_le_bytes()[..], &bytes_of[8..]].concat());
        }
        for n in [1u64 << 28, 1 << 40, 1 << 62, u64::MAX] {
            files.push(with_header(bytes_of, |header| {
                header[tensor]["shape"] = json!([n]);
                header[tensor]["data_offsets"] = json!([0, n.saturating_mul(4)]);
            }));
        }
        for (width, depth, heads) in [(16384, 1024, 0), (16384, 1024, 1), (16384, 1024, 16384)] {
            let sizes = json!({"channels": 16384, "grid": 16384, "width": width, "depth": depth,
                "heads": heads, "patch": 1});
            files.push(with_setting(bytes_of, &format!("{at}/denoiser"), sizes));
        }
        for (name, value) in [("inversion_steps", u64::MAX), ("batch", u64::MAX)] {
            files.push(with_setting(bytes_of, &format!("{at}/recipe/{name}"), value.into()));
        }
        for _ in 0..500 {
            let mut mutated = bytes_of.clone();
            let place = numbers.below(mutated.len().min(6000));
            mutated[place] = b"0123456789"[numbers.below(10)];
            files.push(mutated);
        }
        let mut most = 0;
        for (i, file) in files.iter().enumerate() {
            fs::write(&path, file).unwrap();
            let (bytes, _) = bytes(|| {
                let loads = match tensor {
                    "parameters" => TrainingState::load(&path).is_ok(),
                    _ => Checkpoint::load(&path).is_ok(),
                };
                assert!(!loads || i >= 14, "file {i} is accepted");
            });
            assert!(bytes < 8 * file.len() + (8 << 20), "file {i}: {bytes} bytes");
            most = most.max(bytes);
        }
        println!("{} bytes of {tensor} and more: at most {most} allocated", bytes_of.len());
    }
}
