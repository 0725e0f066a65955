//! Programs that are killed at any moment, with no chance to clear up.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::*;
use crate::support::numbers::Numbers;

const SIGKILL: i32 = 9;

/// Files that are being written in a folder and below.
fn temporary(folder: &Path) -> usize {
    let entries = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "tmp")).count()
}

/// When to kill.
enum Moment {
    After(Duration),
    /// So long after a file was begun.
    Writing(Duration),
}

impl Moment {
    /// One of a program that takes this time.
    fn draw(numbers: &mut Numbers, time: Duration) -> Self {
        match numbers.below(2) {
            0 => Moment::After(time.mul_f64(numbers.below(1000) as f64 / 1000.0)),
            _ => Moment::Writing(Duration::from_micros(numbers.below(20_000) as u64)),
        }
    }
}

/// Kills a program at a moment, unless it has ended before. Whether it was killed, and in the middle
/// of writing a file.
fn kill(mut child: Child, out: &Path, moment: Moment) -> (bool, bool) {
    match moment {
        Moment::After(time) => sleep(time),
        Moment::Writing(time) => {
            let before = temporary(out);
            while child.try_wait().unwrap().is_none() && temporary(out) <= before {
                sleep(Duration::from_micros(300));
            }
            sleep(time);
        }
    }
    child.kill().unwrap();
    let ran = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(!stderr.contains("panicked") && !stderr.contains("error: "), "{stderr}");
    let killed = ran.status.signal() == Some(SIGKILL);
    assert!(killed || ran.status.success(), "{}: {stderr}", ran.status);
    (killed, killed && temporary(out) > 0)
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_killed_training_goes_on_to_the_same_bits() {
    const STEPS: u64 = 12;
    const FILES: [&str; 3] = ["detector.safetensors", "training.safetensors", "training.csv"];
    let kills = effort("INVAD_KILLS", 12);
    let root = TempDir::new().unwrap();
    let data = root.path().join("data");
    for n in 0..4 {
        put(data.join(format!("{n}.png")), part(n));
    }
    let training = |out: &Path| {
        let mut command = train(&data, out, STEPS);
        command.args(["--save-every", "1"]);
        command
    };
    let whole = root.path().join("whole");
    let start = Instant::now();
    training(&whole).run().expect(0);
    let time = start.elapsed();

    let mut numbers = Numbers::new(0);
    let (mut killed, mut writing, mut runs) = (0, 0, 0);
    while killed < kills {
        let out = root.path().join("killed");
        loop {
            let state = out.join("training.safetensors");
            let mut command = training(&out);
            if state.exists() {
                command.arg("--resume");
            }
            if killed >= kills {
                command.run().expect(0);
                break;
            }
            let moment = Moment::draw(&mut numbers, time);
            let (was_killed, was_writing) = kill(spawn(&mut command), &out, moment);
            if state.exists() {
                TrainingState::load(&state).unwrap();
            }
            if !was_killed {
                break;
            }
            killed += 1;
            writing += usize::from(was_writing);
        }
        runs += 1;
        assert_eq!(
            files(&out),
            ["detector.safetensors", "training.csv", "training.safetensors"].map(PathBuf::from)
        );
        for name in FILES {
            let same = fs::read(whole.join(name)).unwrap() == fs::read(out.join(name)).unwrap();
            assert!(same, "{name} differs after {killed} kills");
        }
        fs::remove_dir_all(&out).unwrap();
    }
    assert!(writing > 0, "none of {killed} kills met a file being written");
    println!(
        "| kill -9 of `train` | {killed} kills, {writing} of them while a file was written | \
         {runs} trainings ended with the same bits | 0 | 0 |"
    );
}

#[test]
fn a_killed_scoring_leaves_whole_files() {
    let kills = effort("INVAD_KILLS", 12) / 2;
    let root = TempDir::new().unwrap();
    for n in 0..40 {
        put(root.path().join(format!("in/{n}.png")), part(n));
    }
    let (out, whole) = (root.path().join("out"), root.path().join("whole"));
    let scoring = |out: &Path| {
        let mut command = score(&shared().detector, out);
        command.arg(root.path().join("in"));
        command
    };
    let start = Instant::now();
    scoring(&whole).run().expect(0);
    let time = start.elapsed();

    let mut numbers = Numbers::new(500);
    let (mut killed, mut writing, mut compared) = (0, 0, 0);
    while killed < kills {
        let moment = Moment::draw(&mut numbers, time);
        let (was_killed, was_writing) = kill(spawn(&mut scoring(&out)), &out, moment);
        killed += usize::from(was_killed);
        writing += usize::from(was_writing);
        for file in files(&out).iter().filter(|f| f.extension().is_none_or(|e| e != "tmp")) {
            let same = fs::read(out.join(file)).unwrap() == fs::read(whole.join(file)).unwrap();
            assert!(same, "{}", file.display());
            compared += 1;
        }
        let _ = fs::remove_dir_all(&out);
    }
    println!(
        "| kill -9 of `score` | {killed} kills, {writing} of them while a file was written | \
         {compared} files found, all whole | 0 | 0 |"
    );
}
