//! `custom_backbone` and `custom_denoiser`: parts that the crate does not have, from registration to scores.

use super::*;
use crate::support::emulator;

/// The AUROC that it prints of each category.
fn figures(name: &str, data: &Path, device: &str, steps: &str) -> Vec<(String, f64)> {
    let mut command = program(name);
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

const PROGRAMS: [&str; 2] = ["custom_backbone", "custom_denoiser"];

#[test]
fn parts_of_ones_own() {
    for program in PROGRAMS {
        let here = figures(program, &shared().data, "cpu", "10");
        assert_eq!(here.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), ["bolt", "nut"]);
        // Defects are large and of a colour that no part has.
        assert!(here.iter().all(|(_, auroc)| *auroc == 100.0), "{program}: {here:?}");
    }
}

#[test]
fn parts_of_ones_own_on_a_gpu() {
    let Some(_) = emulator::gpu() else { return };
    let data = TempDir::new().unwrap();
    for n in 0..6 {
        put(data.path().join(format!("bolt/train/good/{n}.png")), part(n));
    }
    put(data.path().join("bolt/test/good/0.png"), part(10));
    put(data.path().join("bolt/test/dent/0.png"), broken(20).0);
    for program in PROGRAMS {
        // After a step it says nothing.
        let there = figures(program, data.path(), "cuda", "1");
        let [(category, 0.0..=100.0)] = &there[..] else { panic!("{program}: {there:?}") };
        assert_eq!(category, "bolt");
    }
}
