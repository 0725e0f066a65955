//! What the example programs share.
#![allow(dead_code)] // Each program uses a part of it.

pub mod background;
pub mod detectors;
pub mod names;
pub mod options;
pub mod own;
pub mod pictures;
pub mod progress;
pub mod records;
pub mod results;
pub mod table;

use std::env;
use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::CommandFactory;
use env_logger::{Builder, Target};
use invad::{Error, Result};

/// Some inputs could not be read.
pub const UNREADABLE: u8 = 4;
/// Stopped by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Runs a program: shows warnings, and turns an error into one line and an exit code.
pub fn run(program: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    let filter = env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    Builder::new()
        .parse_filters(filter.as_deref().unwrap_or("warn"))
        .format(|out, record| {
            let level = match record.level() {
                log::Level::Warn => "warning".into(),
                level => level.as_str().to_lowercase(),
            };
            writeln!(out, "{level}: {}", one_line(record.args()))
        })
        .target(Target::Pipe(Box::new(progress::BesideBars)))
        .init();
    match program() {
        Ok(code) => code,
        Err(e) if is_interruption(&e) => {
            note("interrupted");
            ExitCode::from(INTERRUPTED)
        }
        Err(e) => {
            note(format!("error: {}", one_line(&e)));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line of results. A reader that has gone away, as with `| head`, is no failure.
pub fn say(line: impl Display) {
    progress::beside_bars(|| writeln!(io::stdout(), "{line}")).ok();
}

/// Ends the program for options that are right each by itself, and wrong together.
pub fn wrong_usage<Options: CommandFactory>(wrong: String) -> ! {
    let name = env::args_os()
        .next()
        .and_then(|program| Some(Path::new(&program).file_name()?.to_string_lossy().into_owned()));
    let mut command = Options::command();
    if let Some(name) = name {
        command = command.bin_name(name);
    }
    command.error(clap::error::ErrorKind::ValueValidation, wrong).exit()
}

/// Prints a line about the run.
pub fn note(line: impl Display) {
    progress::beside_bars(|| writeln!(io::stderr(), "{line}")).ok();
}

fn one_line(text: impl Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

static INTERRUPT: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C, or SIGTERM, has [`interrupted`] return true; pressed again, it ends the program at once. What
/// comes within a second is the same press: some send it to a program and to its group.
pub fn catch_interrupts() -> Result<()> {
    let mut first: Option<Instant> = None;
    ctrlc::set_handler(move || match first {
        None => {
            first = Some(Instant::now());
            INTERRUPT.store(true, Ordering::Relaxed);
            note("stopping; press Ctrl-C again to abort");
        }
        Some(first) if first.elapsed() < SAME_PRESS => {}
        Some(_) => stop_now("aborted"),
    })
    .map_err(|e| Error::Unavailable { what: "Ctrl-C".into(), why: e.to_string() })
}

const SAME_PRESS: Duration = Duration::from_secs(1);

/// Ends the program because Ctrl-C was pressed.
pub fn stop_now(message: &str) -> ! {
    progress::clear();
    note(message);
    std::process::exit(INTERRUPTED.into())
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPT.load(Ordering::Relaxed)
}

/// An error if Ctrl-C was pressed.
pub fn unless_interrupted() -> Result<()> {
    match interrupted() {
        true => Err(Error::io("", ErrorKind::Interrupted.into())),
        false => Ok(()),
    }
}

fn is_interruption(e: &Error) -> bool {
    interrupted()
        && matches!(e, Error::Io { source, .. } if source.kind() == ErrorKind::Interrupted)
}

/// An error if a folder cannot be there or created since a file is in its place: for before the work whose results are
/// to be in it.
pub fn require_folder(path: &Path) -> Result<()> {
    match path.ancestors().find(|part| part.exists()) {
        Some(file) if !file.is_dir() => {
            let what = if file == path { "this".into() } else { file.display().to_string() };
            let reason = format!("{what} is a file, and --out takes a folder; name another");
            Err(Error::file(path, reason))
        }
        _ => Ok(()),
    }
}

/// Refuses, before long work, a folder in the place of a file that is to be written.
pub fn require_files(folder: &Path, names: &[impl AsRef<Path>]) -> Result<()> {
    match names.iter().map(|name| folder.join(name)).find(|path| path.is_dir()) {
        Some(path) => {
            let reason = "a folder is where a file of the results belongs; move it away, or name another --out";
            Err(Error::file(path, reason))
        }
        None => Ok(()),
    }
}

/// Creates a folder and those above it.
pub fn create_folder(path: &Path) -> Result<()> {
    require_folder(path)?;
    fs::create_dir_all(path).map_err(|e| Error::io(path, e))
}

/// Runs `work` with a folder, which is created; where it fails, what was created is gone, unless there is something in it.
pub fn in_folder<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let missing = |part: &&Path| !part.as_os_str().is_empty() && !part.exists();
    let created: Vec<&Path> = path.ancestors().take_while(missing).collect();
    let result = create_folder(path).and_then(|()| work());
    if result.is_err() {
        // The lowest first; none that is not empty can be removed.
        created.iter().for_each(|part| drop(fs::remove_dir(part)));
    }
    result
}
