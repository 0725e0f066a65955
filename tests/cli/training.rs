//! `train`: detectors, logs and interruptions.

use super::*;

#[test]
fn writes_a_detector_a_state_and_a_log() {
    let Shared { trained, training, .. } = shared();
    let names = ["detector.safetensors", "training.csv", "training.safetensors"];
    assert_eq!(files(trained), names.map(PathBuf::from));
    assert!(training.stdout.contains("trained on 8 images of bolt, nut for 20 steps"));
    assert!(training.stderr.contains("warning: category `bolt` has 6 good images"));
    let log = fs::read_to_string(trained.join("training.csv")).unwrap();
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split(',').collect()).collect();
    let header = ["step", "loss", "gradient_norm", "learning_rate", "loss_scale"];
    assert_eq!(lines[0], header);
    assert_eq!(lines.len(), 21);
    for (step, line) in (1..).zip(&lines[1..]) {
        assert_eq!(line[0], step.to_string());
        assert!(line[1..].iter().all(|v| v.parse::<f64>().unwrap().is_finite()), "{line:?}");
    }
}

#[test]
fn data_that_cannot_be_trained_on() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let try_on = |data: &Path, says: &[&str]| {
        train(data, &out, 5).run().refused(&[&[data.to_str().unwrap()], says].concat());
    };
    try_on(&root.path().join("none"), &["there is no such folder"]);
    let file = put(root.path().join("file.png"), part(0));
    try_on(&file, &["this is a file"]);
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    try_on(&empty, &["no images found; expected <category>/train/good/*"]);
    let bad = root.path().join("bad");
    put(bad.join("cog/test/good/0.png"), part(0));
    try_on(&bad, &["category `cog` has no good images; put some in train/good"]);
    let damaged = root.path().join("damaged");
    fs::create_dir(&damaged).unwrap();
    fs::write(damaged.join("0.png"), b"not a picture").unwrap();
    try_on(&damaged, &["none of the images to train on can be read"]);

    let data = &shared().data;
    let ran = train(data, &out, 5).args(["--category", "nut", "screw"]).run();
    ran.refused(&["no category `screw`; there are: bolt, nut"]);
    assert!(!out.exists());
}

/// Before features are computed, and what was there before stays.
#[test]
fn options_that_cannot_be() {
    let Shared { data, trained, .. } = shared();
    let root = TempDir::new().unwrap();
    let (new, old) = (root.path().join("new"), root.path().join("old"));
    fs::create_dir(&old).unwrap();
    for name in files(trained) {
        fs::copy(trained.join(&name), old.join(&name)).unwrap();
    }
    let contents = || files(&old).into_iter().map(|name| fs::read(old.join(name)).unwrap());
    let before: Vec<_> = contents().collect();
    for (options, says) in [
        (["--moments", "bf16"], "`moments` should be one of [F32] on cpu"),
        (["--backbone", "efficientnet-b4-reference"], "efficientnet-b4-reference.{safetensors,"),
    ] {
        for out in [&new, &old] {
            let mut command = train(data, out, 20);
            let ran = command.args(["--device", "cpu"]).args(options).env("HF_HOME", root.path());
            let ran = ran.env("INVAD_WEIGHTS", root.path()).run().refused(&[says]);
            assert!(!ran.stderr.contains("features"), "{}", ran.stderr);
        }
    }
    assert!(!new.exists());
    assert!(contents().eq(before));
}

#[test]
fn images_that_cannot_be_read_are_left_out() {
    let root = TempDir::new().unwrap();
    for n in 0..5 {
        put(root.path().join(format!("data/{n}.png")), part(n));
    }
    fs::write(root.path().join("data/5.png"), b"").unwrap();
    let ran = train(&root.path().join("data"), &root.path().join("out"), 3).run().expect(0);
    assert!(ran.stderr.contains("5.png: the file is empty; the image is left out"));
    assert!(ran.stderr.contains("its threshold cannot be relied on below 16"));
}

#[test]
fn where_nothing_can_be_written() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    let Shared { data, detector, .. } = shared();
    for out in [file.clone(), file.join("below")] {
        let says = [out.to_str().unwrap(), "is a file, and --out takes a folder; name another"];
        train(data, &out, 5).run().refused(&says);
        train(data, &out, 5).arg("--per-category").run().refused(&says);
        score(detector, &out).arg(data).run().refused(&says);
        evaluate(detector, data, &out).run().refused(&says);
        program("quickstart").arg("--out").arg(&out).run().refused(&says);
        let mut experiment = program("evaluate");
        experiment.args(["--sweep", "--data"]).arg(data).arg("--out").arg(&out);
        experiment.run().refused(&says);
        let mut convert = program("convert");
        convert.args(["--backbone", "vit-b16", "--weights"]).arg(&file).arg("--out").arg(&out);
        convert.run().refused(&says);
    }
    // Before any work, so that nothing else matters.
    evaluate(&root.path().join("none"), data, &file).run().refused(&["this is a file"]);
    // The results cannot appear where a folder is.
    let out = root.path().join("out");
    fs::create_dir_all(out.join("scores.csv")).unwrap();
    score(detector, &out).arg(data).run().refused(&["scores.csv: is a directory"]);
    fs::create_dir_all(out.join("training.csv")).unwrap();
    train(data, &out, 5).run().refused(&["training.csv: Is a directory"]);
    assert!(files(&out).is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn where_nothing_may_be_written() {
    let Shared { data, detector, .. } = shared();
    for out in ["/proc/invad", "/sys/invad"].map(Path::new) {
        let says = [out.to_str().unwrap()];
        train(data, out, 5).run().refused(&says);
        score(detector, out).arg(data).run().refused(&says);
    }
}

#[test]
fn a_state_is_needed_to_resume() {
    let out = TempDir::new().unwrap();
    let ran = train(&shared().data, out.path(), 5).arg("--resume").run();
    ran.refused(&["training.safetensors: there is no training to resume here"]);
    fs::write(out.path().join("training.safetensors"), b"damaged").unwrap();
    for resume in [&["--resume"][..], &[]] {
        let ran = train(&shared().data, out.path(), 5).args(resume).run();
        ran.refused(&["training.safetensors: not a whole invad-training file"]);
    }
}

#[test]
fn a_finished_training_can_be_resumed_or_done_again() {
    let Shared { data, trained, detector, .. } = shared();
    let out = TempDir::new().unwrap();
    fs::copy(trained.join("training.safetensors"), out.path().join("training.safetensors"))
        .unwrap();
    // There is no detector yet.
    let ran = train(data, out.path(), 20).run();
    ran.refused(&["an unfinished training is here (step 20 of 20)", "--resume", "--out"]);
    train(data, out.path(), 20).arg("--resume").run().expect(0);
    let resumed = out.path().join("detector.safetensors");
    assert!(fs::read(&resumed).unwrap() == fs::read(detector).unwrap());
    // What the detector multiplies is no part of the training.
    let mut quantised = train(data, out.path(), 20);
    let ran =
        quantised.args(["--resume", "--device", "cpu", "--precision", "int8"]).run().expect(0);
    assert!(ran.stdout.trim_end().ends_with("in int8"), "{}", ran.stdout);
    assert!(fs::read(&resumed).unwrap() != fs::read(detector).unwrap());
    let refused = train(data, out.path(), 20).args(["--precision", "fp4"]).run();
    assert!(refused.code == 2 && refused.stderr.contains("int8, bf16"), "{}", refused.stderr);
    train(data, out.path(), 3).run().expect(0);
    assert!(fs::read(&resumed).unwrap() != fs::read(detector).unwrap());
}

#[test]
fn the_recipe_of_a_state_is_read_as_it_was_written() {
    let out = TempDir::new().unwrap();
    let run = |resume: &[&str]| {
        let mut command = train(&shared().data, out.path(), 3);
        command.args(["--recipe", "paper"]).args(resume).run().expect(0);
        fs::read(out.path().join("detector.safetensors")).unwrap()
    };
    let whole = run(&[]);
    assert!(run(&["--resume"]) == whole);
}

#[test]
fn divergence_keeps_the_last_good_state() {
    let out = TempDir::new().unwrap();
    let path = out.path().join("training.safetensors");
    let mut state = TrainingState::load(shared().trained.join("training.safetensors")).unwrap();
    state.step = 5;
    let huge = vec![1e30; state.parameters.len()];
    state.parameters.view_mut().copy_from_slice(&huge).unwrap();
    state.save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let ran = train(&shared().data, out.path(), 20).arg("--resume").run();
    ran.refused(&["training step 6: the loss is not finite; the state after 5 steps is kept"]);
    assert!(fs::read(&path).unwrap() == before);
    assert!(!out.path().join("detector.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn interrupted_and_resumed_it_is_the_same() {
    const STEPS: u64 = 24;
    let data = &shared().data;
    let root = TempDir::new().unwrap();
    let (whole, parts) = (root.path().join("whole"), root.path().join("parts"));
    train(data, &whole, STEPS).run().expect(0);

    let log = parts.join("training.csv");
    let steps = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    let mut child = train(data, &parts, STEPS);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while steps() < 6 {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // As `timeout` does, which tells the program and its group.
    interrupt(&child);
    interrupt(&child);
    let ran = Ran::new(child.wait_with_output().unwrap()).expect(130);
    assert!(ran.stderr.contains("stopping; press Ctrl-C again to abort"), "{}", ran.stderr);
    assert!(ran.stdout.contains("--resume goes on from"), "{}", ran.stdout);
    let stopped = TrainingState::load(parts.join("training.safetensors")).unwrap().step;
    assert!((5..STEPS).contains(&stopped));
    assert_eq!(steps() as u64, stopped + 1);
    assert_eq!(files(&parts), ["training.csv", "training.safetensors"].map(PathBuf::from));

    let says = format!("an unfinished training is here (step {stopped} of {STEPS})");
    train(data, &parts, STEPS).run().refused(&[&says, "--resume"]);
    let resume = |steps| {
        let mut command = train(data, &parts, steps);
        command.arg("--resume");
        command
    };
    let other = |options: &[&str], setting: &str, was: &str, option: &str, is: &str| {
        let says = format!(
            "resume: `{setting}` should be {was}, as when the training state was saved ({option}), got {is}"
        );
        let ran = resume(STEPS).args(options).run().refused(&[&says]);
        assert!(!ran.stderr.contains("features"), "{}", ran.stderr);
    };
    let says = "`steps` should be 24, as when the training state was saved (--steps 24), got 25";
    resume(STEPS + 1).run().refused(&[says]);
    other(&["--seed", "1"], "seed", "0", "--seed 0", "1");
    other(&["--category", "nut"], "category", "bolt, nut", "--category bolt nut", "nut");
    other(&["--recipe", "paper"], "recipe", "whitened", "--recipe whitened", "paper");
    let (was, option) = ("evaluated as its name has it", "without --timestep and --evaluations");
    other(&["--timestep", "200"], "recipe", was, option, "evaluated once at timestep 200");
    other(&["--evaluations", "3"], "recipe", was, option, "evaluated 3 times");
    let mut preset = resume(STEPS);
    let preset = preset.args(["--preset", "medium"]).run();
    preset.refused(&["`denoiser` should be dit ", "(--preset small), got dit "]);

    // Steps that were logged but not saved, as by a run that was killed.
    let mut text = fs::read_to_string(&log).unwrap();
    text += &format!("{},0.5,0.5,0.5\n{},0.", stopped + 1, stopped + 2);
    fs::write(&log, text).unwrap();
    resume(STEPS).run().expect(0);
    for name in ["detector.safetensors", "training.safetensors", "training.csv"] {
        let same = fs::read(whole.join(name)).unwrap() == fs::read(parts.join(name)).unwrap();
        assert!(same, "{name} differs");
    }
}
