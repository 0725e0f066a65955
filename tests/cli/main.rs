//! The example programs as a user runs them, with good and bad input.
//!
//! `cargo test` builds them; for this file alone:
//! `cargo build --examples --profile test && cargo test --test cli`.

use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};
use invad::checkpoint::TrainingState;
use invad::data::{load_image, load_mask};
#[cfg(unix)]
use invad::ops::{Random, Stream};
use serde_json::Value;
use tempfile::TempDir;

#[cfg(target_os = "linux")]
mod folders;
#[cfg(unix)]
mod full_disk;
#[cfg(unix)]
mod kills;
mod locks;
#[cfg(unix)]
mod service;

const PROGRAMS: [&str; 5] = ["quickstart", "train", "score", "evaluate", "service"];

fn program(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().and_then(Path::parent).unwrap().join("examples");
    let path = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    let built = path.metadata().and_then(|metadata| metadata.modified()).ok();
    assert!(
        built.is_some_and(|built| built >= newest_source()),
        "{} is missing or old: cargo build --examples --profile test",
        path.display()
    );
    let mut command = Command::new(path);
    command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command
}

/// When the sources of the programs were last changed.
fn newest_source() -> SystemTime {
    static NEWEST: OnceLock<SystemTime> = OnceLock::new();
    *NEWEST.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modified = |entry: walkdir::DirEntry| entry.metadata().unwrap().modified().unwrap();
        ["src", "examples/common"]
            .iter()
            .flat_map(|folder| walkdir::WalkDir::new(root.join(folder)))
            .map(Result::unwrap)
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "rs"))
            .map(modified)
            .max()
            .unwrap()
    })
}

/// What a program did.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ran = Self {
            code: output.status.code().expect("an exit code"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        for sign in ["panicked", "RUST_BACKTRACE", "stack backtrace", "Error {"] {
            assert!(!ran.stderr.contains(sign), "{}", ran.stderr);
        }
        ran
    }

    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Failed with one last line that says all of `parts`.
    #[track_caller]
    fn refused(self, parts: &[&str]) -> Self {
        let ran = self.expect(1);
        let errors = ran.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{}", ran.stderr);
        let last = ran.stderr.lines().last().unwrap();
        assert!(last.starts_with("error: "), "{}", ran.stderr);
        for part in parts {
            assert!(last.contains(part), "{last:?} does not say {part:?}");
        }
        ran
    }
}

trait Run {
    fn run(&mut self) -> Ran;
    fn paths<P: AsRef<Path>>(&mut self, paths: &[P]) -> &mut Self;
}

impl Run for Command {
    fn run(&mut self) -> Ran {
        Ran::new(self.output().unwrap())
    }

    fn paths<P: AsRef<Path>>(&mut self, paths: &[P]) -> &mut Self {
        self.args(paths.iter().map(AsRef::as_ref))
    }
}

fn train(data: &Path, out: &Path, steps: u64) -> Command {
    let mut command = program("train");
    command.arg("--data").arg(data).arg("--out").arg(out).args(["--steps", &steps.to_string()]);
    command
}

fn score(detector: &Path, out: &Path) -> Command {
    let mut command = program("score");
    command.arg("--detector").arg(detector).arg("--out").arg(out);
    command
}

fn evaluate(detector: &Path, data: &Path, out: &Path) -> Command {
    let mut command = program("evaluate");
    command.arg("--detector").arg(detector).arg("--data").arg(data).arg("--out").arg(out);
    command
}

fn put(path: impl AsRef<Path>, image: impl Into<DynamicImage>) -> PathBuf {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.into().save(path).unwrap();
    path.into()
}

/// A part, the `n`th of its kind; no two are equal.
fn part(n: u32) -> RgbImage {
    RgbImage::from_fn(64, 48, |x, y| {
        let grain = (x * 7919 + y * 104_729 + n * 5_863).wrapping_mul(2_654_435_761) >> 28;
        let stripes = if (x + n) % 16 < 8 { 90 } else { 150 };
        Rgb([stripes + grain as u8, stripes, 120 - grain as u8])
    })
}

fn broken(n: u32) -> (RgbImage, GrayImage) {
    let mut image = part(n);
    let mut mask = GrayImage::new(64, 48);
    for (x, y) in (20..36).flat_map(|x| (12..28).map(move |y| (x, y))) {
        image.put_pixel(x, y, Rgb([0, 255, 40]));
        mask.put_pixel(x, y, Luma([255]));
    }
    (image, mask)
}

/// Two categories in the layout of MVTec AD.
fn write_data(root: &Path) {
    for (category, first) in [("bolt", 0), ("nut", 100)] {
        let folder = root.join(category);
        for n in 0..6 {
            put(folder.join(format!("train/good/{n}.png")), part(first + n));
        }
        for n in 0..3 {
            put(folder.join(format!("test/good/{n}.png")), part(first + 10 + n));
            let (image, mask) = broken(first + 20 + n);
            put(folder.join(format!("test/dent/{n}.png")), image);
            put(folder.join(format!("ground_truth/dent/{n}_mask.png")), mask);
        }
    }
}

/// Whole numbers below a bound, the same in every run.
#[cfg(unix)]
struct Numbers(u64);

#[cfg(unix)]
impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 += 1;
        let random = Random { seed: self.0, stream: Stream::Order, step: 0 };
        random.below(n as u32, 0) as usize
    }
}

/// A number from the environment: how thorough a test is.
#[cfg(unix)]
fn effort(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |n| n.parse().unwrap())
}

/// A data set and a detector trained on it, for all tests.
struct Shared {
    data: PathBuf,
    trained: PathBuf,
    detector: PathBuf,
    training: Ran,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
        let _ = fs::remove_dir_all(&root);
        let (data, trained) = (root.join("data"), root.join("trained"));
        write_data(&data);
        let training = train(&data, &trained, 20).run().expect(0);
        let detector = trained.join("detector.safetensors");
        Shared { data, trained, detector, training }
    })
}

fn json_lines(path: impl AsRef<Path>) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All files in `folder` and below, by path relative to it, less the lock of a training.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = walkdir::WalkDir::new(folder)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| !entry.file_type().is_dir() && entry.file_name() != ".lock")
        .map(|entry| entry.path().strip_prefix(folder).unwrap().to_path_buf())
        .collect();
    files.sort();
    files
}

mod usage {
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
        let cases: [(&str, Vec<&str>, &str); 15] = [
            ("train", vec![], "--data <DIR>"),
            ("train", vec!["--data", "x"], "--out <DIR>"),
            ("train", vec!["--data", "x", "--out", "y", "--steps", "0"], "'--steps <N>'"),
            ("train", vec!["--data", "x", "--out", "y", "--recipe", "good"], "whitened, paper"),
            ("train", vec!["--data", "x", "--out", "y", "--device", "gpu"], "cuda:N or best"),
            ("score", vec!["--detector", "x", "--out", "y"], "<PATH>"),
            ("score", [&all[..], &["--threshold", "1", "--quantile", "1"]].concat(), "cannot be"),
            ("score", [&all[..], &["--score", "best"]].concat(), "block, top5, abs, nll, both"),
            ("score", [&all[..], &["--batch", "0"]].concat(), "1..=1024"),
            ("score", [&all[..], &["--quantile", "-0.1"]].concat(), "not in 0..=1"),
            ("score", [&all[..], &["--threshold", "nan"]].concat(), "not a finite number"),
            ("score", [&all[..], &["--threshold-score", "a"]].concat(), "not a finite number"),
            ("train", vec!["--data", "x", "--out", "y", "--timestep", "-5"], "1..=999"),
            ("evaluate", vec!["--data", "x", "--out", "y"], "--detector <FILE>"),
            ("quickstart", vec!["data"], "unexpected argument 'data'"),
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
}

mod training {
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
        assert!(!out.join("detector.safetensors").exists());
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
            let says = [out.to_str().unwrap()];
            train(data, &out, 5).run().refused(&says);
            score(detector, &out).arg(data).run().refused(&says);
            evaluate(detector, data, &out).run().refused(&says);
            program("quickstart").arg("--out").arg(&out).run().refused(&says);
        }
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
        resume(STEPS + 1).run().refused(&["`steps` should be 24, as when the training state"]);
        resume(STEPS).args(["--seed", "1"]).run().refused(&["`seed` should be 0"]);
        resume(STEPS).args(["--category", "nut"]).run().refused(&["`category` should be bolt"]);

        let recipe = resume(STEPS).args(["--recipe", "paper"]).run();
        recipe.refused(&["`recipe` should be "]);

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
}

#[cfg(unix)]
fn interrupt(child: &std::process::Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
}

mod scoring {
    use super::*;

    #[test]
    fn pictures_and_records_of_each_image() {
        let Shared { data, detector, .. } = shared();
        let out = TempDir::new().unwrap();
        let ran = score(detector, out.path()).arg(data.join("nut/test")).run().expect(0);
        assert!(
            ran.stderr.contains(
                "as the category it is likeliest to be; --category picks one of bolt, nut"
            )
        );
        let lines = json_lines(out.path().join("scores.jsonl"));
        assert_eq!(lines.len(), 6);
        let names: Vec<_> = ["dent/0", "dent/1", "dent/2", "good/0", "good/1", "good/2"].into();
        for (line, name) in lines.iter().zip(names) {
            assert_eq!(
                line["path"],
                data.join("nut/test").join(name).to_str().unwrap().to_owned() + ".png"
            );
            assert_eq!(line["overlay"], format!("overlays/{name}.png"));
            assert_eq!(line["mask"], format!("masks/{name}.png"));
            assert_eq!(line["map"], format!("maps/{name}.tiff"));
            assert_eq!((&line["width"], &line["height"]), (&64.into(), &48.into()));
            // Pictures of both categories look alike.
            assert!(["bolt", "nut"].contains(&line["calibration"].as_str().unwrap()));
            let number = |key: &str| line[key].as_f64().unwrap();
            assert!(number("threshold") > 3.0);
            assert_eq!(line["anomalous"], number("score") >= number("threshold"));
            assert!(number("max") >= number("top5") && number("block") > 0.0);
            assert!(number("nll").is_finite());
            let verdict = match (&line["anomalous"], &line["unfamiliar"]) {
                (Value::Bool(true), _) => "anomalous",
                (_, Value::Bool(true)) => "unfamiliar",
                _ => "normal",
            };
            let shown = ran.stdout.lines().find(|l| l.ends_with(&format!("{name}.png"))).unwrap();
            assert!(shown.starts_with(verdict), "{shown}");

            assert_eq!(
                load_image(out.path().join(line["overlay"].as_str().unwrap()))
                    .unwrap()
                    .dimensions(),
                (64, 48)
            );
            let mask = image::open(out.path().join(line["mask"].as_str().unwrap())).unwrap();
            let DynamicImage::ImageLuma8(mask) = mask else { panic!("not grey") };
            assert!(mask.pixels().all(|p| p[0] == 0 || p[0] == 255));
            let map = read_map(&out.path().join(line["map"].as_str().unwrap()));
            assert_eq!((map.0, map.1), (64, 48));
            let largest = map.2.iter().copied().fold(f32::MIN, f32::max);
            // Interpolation and smoothing only take from the largest cell.
            assert!(0.0 < largest && f64::from(largest) <= number("max"), "{largest}");
        }
        let of = |kind: &str| -> Vec<f64> {
            let of = lines.iter().filter(|l| l["path"].as_str().unwrap().contains(kind));
            of.map(|l| l["score"].as_f64().unwrap()).collect()
        };
        let highest_good = of("good").into_iter().fold(f64::MIN, f64::max);
        assert!(of("dent").iter().all(|&s| s > highest_good), "{lines:?}");

        // The same in the other format.
        let mut csv = csv::Reader::from_path(out.path().join("scores.csv")).unwrap();
        let headers: Vec<String> = csv.headers().unwrap().iter().map(String::from).collect();
        let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), lines.len());
        for (row, line) in rows.iter().zip(&lines) {
            for (key, cell) in headers.iter().zip(row) {
                match line.get(key).unwrap_or(&Value::Null) {
                    Value::Null => assert_eq!(cell, "", "{key}"),
                    Value::String(text) => assert_eq!(cell, text, "{key}"),
                    Value::Number(n) => assert_eq!(cell.parse::<f64>().ok(), n.as_f64(), "{key}"),
                    value => assert_eq!(cell, value.to_string(), "{key}"),
                }
            }
        }
        assert_eq!(headers.last().map(String::as_str), Some("error"));

        // Batches are a matter of speed; a GPU rounds differently.
        let again = TempDir::new().unwrap();
        let mut command = score(detector, again.path());
        command.args(["--no-pictures", "--batch", "4"]).arg(data.join("nut/test")).run().expect(0);
        let again = json_lines(again.path().join("scores.jsonl"));
        assert_eq!(again.len(), lines.len());
        for (again, line) in again.iter().zip(&lines) {
            let [again, score] = [again, line].map(|line| line["score"].as_f64().unwrap());
            assert!((again - score).abs() < 0.05, "{again} for {score}");
        }
    }

    fn read_map(path: &Path) -> (u32, u32, Vec<f32>) {
        let file = fs::File::open(path).unwrap();
        let mut tiff = tiff::decoder::Decoder::new(BufReader::new(file)).unwrap();
        let (width, height) = tiff.dimensions().unwrap();
        let tiff::decoder::DecodingResult::F32(map) = tiff.read_image().unwrap() else {
            panic!("not 32-bit floats")
        };
        (width, height, map)
    }

    #[test]
    fn all_kinds_of_images() {
        let root = TempDir::new().unwrap();
        let put = |name: &str, image: DynamicImage| put(root.path().join("in").join(name), image);
        put("grey.png", GrayImage::from_fn(20, 30, |x, y| Luma([(x * y) as u8])).into());
        put("grey16.png", ImageBuffer::from_fn(9, 8, |x, y| Luma([(x * y * 900) as u16])).into());
        put("rgb16.tiff", ImageBuffer::from_fn(9, 8, |x, _| Rgb([x as u16, 9, 65535])).into());
        put("alpha.png", ImageBuffer::from_fn(8, 9, |x, y| Rgba([9, x as u8, 7, y as u8])).into());
        put("grey-alpha.png", ImageBuffer::from_fn(8, 9, |_, y| LumaA([9, y as u8])).into());
        put("one.png", RgbImage::from_pixel(1, 1, Rgb([1, 2, 3])).into());
        put("row.bmp", RgbImage::from_pixel(300, 1, Rgb([1, 2, 3])).into());
        put("column.webp", RgbImage::from_pixel(1, 300, Rgb([1, 2, 3])).into());
        put("large.jpg", RgbImage::from_pixel(2000, 1500, Rgb([1, 2, 3])).into());
        // What cannot be scored.
        let whole = fs::read(put("whole.png", part(3).into())).unwrap();
        let folder = root.path().join("in");
        fs::write(folder.join("truncated.png"), &whole[..whole.len() / 2]).unwrap();
        fs::write(folder.join("empty.png"), b"").unwrap();
        fs::write(folder.join("text.png"), b"not a picture").unwrap();
        let mut huge = whole.clone();
        huge[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
        let crc = crc32(&huge[12..29]).to_be_bytes();
        huge[29..33].copy_from_slice(&crc);
        fs::write(folder.join("huge.png"), huge).unwrap();

        let out = root.path().join("out");
        let missing = root.path().join("missing.png");
        let mut command = score(&shared().detector, &out);
        let ran = command.paths(&[&folder, &missing]).arg("--fail-on-anomaly").run().expect(4);
        assert!(ran.stdout.contains("5 unreadable"), "{}", ran.stdout);
        let lines = json_lines(out.join("scores.jsonl"));
        assert_eq!(lines.len(), 15);
        for (name, says) in [
            ("truncated.png", "damaged: "),
            ("empty.png", "the file is empty"),
            ("text.png", "cannot be read"),
            ("huge.png", "60000×60000 is too large"),
            ("missing.png", "No such file"),
        ] {
            let line = lines.iter().find(|l| l["path"].as_str().unwrap().ends_with(name)).unwrap();
            assert!(line["error"].as_str().unwrap().contains(says), "{line}");
            assert_eq!(line.as_object().unwrap().len(), 2, "{line}");
            let warning = ran.stderr.lines().filter(|l| l.contains(name));
            let warning: Vec<_> = warning.collect();
            assert!(warning.len() == 1 && warning[0].starts_with("warning: "), "{warning:?}");
        }
        for line in lines.iter().filter(|line| line.get("error").is_none()) {
            let image = load_image(line["path"].as_str().unwrap()).unwrap();
            let at = |key: &str| out.join(line[key].as_str().unwrap());
            assert_eq!(load_image(at("overlay")).unwrap().dimensions(), image.dimensions());
            let mask = load_mask(at("mask")).unwrap();
            assert_eq!((mask.width() as u32, mask.height() as u32), image.dimensions());
            let (width, height, map) = read_map(&at("map"));
            assert_eq!((width, height), image.dimensions());
            assert!(map.iter().all(|v| v.is_finite()), "{line}");
        }
    }

    /// The checksum of PNG chunks.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xEDB8_8320 * (c & 1)))
        })
    }

    #[test]
    fn inputs_that_name_nothing() {
        let root = TempDir::new().unwrap();
        let empty = root.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let (out, detector) = (root.path().join("out"), &shared().detector);
        score(detector, &out).arg(&empty).run().refused(&["empty: no images here"]);
        let pattern = root.path().join("*.png");
        score(detector, &out).arg(&pattern).run().refused(&["*.png: no images here"]);
        let none = root.path().join("none.png");
        score(detector, &out).arg(&none).run().refused(&["none.png: No such file"]);
        // Each is named, the last as the reason of the failure.
        let ran = score(detector, &out).paths(&[&none, &empty]).run().expect(1);
        assert!(ran.stderr.contains("none.png") && ran.stderr.contains("empty"), "{}", ran.stderr);
        assert!(!out.exists());
    }

    #[test]
    fn names_never_meet() {
        let root = TempDir::new().unwrap();
        let put = |name: &str| put(root.path().join(name), part(1));
        let inside = root.path().join("work");
        for name in ["work/a/x.png", "work/b/x.png", "work/a/x.bmp", "work/a/X.png", "x.png"] {
            put(name);
        }
        put("work/a/x.png.d/x.png");
        let absolute = put("else/x.png");
        let mut command = score(&shared().detector, Path::new("out"));
        command.current_dir(&inside);
        command.args(["a", "b/x.png", "./b/x.png", "b", "../x.png", "b/../../x.png"]);
        command.arg(&absolute).run().expect(0);
        let lines = json_lines(inside.join("out/scores.jsonl"));
        // Case may not count in the file system that this runs in. One file has two paths.
        assert!((7..=8).contains(&lines.len()), "{lines:#?}");
        let mut seen = std::collections::HashSet::new();
        for line in &lines {
            for key in ["overlay", "mask", "map"] {
                let path = line[key].as_str().unwrap();
                assert!(seen.insert(path.to_lowercase()), "{path} twice");
                let file = inside.join("out").join(path).canonicalize().unwrap();
                assert!(file.starts_with(inside.join("out").canonicalize().unwrap()), "{path}");
            }
        }
        assert!(seen.contains("overlays/up/x.png"), "{seen:?}");
        // Nothing else was written, there or anywhere.
        assert_eq!(files(&inside.join("out")).len(), 3 * lines.len() + 2);
        let outside: Vec<_> =
            files(root.path()).into_iter().filter(|f| !f.starts_with("work/out")).collect();
        assert_eq!(outside.len(), lines.len() - 1, "{outside:?}");
    }

    #[test]
    fn earlier_results_are_no_inputs() {
        let root = TempDir::new().unwrap();
        put(root.path().join("0.png"), part(0));
        put(root.path().join("1.png"), part(1));
        let run = || score(&shared().detector, &root.path().join("out")).arg(root.path()).run();
        run().expect(0);
        let first = fs::read(root.path().join("out/scores.jsonl")).unwrap();
        run().expect(0);
        assert_eq!(fs::read(root.path().join("out/scores.jsonl")).unwrap(), first);
        assert_eq!(files(&root.path().join("out")).len(), 2 + 3 * 2);
    }

    #[test]
    fn exit_codes_and_thresholds() {
        let Shared { data, detector, .. } = shared();
        let out = TempDir::new().unwrap();
        let image = data.join("bolt/test/good/0.png");
        let run = |args: &[&str]| {
            let mut command = score(detector, out.path());
            command.arg("--no-pictures").arg(&image).args(args);
            command.run()
        };
        run(&["--threshold-score", "-1e9"]).expect(0);
        run(&["--threshold-score", "-1e9", "--fail-on-anomaly"]).expect(3);
        run(&["--threshold-score", "1e9", "--fail-on-anomaly"]).expect(0);
        run(&["--threshold", "-1e9", "--fail-on-anomaly"]).expect(3);
        run(&["--quantile", "0.5", "--category", "bolt", "--score", "both"]).expect(0);
        assert_eq!(
            files(out.path()),
            ["scores.csv", "scores.jsonl"].map(PathBuf::from),
            "no pictures"
        );
        let lines = json_lines(out.path().join("scores.jsonl"));
        assert_eq!((&lines[0]["calibration"], &lines[0]["map"]), (&"bolt".into(), &Value::Null));
        let missing = out.path().join("missing.png");
        let args = ["--threshold-score", "-1e9", "--fail-on-anomaly", missing.to_str().unwrap()];
        run(&args).expect(4);

        let unknown = run(&["--category", "cog"]);
        assert!(!unknown.stderr.contains("warning"), "{}", unknown.stderr);
        unknown.refused(&["`category` should be one of bolt, nut, got cog"]);
    }

    #[test]
    fn files_that_are_no_detector() {
        let Shared { data, trained, detector, .. } = shared();
        let root = TempDir::new().unwrap();
        let out = root.path().join("out");
        let refused = |file: &Path, says: &[&str]| {
            let says = [&[file.to_str().unwrap()], says].concat();
            score(file, &out).arg(data).run().refused(&says);
            evaluate(file, data, &out).run().refused(&says);
        };
        refused(&root.path().join("none"), &["No such file"]);
        refused(root.path(), &["Is a directory"]);
        refused(&data.join("bolt/train/good/0.png"), &["not a whole invad-detector file"]);
        let state = trained.join("training.safetensors");
        refused(&state, &["its format is invad-training; invad-detector is needed"]);

        let whole = fs::read(detector).unwrap();
        let with = |name: &str, bytes: &[u8]| {
            let path = root.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let what = "not a whole invad-detector file";
        refused(&with("empty", b""), &[what]);
        for cut in [4, 100, whole.len() / 2, whole.len() - 1] {
            refused(&with("truncated", &whole[..cut]), &[what]);
        }
        for length in [0, 1 << 20, 1 << 40, u64::MAX] {
            let mut bytes = whole.clone();
            bytes[..8].copy_from_slice(&length.to_le_bytes());
            refused(&with("header", &bytes), &[what]);
        }
        // As long, so that everything stays in its place.
        let replaced = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len());
            let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let mut bytes = whole.clone();
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            bytes
        };
        let version = replaced(r#"\"version\":2"#, r#"\"version\":9"#);
        refused(
            &with("version", &version),
            &["its version is 9; this invad reads versions 1 to 2"],
        );
        let width = replaced(r#"\"width\":128"#, r#"\"width\":256"#);
        refused(&with("width", &width), &["should be ", ", got "]);
        let heads = replaced(r#"\"heads\":2"#, r#"\"heads\":3"#);
        refused(&with("heads", &heads), &["a divisor of the width 128, got 3"]);
        let depth = replaced(r#"\"depth\":2"#, r#"\"depth\":1"#);
        refused(&with("depth", &depth), &["does not belong here"]);
        let mut nan = whole.clone();
        let at = nan.len() - 4;
        nan[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        refused(&with("nan", &nan), &["holds NaN: the file is damaged"]);
        assert!(!out.join("scores.jsonl").exists());
    }

    #[test]
    fn a_reader_may_go_away() {
        let Shared { data, detector, .. } = shared();
        let out = TempDir::new().unwrap();
        let mut command = score(detector, out.path());
        let child = command.arg(data).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        drop(child.stdout.take());
        Ran::new(child.wait_with_output().unwrap()).expect(0);
        assert!(out.path().join("scores.jsonl").exists());
    }

    #[cfg(unix)]
    #[test]
    fn interrupted_it_leaves_no_half_records() {
        use std::io::BufRead;
        let root = TempDir::new().unwrap();
        for n in 0..300 {
            put(root.path().join(format!("in/{n}.png")), part(n));
        }
        let out = root.path().join("out");
        let mut command = score(&shared().detector, &out);
        let command = command.arg(root.path().join("in"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        interrupt(&child);
        let ran = Ran::new(child.wait_with_output().unwrap()).expect(130);
        assert!(ran.stderr.ends_with("interrupted\n"), "{}", ran.stderr);
        for file in files(&out) {
            assert!(file.components().count() > 1, "{}", file.display());
            assert!(file.extension().is_some_and(|e| e != "tmp"), "{}", file.display());
        }
    }
}

mod evaluating {
    use super::*;

    #[test]
    fn metrics_and_images() {
        let Shared { data, detector, .. } = shared();
        let out = TempDir::new().unwrap();
        let ran = evaluate(detector, data, out.path())
            .args(["--overlays", "--baselines"])
            .run()
            .expect(0);
        let tables =
            ["calibrated scores, %", "paper protocol, %", "PaDiM, %", "nearest neighbour, %"];
        for row in tables.into_iter().chain(["bolt ", "nut ", "mean "]) {
            assert!(ran.stdout.lines().any(|line| line.starts_with(row)), "{}", ran.stdout);
        }
        let metrics = fs::read(out.path().join("metrics.json")).unwrap();
        let metrics: Value = serde_json::from_slice(&metrics).unwrap();
        let keys = |value: &Value| -> Vec<String> {
            value.as_object().unwrap().keys().map(String::from).collect()
        };
        assert_eq!(keys(&metrics), ["baselines", "categories", "mean", "paper", "thresholds"]);
        let baselines = &metrics["baselines"];
        assert_eq!(keys(baselines), ["nearest_neighbour", "padim"]);
        assert_eq!(keys(&metrics["paper"]), ["categories", "mean"]);
        let percent = |v: &Value| v.as_f64().is_some_and(|v| (0.0..=100.0).contains(&v));
        let others = [&metrics["paper"], &baselines["padim"], &baselines["nearest_neighbour"]];
        for part in others.into_iter().chain([&metrics]) {
            assert_eq!(keys(&part["categories"]), ["bolt", "nut"]);
            for of in [&part["mean"], &part["categories"]["bolt"], &part["categories"]["nut"]] {
                for (name, value) in of.as_object().unwrap() {
                    let calibrated = name == "false_alarm_rate" || name == "recall";
                    let none = calibrated && std::ptr::eq(part, &metrics["paper"]);
                    assert!(if none { value.is_null() } else { percent(value) }, "{name} {value}");
                }
            }
        }
        let lines = json_lines(out.path().join("images.jsonl"));
        assert_eq!(lines.len(), 12);
        for line in &lines {
            let path = line["path"].as_str().unwrap();
            assert!(path.contains(line["category"].as_str().unwrap()));
            assert_eq!(line["calibration"], line["category"]);
            assert_eq!(line["defect"].as_str().is_some(), path.contains("dent"));
            assert!(out.path().join(line["overlay"].as_str().unwrap()).is_file());
        }
        let report = fs::read_to_string(out.path().join("report.html")).unwrap();
        assert_eq!(report.matches("<article ").count(), 12);
        // Six good images of a category leave two to calibrate with.
        for says in ["PaDiM", "rests on 2 held-out images"] {
            assert!(report.contains(says), "{says}");
        }
        assert!(
            ran.stderr.contains("warning: the threshold of category `nut` cannot be relied on")
        );
        let plain = TempDir::new().unwrap();
        evaluate(detector, data, plain.path()).run().expect(0);
        let metrics = fs::read(plain.path().join("metrics.json")).unwrap();
        let metrics: Value = serde_json::from_slice(&metrics).unwrap();
        assert_eq!(keys(&metrics), ["categories", "mean", "paper", "thresholds"]);
    }

    /// A data set of one category, `bolt`, which a test may spoil.
    fn bolts(root: &Path) -> PathBuf {
        for name in [
            "test/good/0.png",
            "test/good/1.png",
            "test/dent/0.png",
            "test/dent/1.png",
            "ground_truth/dent/0_mask.png",
            "ground_truth/dent/1_mask.png",
        ] {
            let to = root.join("bolt").join(name);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(shared().data.join("bolt").join(name), to).unwrap();
        }
        root.join("bolt")
    }

    #[test]
    fn masks_that_do_not_fit() {
        let root = TempDir::new().unwrap();
        let bolt = bolts(root.path());
        let out = root.path().join("out");
        let detector = &shared().detector;
        put(bolt.join("ground_truth/dent/7_mask.png"), GrayImage::new(64, 48));
        let ran = evaluate(detector, root.path(), &out).run().expect(0);
        assert!(ran.stderr.contains("7_mask.png: no image belongs to this mask"), "{}", ran.stderr);

        put(bolt.join("ground_truth/dent/1_mask.png"), GrayImage::new(48, 64));
        let ran = evaluate(detector, root.path(), &out).run().expect(4);
        assert!(ran.stderr.contains("the mask is 48×64 pixels, but its image"), "{}", ran.stderr);
        let lines = json_lines(out.join("images.jsonl"));
        let wrong: Vec<_> = lines.iter().filter(|l| l.get("error").is_some()).collect();
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0]["path"].as_str().unwrap().ends_with("test/dent/1.png"), "{wrong:?}");

        // Without masks there are no pixel metrics.
        fs::remove_dir_all(bolt.join("ground_truth")).unwrap();
        let ran = evaluate(detector, root.path(), &out).run().expect(0);
        let row = ran.stdout.lines().find(|l| l.starts_with("bolt")).unwrap();
        assert_eq!(row.split_whitespace().filter(|cell| *cell == "-").count(), 5, "{row}");
        let metrics = fs::read(out.join("metrics.json")).unwrap();
        let metrics: Value = serde_json::from_slice(&metrics).unwrap();
        assert!(metrics["mean"]["au_pro"].is_null() && metrics["mean"]["image_auroc"].is_f64());
    }

    #[test]
    fn data_that_cannot_be_evaluated() {
        let root = TempDir::new().unwrap();
        let out = root.path().join("out");
        let (data, detector) = (root.path().join("data"), &shared().detector);
        evaluate(detector, &data, &out).run().refused(&["there is no such folder"]);
        fs::create_dir(&data).unwrap();
        evaluate(detector, &data, &out).run().refused(&["no images found"]);
        put(data.join("cog/train/good/0.png"), part(0));
        let ran = evaluate(detector, &data, &out).run();
        ran.refused(&["category `cog` has no test images; put some in test/good and test/DEFECT"]);
        fs::create_dir_all(data.join("cog/test/dent")).unwrap();
        fs::write(data.join("cog/test/dent/0.png"), b"x").unwrap();
        let ran = evaluate(detector, &data, &out).run();
        let ran = ran.refused(&["category `cog` has no readable test images"]);
        assert!(ran.stderr.contains("warning: "), "{}", ran.stderr);
        assert!(files(&out).is_empty());
    }

    #[test]
    fn a_category_that_was_not_trained_on() {
        let root = TempDir::new().unwrap();
        let bolt = bolts(root.path());
        fs::rename(bolt, root.path().join("rod")).unwrap();
        let out = root.path().join("out");
        let ran = evaluate(&shared().detector, root.path(), &out).run().expect(0);
        assert!(
            ran.stderr.contains("rod: the detector was not trained on it; each image is judged")
        );
        let lines = json_lines(out.join("images.jsonl"));
        let known = |line: &Value| line["calibration"] == "bolt" || line["calibration"] == "nut";
        assert!(lines.iter().all(known));
    }
}

mod quickstart {
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
        for (category, kind) in
            [("bolt", "dent"), ("bolt", "good"), ("nut", "dent"), ("nut", "good")]
        {
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
}
