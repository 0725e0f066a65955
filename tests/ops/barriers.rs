//! A kernel that lacks one of its barriers, fences, or waits for copies or products, fails its tests.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use crate::support::emulator;

/// What is run on each such kernel. A kernel with barriers needs a test of this name.
const TESTS: &str = "on_gpu::tiny";
/// Orders of threads, any of which may show the fault.
const SEEDS: [u64; 4] = [1, 2, 3, 4];
/// Compute capabilities that kernels are chosen by.
const ARCHITECTURES: [&str; 2] = ["89", "90"];
/// What a kernel can lack.
const CALLS: [&str; 6] = [
    "__syncthreads(",
    "cp_async_wait<",
    "fence_proxy_async(",
    "wgmma_fence(",
    "wgmma_commit(",
    "wgmma_wait<",
];

/// Every barrier, fence and wait of the kernels, as FILE:LINE.
fn places() -> Vec<String> {
    let mut places = Vec::new();
    for folder in ["kernels", "kernels/include"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for file in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_none_or(|e| e != "cu" && e != "cuh") {
                continue;
            }
            let name = file.file_name().unwrap().to_str().unwrap();
            for (i, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
                let code = line.split("//").next().unwrap();
                if code.starts_with("DEVICE ") {
                    continue;
                }
                let calls: usize = CALLS.iter().map(|c| code.matches(c).count()).sum();
                assert!(calls <= 1, "{folder}/{name}:{}: one to a line, please", i + 1);
                places.extend((calls == 1).then(|| format!("{folder}/{name}:{}", i + 1)));
            }
        }
    }
    places.sort();
    places
}

/// Whether the tests pass without what is at this place, on every architecture and in every order.
fn always_passes(removed: &str) -> bool {
    let passes = |arch| SEEDS.into_iter().all(|seed| passes(removed, seed, arch));
    ARCHITECTURES.into_iter().all(passes)
}

fn passes(removed: &str, seed: u64, arch: &str) -> bool {
    let ran = Command::new(env::current_exe().unwrap())
        .arg(TESTS)
        .env("INVAD_TEST_DEVICE", "emulated")
        .env("INVAD_EMULATOR_SEED", seed.to_string())
        .env("INVAD_EMULATOR_ARCH", arch)
        .env("INVAD_ATTENTION", "wgmma")
        .env("INVAD_EMULATOR_REMOVE", removed)
        .output()
        .unwrap();
    ran.status.success()
}

#[test]
fn each_is_missed() {
    if !emulator::is_emulated() {
        return;
    }
    assert!(always_passes(""), "{TESTS} fails with all in place");
    let places = places();
    assert!(!places.is_empty());
    let unnoticed: Vec<_> = places.iter().filter(|place| always_passes(place)).collect();
    assert!(unnoticed.is_empty(), "{TESTS} passes without {unnoticed:?}");
}
