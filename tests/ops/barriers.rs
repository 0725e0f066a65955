//! A kernel that lacks one of its barriers, or one of its waits for copies, fails its tests.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use crate::support::emulator;

/// What is run on each such kernel. A kernel with barriers needs a test of this name.
const TESTS: &str = "on_gpu::tiny";
/// Orders of threads, any of which may show the fault.
const SEEDS: [u64; 4] = [1, 2, 3, 4];

/// Every barrier and wait of the kernels, as FILE:LINE.
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
                let calls = ["__syncthreads(", "cp_async_wait<"].map(|c| code.matches(c).count());
                let calls: usize = calls.iter().sum();
                assert!(calls <= 1, "{folder}/{name}:{}: one to a line, please", i + 1);
                places.extend((calls == 1).then(|| format!("{folder}/{name}:{}", i + 1)));
            }
        }
    }
    places.sort();
    places
}

/// Whether the tests pass without the barrier at this place.
fn passes(removed: &str, seed: u64) -> bool {
    let ran = Command::new(env::current_exe().unwrap())
        .arg(TESTS)
        .env("INVAD_TEST_DEVICE", "emulated")
        .env("INVAD_EMULATOR_SEED", seed.to_string())
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
    assert!(SEEDS.into_iter().all(|seed| passes("", seed)), "{TESTS} fails with all in place");
    let places = places();
    assert!(!places.is_empty());
    let unnoticed: Vec<_> =
        places.iter().filter(|p| SEEDS.into_iter().all(|seed| passes(p, seed))).collect();
    assert!(unnoticed.is_empty(), "{TESTS} passes without {unnoticed:?}");
}
