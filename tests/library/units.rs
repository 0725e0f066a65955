//! Which unit of the processor computes. Each test is of processes of their own: it is chosen once in each.

use std::fs;
use std::path::Path;
use std::process::Command;

use invad::ops::{self, Activation};
use invad::{Device, measure_units};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::numbers::{poisoned, tensor};

#[test]
#[ignore = "run by the other tests"]
fn a_product() {
    assert!(Device::Cpu.require().is_ok());
    let (x, w) = (tensor(1, &[64, 700], 1.0), tensor(2, &[130, 700], 1.0));
    let mut y = poisoned(&[64, 130]);
    ops::linear(&x, &w, None, Activation::None, None, &mut y).unwrap();
    println!("got: {:?}", y.to_vec_f32().iter().map(|y| y.to_bits()).collect::<Vec<_>>());
}

#[test]
#[ignore = "run by the other tests"]
fn a_measurement() {
    let units = measure_units().unwrap();
    assert!(units.iter().all(|unit| unit.rate > 0.0), "{units:?}");
    println!("got: {}", units.iter().map(|unit| unit.name).collect::<Vec<_>>().join(" "));
}

/// What a test prints in another process.
#[track_caller]
fn run(test: &str, cache: &Path, unit: &str) -> String {
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("INVAD_KERNEL_CACHE", cache)
        .env("INVAD_CPU", unit)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && text.contains("1 passed"), "{ran:?}");
    text.lines().find_map(|line| line.split_once("got: ")).unwrap().1.into()
}

#[test]
fn what_was_measured_computes() {
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("not/there/yet");
    let product = |unit| run("units::a_product", &cache, unit);
    let widest = product("");
    let narrowest = product("portable");
    assert!(!cache.exists(), "nothing is measured without being asked");

    let units = run("units::a_measurement", &cache, "");
    let units: Vec<_> = units.split(' ').collect();
    assert!(units.contains(&"portable"), "{units:?}");
    let path = cache.join("processor.json");
    let kept: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(kept["unit"], units[0]);
    if units.len() == 1 {
        return;
    }
    assert_ne!(widest, narrowest, "units that round alike would tell nothing");
    let with = |unit: &str, processor: Value| {
        let mut kept = kept.clone();
        (kept["unit"], kept["processor"]) = (unit.into(), processor);
        fs::write(&path, kept.to_string()).unwrap();
    };
    let processor = &kept["processor"];
    with("portable", processor.clone());
    assert_eq!(product(""), narrowest);
    for unit in units.iter().filter(|unit| **unit != "portable") {
        assert_ne!(product(unit), narrowest, "the variable counts for more than {unit}'s file");
    }
    for (unit, processor) in [("portable", Value::from("another")), ("none", processor.clone())] {
        with(unit, processor);
        assert_eq!(product(""), widest);
    }
    fs::write(&path, "{").unwrap();
    assert_eq!(product(""), widest);
}
