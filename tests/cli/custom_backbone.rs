//! `custom_backbone`: a backbone that the crate does not have, from registration to scores.

use super::*;
use crate::support::emulator;

/// The AUROC that it prints of each category.
fn figures(data: &Path, device: &str, steps: &str) -> Vec<(String, f64)> {
    let mut command = program("custom_backbone");
    if device != "cpu" && emulator::is_emulated() {
        // The program's own CUDA libraries.
        let folder = emulator::build();
        command.env("INVAD_KERNEL_CACHE", folder.join("kernels")).env("LD_LIBRARY_PATH", folder);
    }
    command.arg("--data").arg(data).args(["--device", device, "--steps", steps]);
    let ran = command.run().expect(0);
    let figure = |line: &str| {
        let (category, rest) = line.split_once(": image AUROC ").expect("a figure");
        (category.to_string(), rest.split(' ').next().unwrap().parse().unwrap())
    };
    ran.stdout.lines().map(figure).collect()
}

#[test]
fn a_backbone_of_ones_own() {
    let data = &shared().data;
    let here = figures(data, "cpu", "10");
    assert_eq!(here.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), ["bolt", "nut"]);
    // Defects are large and of a colour that no part has.
    assert!(here.iter().all(|(_, auroc)| *auroc == 100.0), "{here:?}");
}

#[test]
fn a_backbone_of_ones_own_on_a_gpu() {
    let Some(_) = emulator::gpu() else { return };
    let data = TempDir::new().unwrap();
    for n in 0..6 {
        put(data.path().join(format!("bolt/train/good/{n}.png")), part(n));
    }
    put(data.path().join("bolt/test/good/0.png"), part(10));
    put(data.path().join("bolt/test/dent/0.png"), broken(20).0);
    // After a step it says nothing.
    let there = figures(data.path(), "cuda", "1");
    assert!(matches!(&there[..], [(name, 0.0..=100.0)] if name == "bolt"), "{there:?}");
}
