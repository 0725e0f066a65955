//! The figures that the quickstart must reach, over three seeds.
//!
//! `cargo test` builds the program. Alone: `cargo build --release --examples`, then
//! `cargo test --release --test quickstart -- --ignored --nocapture`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

/// The longest that a run may take: three minutes on two cores.
const SECONDS: f64 = 2.0 * 180.0;

/// Seconds that processors have worked for programs that ended, whatever else runs beside them. Known
/// on Linux alone, in ticks of 10 ms.
fn processor_time() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let of_children = after_name.split_whitespace().skip(13).take(2);
    of_children.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Runs the program and returns what it writes to metrics.json.
fn run(seed: u64, out: &Path) -> Value {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("examples/quickstart");
    let program = program.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(program.is_file(), "{} is not built: cargo build --examples", program.display());
    let (start, busy) = (Instant::now(), processor_time());
    let status = Command::new(program)
        .arg("--seed")
        .arg(seed.to_string())
        .arg("--out")
        .arg(out)
        .args(["--device", "cpu"])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "seed {seed}: {status}");
    let (all, busy) = (start.elapsed(), processor_time() - busy);
    println!("seed {seed}: {all:.0?}, processors busy for {busy:.0} s");
    assert!(busy < SECONDS, "seed {seed}: processors were busy for {busy:.0} s");
    serde_json::from_slice(&fs::read(out.join("metrics.json")).unwrap()).unwrap()
}

#[test]
#[ignore = "takes minutes; scripts/test runs it"]
fn reaches_its_figures() {
    let out = tempfile::tempdir().unwrap();
    let runs: Vec<Value> =
        (0..3).map(|seed| run(seed, &out.path().join(seed.to_string()))).collect();
    let figures = |place: &str| -> Vec<f64> {
        let figure = |run: &Value| run.pointer(place).and_then(Value::as_f64).expect("a number");
        runs.iter().map(figure).collect()
    };
    let mean = |place: &str| {
        let figures = figures(place);
        let mean = figures.iter().sum::<f64>() / figures.len() as f64;
        println!("{place}: {figures:.2?}, mean {mean:.2}");
        mean
    };
    assert!(mean("/mean/image_auroc") >= 99.0);
    assert!(mean("/paper/mean/image_auroc") >= 97.0);
    assert!(mean("/mean/au_pro") >= 95.5);
    assert!(mean("/mean/recall") >= 80.0);
    assert!(mean("/mean/false_alarm_rate") <= 8.0);
    assert!(figures("/mean/image_auroc").iter().all(|&auroc| auroc >= 96.0));
}
