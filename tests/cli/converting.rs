//! `convert`: files of other programs become those of these ones.

use invad::denoisers::{Denoiser, Mlp, MlpConfig};

use super::backbones::weights;
use super::*;
use crate::support::networks::safetensors;
use crate::support::numbers::uniform;

fn convert(out: &Path, backbone: &str) -> Command {
    let mut command = program("convert");
    command.args(["--backbone", backbone, "--device", "cpu"]).arg("--out").arg(out);
    command
}

#[test]
fn weights_of_a_backbone() {
    const NAME: &str = "efficientnet-lite1";
    let root = TempDir::new().unwrap();
    let [file, out, again] = ["lite1.bin", "out", "again"].map(|name| root.path().join(name));
    fs::write(&file, weights(NAME, 1)).unwrap();
    // What a run that was killed left.
    fs::create_dir(&out).unwrap();
    fs::write(out.join(format!(".{NAME}.safetensors.abcdef.tmp")), b"half").unwrap();
    let from =
        |file: &Path, out: &Path| convert(out, NAME).arg("--weights").arg(file).run().expect(0);
    let ran = from(&file, &out);
    let made = out.join(format!("{NAME}.safetensors"));
    assert!(ran.stdout.contains(made.to_str().unwrap()), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");
    assert_eq!(everything(&out), [format!("{NAME}.safetensors")]);
    from(&made, &again);
    let read = |folder: &Path| fs::read(folder.join(format!("{NAME}.safetensors"))).unwrap();
    assert!(read(&out) == read(&again));
    // What is needed for features is there, and found by its name.
    program("train")
        .args(["--plan", "--backbone", NAME])
        .env("INVAD_WEIGHTS", &out)
        .run()
        .expect(0);

    let refused = |backbone: &str, more: &[&str], file: &Path, says: &[&str]| {
        convert(&out, backbone).arg("--weights").arg(file).args(more).run().refused(says);
    };
    refused(
        "efficientnet-lite2",
        &[],
        &file,
        &["not the weights of this network", "of another shape: "],
    );
    refused("vit-b16", &[], &file, &["missing: `cls_token`", "and 147 more"]);
    refused("efficientnet-lite0", &[], &file, &["whose weights are in a file", "vit-b16"]);
    refused(NAME, &["--below", "teacher"], &file, &["nothing below `teacher`", "`_blocks`"]);
    refused(NAME, &[], &root.path().join("none"), &["none"]);
    refused(NAME, &[], Path::new(file!()), &["no whole file of safetensors, and none of PyTorch"]);
    // What fails leaves nothing, and what was there before stays.
    let below = root.path().join("new/below");
    let ran = convert(&below, NAME).arg("--weights").arg(root.path().join("none")).run();
    ran.refused(&["none"]);
    assert!(!root.path().join("new").exists() && made.exists());
}

/// A denoiser of the reference implementation, of random numbers, becomes a detector that scores.
#[test]
fn a_denoiser() {
    let root = TempDir::new().unwrap();
    let path = |name: &str| root.path().join(name);
    let mlp = Mlp::new(MlpConfig { channels: 192, grid: 16, width: 24, depth: 2 }).unwrap();
    let named = |name: String, shape: Vec<usize>, seed: usize| {
        let len = shape.iter().product();
        let scale = (3.0 / *shape.last().unwrap() as f32).sqrt();
        (format!("module.{name}"), shape, uniform(seed as u64, len, scale))
    };
    let all = mlp.parameters().iter();
    let all = all.map(|p| named(format!("net.{}", p.name), p.shape.clone(), p.offset));
    let mut all: Vec<_> = all.collect();
    let file = path("model_ema_latest.safetensors");
    let mut written = |more: &[(&str, Vec<usize>)]| {
        all.extend(more.iter().map(|(name, shape)| named(name.to_string(), shape.clone(), 7)));
        fs::write(&file, safetensors(&all)).unwrap();
    };
    let data = &shared().data;
    let command = |backbone: &str, out: &str, more: &[&str]| {
        let mut command = convert(&path(out), backbone);
        command.arg("--denoiser").arg(&file).arg("--data").arg(data).args(more);
        command.run()
    };
    written(&[("cls_embed.weight", vec![15, 24]), ("net.cond_embed.weight", vec![24, 9])]);
    let ran = command("efficientnet-lite0", "out", &["--category", "nut"]).expect(0);
    for part in ["`cls_embed.weight`, `cond_embed.weight` never get a gradient", "mlp channels 192"]
    {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    assert!(ran.stdout.contains("evaluated 3 times, calibrated with"), "{}", ran.stdout);
    let detector = path("out/detector.safetensors");
    score(&detector, &path("scored")).arg(data.join("nut/test/good")).run().expect(0);
    let mut evaluation = program("evaluate");
    evaluation.arg("--detector").arg(&detector).arg("--data").arg(data);
    evaluation.args(["--category", "nut"]).arg("--out").arg(path("evaluated")).run().expect(0);

    command("efficientnet-lite0", "x", &["--category", "bold"]).refused(&["bold"]);
    let refused = |says: &[&str]| {
        command("efficientnet-lite0", "x", &["--category", "nut"]).refused(says);
    };
    written(&[("net.head.weight", vec![3, 3])]);
    refused(&["not the weights of this network", "not asked for: `head.weight`"]);
    fs::write(&file, weights("efficientnet-lite1", 1)).unwrap();
    refused(&[
        "no denoiser of the reference implementation",
        "(dit)",
        "(mlp)",
        "(unet)",
        "it has ",
    ]);
    let narrow = Mlp::new(MlpConfig { channels: 8, grid: 16, width: 24, depth: 1 }).unwrap();
    let narrow: Vec<_> =
        narrow.parameters().iter().map(|p| named(p.name.clone(), p.shape.clone(), 3)).collect();
    fs::write(&file, safetensors(&narrow)).unwrap();
    let says = ["192 channels on a grid of 16", "`efficientnet-lite0`", "--backbone", "8 on 16"];
    refused(&says);
    let below: Vec<_> =
        narrow.into_iter().map(|(name, s, n)| (format!("model.{name}"), s, n)).collect();
    fs::write(&file, safetensors(&below)).unwrap();
    refused(&["no denoiser of the reference implementation", "below `model` (--below model)?"]);
    let nut = ["--category", "nut", "--below", "model"];
    command("efficientnet-lite0", "x", &nut).refused(&["8 on 16"]);
    assert!(!path("x").exists());
}
