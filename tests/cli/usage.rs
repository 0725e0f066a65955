//! What the programs say of themselves.

use super::*;

#[test]
fn help_shows_invocations() {
    for name in PROGRAMS {
        let help = program(name).arg("--help").run().expect(0).stdout;
        let examples = help.split("\nExamples:\n").nth(1).expect("examples");
        let invocations = examples.matches(&format!("--example {name}")).count();
        assert!(invocations >= 2, "{help}");
        assert!(help.contains("Exit codes:"), "{help}");
        let short = program(name).arg("-h").run().expect(0).stdout;
        assert!(short.len() < help.len());
    }
}

/// Every invocation that a help text shows is one that its program takes.
#[test]
fn help_shows_what_works() {
    for name in PROGRAMS {
        let help = program(name).arg("--help").run().expect(0).stdout.replace("\\\n", " ");
        let start = format!("cargo run --release --example {name}");
        for line in help.lines().filter_map(|line| line.trim().strip_prefix(&start)) {
            let args = line.trim().trim_start_matches("-- ").split_whitespace();
            let args = args.map(|arg| arg.trim_matches('\''));
            // Nothing is run: all but the last argument is as it should be.
            let ran = program(name).args(args).arg("--no-such-option").run().expect(2);
            assert!(ran.stderr.contains("'--no-such-option'"), "{}", ran.stderr);
        }
    }
}

#[test]
fn wrong_usage_is_code_2() {
    let all = ["--detector", "x", "--out", "y", "z"];
    let experiment = ["--data", "x", "--out", "y"];
    let cases: [(&str, Vec<&str>, &str); 37] = [
        ("train", vec![], "--data <DIR>"),
        ("train", vec!["--data", "x"], "--out <DIR>"),
        ("train", vec!["--data", "x", "--out", "y", "--steps", "0"], "'--steps <N>'"),
        ("train", vec!["--data", "x", "--out", "y", "--recipe", "good"], "whitened, paper"),
        ("train", vec!["--data", "x", "--out", "y", "--device", "gpu"], "cuda:N or best"),
        ("train", vec!["--data", "x", "--out", "y", "--backbone", "a"], "efficientnet-lite0"),
        ("score", vec!["--detector", "x", "--out", "y"], "<PATH>"),
        ("score", [&all[..], &["--threshold", "1", "--quantile", "1"]].concat(), "cannot be"),
        ("score", [&all[..], &["--score", "best"]].concat(), "block, top5, abs, nll, both"),
        ("score", [&all[..], &["--batch", "0"]].concat(), "1..=1024"),
        ("score", [&all[..], &["--quantile", "-0.1"]].concat(), "not in 0..=1"),
        ("score", [&all[..], &["--threshold", "nan"]].concat(), "not a finite number"),
        ("score", [&all[..], &["--threshold-score", "a"]].concat(), "not a finite number"),
        ("train", vec!["--data", "x", "--out", "y", "--timestep", "-5"], "1..=999"),
        ("evaluate", vec!["--data", "x", "--out", "y"], "--detector <FILE>"),
        ("convert", vec!["--backbone", "vit-b16", "--out", "y"], "--weights <FILE>"),
        ("convert", vec!["--denoiser", "x", "--backbone", "vit-b16", "--out", "y"], "--data <DIR>"),
        ("convert", vec!["--weights", "x", "--backbone", "vit", "--out", "y"], "dino-vit-b16"),
        ("evaluate", [&experiment[..], &["--table", "1"]].concat(), "2..=9"),
        ("evaluate", [&experiment[..], &["--figure", "5"]].concat(), "3..=4"),
        (
            "evaluate",
            [&experiment[..], &["--table", "2", "--figure", "3"]].concat(),
            "cannot be used",
        ),
        ("evaluate", [&all[..4], &experiment[..2], &["--sweep"]].concat(), "cannot be used"),
        ("evaluate", [&all[..4], &experiment[..2], &["--steps", "9"]].concat(), "required"),
        ("evaluate", [&experiment[..], &["--sweep", "--noise", "0"]].concat(), "not above 0"),
        ("evaluate", [&experiment[..], &["--sweep", "--denoisers", "a"]].concat(), "small-mlp"),
        ("quickstart", vec!["data"], "unexpected argument 'data'"),
        ("quickstart", vec!["--steps", "2147483648"], "1..=2147483647"),
        ("train", [&experiment[..], &["--steps", "2147483648"]].concat(), "1..=2147483647"),
        ("custom_denoiser", vec!["--steps", "2147483648"], "1..=2147483647"),
        ("train", [&experiment[..], &["--micro-batch", "0"]].concat(), "'--micro-batch <N>'"),
        ("train", [&experiment[..], &["--micro-batch", "7"]].concat(), "7 does not divide 8"),
        ("train", [&experiment[..], &["--memory-limit", "0"]].concat(), "'--memory-limit <BYTES>'"),
        ("train", [&experiment[..], &["--average-every", "0"]].concat(), "1..=2147483647"),
        ("train", [&experiment[..], &["--save-every", "0"]].concat(), "1..=2147483647"),
        ("convert", [&all[2..4], &["--heads", "0"]].concat(), "'--heads <N>'"),
        ("convert", [&all[2..4], &["--head-size", "0"]].concat(), "'--head-size <N>'"),
        ("service", [&all[..2], &["--max-pixels", "0"]].concat(), "'--max-pixels <N>'"),
    ];
    for (name, args, says) in cases {
        let ran = program(name).args(args).run().expect(2);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
}

#[test]
fn devices_that_are_not_there() {
    let device = invad::Device::Cuda(99);
    if device.require().is_ok() {
        return;
    }
    let out = TempDir::new().unwrap();
    let Shared { data, detector, .. } = shared();
    let on = |command: &mut Command| {
        command.args(["--device", "cuda:99"]).run().refused(&["cuda:99 is not available: "]);
    };
    on(&mut train(data, out.path(), 5));
    on(score(detector, out.path()).arg(data));
    on(&mut evaluate(detector, data, out.path()));
    on(program("quickstart").arg("--out").arg(out.path()));
}

#[test]
fn units_that_the_processor_has_not() {
    let out = TempDir::new().unwrap();
    let Shared { data, detector, .. } = shared();
    let mut command = score(detector, out.path());
    command.arg(data).args(["--device", "cpu"]).env("INVAD_CPU", "sse");
    command.run().refused(&["INVAD_CPU", "portable", "got sse"]);
}

#[test]
fn empty_variables_are_as_good_as_none() {
    let root = TempDir::new().unwrap();
    for n in 0..4 {
        put(root.path().join(format!("data/{n}.png")), part(n));
    }
    let mut command = train(&root.path().join("data"), &root.path().join("out"), 1);
    for name in ["INVAD_CPU", "INVAD_WEIGHTS", "HF_ENDPOINT", "RUST_LOG", "CUDA_PATH"] {
        command.env(name, "");
    }
    let ran = command.run().expect(0);
    assert!(ran.stderr.contains("warning: "), "{}", ran.stderr);
}
