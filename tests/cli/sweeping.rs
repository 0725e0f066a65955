//! `evaluate --table`, `--figure` and `--sweep`, and one detector of each category.

use std::io::BufRead;

use super::support::photographs;
use super::*;

fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Table 9 with small parts, on one category of the bundled photographs.
fn table(out: &Path) -> Command {
    let mut command = program("evaluate");
    command.args(["--table", "9", "--data"]).arg(photographs()).arg("--out").arg(out);
    command.args([
        "--category",
        "cup",
        "--backbones",
        "efficientnet-lite0",
        "--denoisers",
        "small-mlp",
    ]);
    command.args(["--recipes", "whitened", "--evaluations", "2", "3", "--steps", "200"]);
    command
}

#[test]
#[cfg(unix)]
fn a_table_goes_on_after_ctrl_c_and_says_what_train_and_evaluate_do() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("table");
    let stopped = |at: &str| {
        let mut child = table(&out).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with(at)), "{at}");
        interrupt(&child);
        lines.for_each(drop);
        Ran::new(child.wait_with_output().unwrap()).expect(130)
    };
    // When the training has its memory.
    let ran = stopped("memory: ");
    assert_eq!(ran.stdout, "stopped; the same command goes on\n");
    assert!(!out.join("table-9.json").exists());

    // Between two measurements.
    let ran = stopped("1/2: ");
    let page = out.join("table-9.html");
    let says = "stopped: 1 of 2 measurements are there, see ";
    let says = format!("{says}{}; the same command goes on\n", page.display());
    assert_eq!(ran.stdout, says);
    let note = "Stopped: 1 of 2 measurements are there; the same command goes on.";
    assert!(fs::read_to_string(&page).unwrap().contains(note));
    assert_eq!(json(out.join("table-9.json"))["notes"][0], note);

    let ran = table(&out).run().expect(0);
    assert!(!fs::read_to_string(&page).unwrap().contains("Stopped"));
    assert!(ran.stdout.contains("| abs + nll, S = 3 | "), "{}", ran.stdout);
    for extension in ["html", "md", "csv", "json"] {
        assert!(out.join(format!("table-9.{extension}")).is_file(), "{extension}");
    }
    assert!(files(&out).iter().any(|file| file.extension().is_some_and(|e| e == "svg")));
    // What is done is not done again.
    let again = table(&out).run().expect(0);
    assert!(!again.stderr.contains("training: ") && again.stderr.contains("2/2: small-mlp"));
    assert_eq!(again.stdout, ran.stdout);

    let plain = root.path().join("plain");
    let mut training = train(&photographs(), &plain, 200);
    training.args(["--category", "cup", "--preset", "small-mlp", "--evaluations", "3"]);
    training.run().expect(0);
    let detector = plain.join("detector.safetensors");
    evaluate(&detector, &photographs(), &plain).args(["--category", "cup"]).run().expect(0);
    let metrics = json(plain.join("metrics.json"));
    let table = json(out.join("table-9.json"));
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    let row = rows.iter().find(|row| row["name"] == "abs + nll, S = 3").unwrap();
    assert_eq!(row["paper"], metrics["paper"]);
    assert_eq!(row["published"]["image AUROC"], 99.0);
}

/// A sweep of small parts.
fn sweep(data: &Path, out: &Path) -> Command {
    let mut command = program("evaluate");
    command.arg("--sweep").arg("--data").arg(data).arg("--out").arg(out);
    command.args(["--denoisers", "small-mlp", "--recipes", "whitened", "--steps", "3"]);
    command
}

#[test]
fn images_that_cannot_be_read_are_said_again() {
    let root = TempDir::new().unwrap();
    let [data, out] = ["data", "out"].map(|name| root.path().join(name));
    write_data(&data);
    fs::write(data.join("nut/test/dent/1.png"), "this is no image").unwrap();
    let run = || sweep(&data, &out).args(["--evaluations", "2"]).run().expect(4);
    let says = "1 image could not be read and is left out: nut/test/dent/1.png.";
    let ran = [run(), run()];
    for ran in &ran {
        let warnings = ran.stderr.lines().filter(|line| line.contains("dent/1.png"));
        assert_eq!(warnings.count(), 1, "{}", ran.stderr);
        assert!(ran.stdout.contains(says), "{}", ran.stdout);
    }
    assert_eq!(ran[0].stdout, ran[1].stdout);
    assert!(ran[0].stderr.contains("training: ") && !ran[1].stderr.contains("training: "));
    for name in ["sweep.html", "sweep.md", "sweep.json"] {
        assert!(fs::read_to_string(out.join(name)).unwrap().contains(says), "{name}");
    }
    assert_eq!(json(out.join("sweep.json"))["unreadable"][0]["path"], "nut/test/dent/1.png");

    // A detector that is damaged does not end it.
    let folders = fs::read_dir(out.join("detectors")).unwrap();
    let detector = folders.into_iter().next().unwrap().unwrap().path().join("detector.safetensors");
    fs::write(&detector, "").unwrap();
    let ran = sweep(&data, &out).args(["--evaluations", "3"]).run().expect(4);
    let warning = format!("warning: {}: it is damaged", detector.display());
    assert!(
        ran.stderr.contains(&warning) && ran.stderr.contains("it is made again"),
        "{}",
        ran.stderr
    );
}

#[test]
fn backbones_that_are_not_there() {
    let root = TempDir::new().unwrap();
    let (data, out) = (&shared().data, root.path().join("out"));
    let run = |backbones: [&str; 2]| {
        let mut command = sweep(data, &out);
        command.args(["--category", "nut", "--evaluations", "2", "--backbones"]).args(backbones);
        command.env("INVAD_WEIGHTS", root.path()).env("HF_HOME", root.path());
        command.env("XDG_DATA_HOME", root.path()).run()
    };
    let ran = run(["efficientnet-lite0", "efficientnet-lite9"]).expect(2);
    assert!(ran.stderr.contains("efficientnet-lite1") && !out.exists(), "{}", ran.stderr);
    let ran = run(["efficientnet-lite0", "efficientnet-lite1"]).expect(1);
    let last = "the rows of efficientnet-lite1 are empty: its weights cannot be had";
    assert_eq!(ran.stderr.lines().last(), Some(last));
    let results = json(out.join("sweep.json"));
    let note = results["notes"][0].as_str().unwrap();
    assert!(note.starts_with("The rows of efficientnet-lite1 are empty, since"), "{note}");
    let rows = results["rows"].as_array().unwrap();
    let there = rows.iter().map(|row| !row["setting"].is_null()).collect::<Vec<_>>();
    assert_eq!(there, [[true; 5], [false; 5]].concat());
}

#[test]
fn lists_that_an_experiment_has_no_use_for() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let run = |arguments: &[&str]| {
        let mut command = program("evaluate");
        command.arg("--data").arg(&shared().data).arg("--out").arg(&out).args(arguments);
        command.run()
    };
    let wrong = |arguments: &[&str], says: &[&str]| {
        let ran = run(arguments).expect(2);
        assert!(says.iter().all(|part| ran.stderr.contains(part)), "{}", ran.stderr);
    };
    let says = ["--noise should be left out", "uses backbones, denoisers, recipes, per-category"];
    wrong(&["--table", "5", "--noise", "0.5"], &says);
    let says = ["--noise should be left out", "evaluations", "[0.25, 1.0]"];
    wrong(&["--figure", "4", "--noise", "0.25", "1"], &says);
    let says = ["--noise should be left out, or beside --evaluations of 2 or more"];
    wrong(&["--sweep", "--evaluations", "1", "--noise", "0.5"], &says);
    assert!(!out.exists());
}

#[test]
fn folders_in_the_place_of_results() {
    let Shared { data, detector, .. } = shared();
    let root = TempDir::new().unwrap();
    for (name, mut command) in [
        ("sweep.html", sweep(data, root.path())),
        ("report.html", evaluate(detector, data, root.path())),
    ] {
        let folder = root.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        command.run().refused(&[folder.to_str().unwrap(), "move it away"]);
        std::fs::remove_dir(&folder).unwrap();
        assert_eq!(root.path().read_dir().unwrap().count(), 0, "before any work");
    }
}

#[test]
fn a_detector_of_each_category() {
    let data = &shared().data;
    let root = TempDir::new().unwrap();
    let out = root.path().join("each");
    let training = || {
        let mut command = train(data, &out, 6);
        command.arg("--per-category");
        command
    };
    let ran = training().run().expect(0);
    assert!(ran.stderr.contains("nut: detector 2 of 2"), "{}", ran.stderr);
    let names = ["detector.safetensors", "training.csv", "training.safetensors"];
    let expected = ["bolt", "nut"].into_iter().flat_map(|c| names.map(|n| Path::new(c).join(n)));
    assert_eq!(files(&out), expected.collect::<Vec<_>>());
    // The one of a category is what a training on it alone makes.
    let alone = root.path().join("alone");
    train(data, &alone, 6).args(["--category", "nut"]).run().expect(0);
    let bytes = |folder: &Path| fs::read(folder.join(names[0])).unwrap();
    assert!(bytes(&alone) == bytes(&out.join("nut")));
    // What was stopped before the second began goes on with it.
    fs::remove_dir_all(out.join("nut")).unwrap();
    let ran = training().arg("--resume").run().expect(0);
    assert!(ran.stderr.contains("bolt: is trained already"), "{}", ran.stderr);
    assert!(bytes(&alone) == bytes(&out.join("nut")));

    let both = root.path().join("both");
    let ran = evaluate(&out, data, &both).args(["--per-category", "--baselines"]).run().expect(0);
    assert!(ran.stdout.contains("mean "), "{}", ran.stdout);
    let both = json(both.join("metrics.json"));
    for name in ["bolt", "nut"] {
        let one = root.path().join(name);
        let detector = out.join(name).join(names[0]);
        let options = ["--category", name, "--baselines"];
        evaluate(&detector, data, &one).args(options).run().expect(0);
        let one = json(one.join("metrics.json"));
        let part = |of: &Value| {
            let parts = [of, &of["paper"], &of["baselines"]["padim"]];
            parts.map(|part| part["categories"][name].clone())
        };
        assert_eq!(part(&both), part(&one));
    }

    fs::remove_dir_all(out.join("nut")).unwrap();
    let says = ["no detector of category `nut`", "train --per-category --category nut"];
    evaluate(&out, data, &root.path().join("x")).run().refused(&says);
    let ran = evaluate(&shared().trained, data, &root.path().join("x")).run();
    ran.refused(&["one detector of all categories", "detector.safetensors"]);
    let file = &shared().detector;
    let ran = evaluate(file, data, &root.path().join("x")).arg("--per-category").run();
    ran.refused(&["takes the folder"]);
}
