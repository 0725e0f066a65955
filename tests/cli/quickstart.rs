//! `quickstart`: from images to results, and the figures that it must reach.

use std::time::Instant;

use super::*;

#[test]
fn from_images_to_results() {
    let out = TempDir::new().unwrap();
    let mut command = program("quickstart");
    command.arg("--data").arg(&shared().data).arg("--out").arg(out.path());
    let ran = command.args(["--steps", "5"]).run().expect(0);
    for says in ["calibrated scores, %", "paper protocol, %", "quickstart.png", "time  "] {
        assert!(ran.stdout.contains(says), "{}", ran.stdout);
    }
    let mut expected: Vec<PathBuf> =
        ["detector.safetensors", "metrics.json", "quickstart.png", "report.html"]
            .map(PathBuf::from)
            .into();
    for (category, kind) in [("bolt", "dent"), ("bolt", "good"), ("nut", "dent"), ("nut", "good")] {
        expected.extend((0..3).map(|n| format!("overlays/{category}/{kind}/{n}.png").into()));
    }
    expected.sort();
    assert_eq!(files(out.path()), expected);
    let report = fs::read_to_string(out.path().join("report.html")).unwrap();
    assert_eq!(report.matches("<article ").count(), 12);
    assert!(report.contains("Training loss from step 1 to 5"));
    // Two rows for each category.
    let page = load_image(out.path().join("quickstart.png")).unwrap();
    assert!(page.height() > 4 * 110 && page.width() > 4 * 256, "{:?}", page.dimensions());
}

#[test]
fn data_without_test_images() {
    let out = TempDir::new().unwrap();
    let data = shared().data.join("bolt/train/good");
    let mut command = program("quickstart");
    let ran = command.arg("--data").arg(&data).arg("--out").arg(out.path()).run();
    ran.refused(&["category `bolt` has no test images; `train` and `score` do without"]);
}

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
fn metrics(seed: u64, out: &Path) -> Value {
    let (start, busy) = (Instant::now(), processor_time());
    let mut command = program("quickstart");
    command.arg("--seed").arg(seed.to_string()).arg("--out").arg(out).args(["--device", "cpu"]);
    let status = command.status().unwrap();
    assert!(status.success(), "seed {seed}: {status}");
    let (all, busy) = (start.elapsed(), processor_time() - busy);
    println!("seed {seed}: {all:.0?}, processors busy for {busy:.0} s");
    assert!(busy < SECONDS, "seed {seed}: processors were busy for {busy:.0} s");
    serde_json::from_slice(&fs::read(out.join("metrics.json")).unwrap()).unwrap()
}

/// Alone: `cargo build --release --examples`, then
/// `cargo test --release --test cli -- --ignored --nocapture quickstart`.
#[test]
#[ignore = "takes minutes; scripts/test runs it"]
fn reaches_its_figures() {
    let out = tempfile::tempdir().unwrap();
    // Of one seed false alarms and recall say little: they follow a processor's rounding.
    let runs: Vec<Value> =
        (0..3).map(|seed| metrics(seed, &out.path().join(seed.to_string()))).collect();
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
