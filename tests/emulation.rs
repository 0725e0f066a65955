//! The emulated device's own tests: every instruction against the PTX ISA's formulas in several
//! orders of threads, and planted faults that must be found.
//!
//! Without a C++ compiler they are ignored.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

mod support;

fn main() -> ExitCode {
    let compiler = env::var("CXX").ok().filter(|c| !c.is_empty()).unwrap_or("c++".into());
    let mut words = compiler.split_whitespace();
    let found = Command::new(words.next().unwrap_or("c++")).args(words).arg("--version").output();
    if let Err(e) = &found {
        eprintln!("ignored: {compiler}, a C++ compiler, cannot be run: {e}");
    }
    let trial = Trial::test("selftest", move || selftest(&compiler));
    let trials = vec![trial.with_ignored_flag(found.is_err())];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn selftest(compiler: &str) -> Result<(), Failed> {
    let folder = support::emulator::build();
    let ran = Command::new(program(compiler, &folder)?).arg(&folder).output()?;
    let text = String::from_utf8_lossy(&ran.stdout);
    if ran.status.success() && text.trim_end().ends_with("all checks passed") {
        return Ok(());
    }
    Err(format!("{}\n{text}{}", ran.status, String::from_utf8_lossy(&ran.stderr)).into())
}

/// The compiled self-test, beside the stand-ins that it is for.
fn program(compiler: &str, folder: &Path) -> Result<PathBuf, Failed> {
    let program = folder.join("selftest");
    if program.exists() {
        return Ok(program);
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator");
    let (aside, mut words) = (folder.join("selftest.new"), compiler.split_whitespace());
    let ran = Command::new(words.next().unwrap_or("c++"))
        .args(words)
        .args(["-std=c++17", "-O1"])
        .arg(format!("-DINVAD_EMULATOR_SOURCES=\"{}\"", sources.display()))
        .arg(sources.join("selftest.cpp"))
        .arg("-o")
        .arg(&aside)
        .arg("-ldl")
        .output()?;
    if !ran.status.success() {
        return Err(String::from_utf8_lossy(&ran.stderr).into_owned().into());
    }
    fs::rename(&aside, &program)?;
    Ok(program)
}
