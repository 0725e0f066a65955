//! The example programs as a user runs them, with good and bad input.
//!
//! `cargo test` builds them; for this file alone:
//! `cargo build --examples --profile test && cargo test --test cli`.

mod backbones;
mod converting;
mod evaluating;
#[cfg(target_os = "linux")]
mod folders;
#[cfg(unix)]
mod full_disk;
#[cfg(unix)]
mod kills;
mod locks;
mod own;
mod quickstart;
mod scoring;
#[cfg(unix)]
mod service;
#[path = "../support/mod.rs"]
mod support;
mod sweeping;
mod training;
mod tuning;
mod usage;

use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};
use invad::checkpoint::TrainingState;
use invad::data::{load_image, load_mask};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAMS: [&str; 8] =
    ["quickstart", "train", "score", "evaluate", "service", "convert", "tune", "roofline"];

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
    command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "1").env("HF_HUB_OFFLINE", "1");
    command.stdin(Stdio::null());
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

/// The names of all that is in a folder.
fn everything(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[cfg(unix)]
fn interrupt(child: &std::process::Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
}
