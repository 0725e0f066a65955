//! What the fastest is on this machine, and what it must take on another.

use super::*;

#[test]
fn a_unit_is_measured_and_kept() {
    let folder = TempDir::new().unwrap();
    let tune = |cache: &Path| {
        let mut command = program("tune");
        command.args(["--device", "cpu"]).env("INVAD_KERNEL_CACHE", cache);
        command.run()
    };
    let ran = tune(folder.path()).expect(0);
    assert!(ran.stdout.contains("portable "), "{}", ran.stdout);
    let kept = fs::read_to_string(folder.path().join("processor.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let said = format!("computed by {} from now on", kept["unit"].as_str().unwrap());
    assert!(ran.stdout.contains(&said), "{}", ran.stdout);
    tune(Path::new("")).refused(&["INVAD_KERNEL_CACHE", "unset"]);
    let file = folder.path().join("processor.json");
    tune(&file).refused(&[file.to_str().unwrap()]);
}

/// DiT-base does 54 GFLOP for an image at each evaluation.
#[test]
fn a_projection_is_called_one() {
    let ran = program("roofline").args(["--batch", "1", "--evaluations", "1"]).run().expect(0);
    for part in ["projection", "not a measurement", "RTX 4090", "0.05 TFLOP at 165.2 TFLOP/s"] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
    let codes = program("roofline").args(["--int8", "--gpu", "a100"]).run().expect(0);
    assert!(codes.stdout.contains("A100") && codes.stdout.contains("int8"), "{}", codes.stdout);
}
