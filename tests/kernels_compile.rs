//! Every kernel in every variant compiles with NVRTC for every architecture, without spills and with
//! few enough registers for the blocks that its launch bounds promise; the tables of `kernels/README.md` are as the
//! kernels are.
//!
//! `INVAD_NVRTC` lists folders as `CUDA_PATH` names one: the tests then run with each one's NVRTC. Without
//! NVRTC they are ignored, and fail with `INVAD_REQUIRE_NVRTC=1`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use invad::cuda::{Variant, compile, probe, variants};
use libtest_mimic::{Arguments, Failed, Trial};

#[path = "../examples/common/kernel_tables.rs"]
mod kernel_tables;

use kernel_tables::{LAUNCHES, REGISTERS, compiler, launches, parts, registers};

const ARCHITECTURES: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// The most sets of constants: each is a compilation that somebody waits for.
const MOST_SETS: usize = 80;

/// What has been read of `kernels/README.md` when this was compiled.
const README: &str = include_str!("../kernels/README.md");

/// Instructions that the tensor-core kernels are to consist of.
const INSTRUCTIONS: &[&str] = &["mma.sync", "ldmatrix", "cp.async"];
/// And those of Hopper; each row of 16 bytes is stored by one.
const WGMMA_INSTRUCTIONS: &[&str] =
    &["wgmma.mma_async", "fence.proxy.async", "cp.async", "st.global.v4"];

/// What the assembler says where it has asynchronous products wait for one another (C7508, C7510, C7511, C7514, C7518).
const SERIALISED: &str = "Potential Performance Loss";

fn main() -> ExitCode {
    let folders = env::var_os("INVAD_NVRTC").filter(|folders| !folders.is_empty());
    match folders {
        // A process has one NVRTC at most, that of a list of one folder.
        Some(folders) if env::var_os("CUDA_PATH").as_ref() != Some(&folders) => {
            let passed = |folder: &PathBuf| {
                let mut one = Command::new(env::current_exe().expect("a test has a path"));
                one.args(env::args_os().skip(1));
                one.env("CUDA_PATH", folder).env("INVAD_NVRTC", folder);
                one.status().expect("a test can be run").success()
            };
            let failed = env::split_paths(&folders).filter(|folder| !passed(folder)).count();
            if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        folder => run(folder.as_deref().map(Path::new)),
    }
}

/// Runs the tests with the NVRTC of a folder, if it is said which.
fn run(folder: Option<&Path>) -> ExitCode {
    if let (Some(folder), Some(path)) = (folder, &probe().nvrtc.path)
        && !path.starts_with(folder.canonicalize().unwrap_or_default())
    {
        eprintln!("error: {} is found before what is in {folder:?}", path.display());
        return ExitCode::FAILURE;
    }
    let missing = probe()
        .nvrtc
        .problem
        .as_ref()
        .map(|problem| format!("NVRTC {problem}; to install it: {}", probe().nvrtc.install));
    let required = env::var_os("INVAD_REQUIRE_NVRTC").is_some_and(|v| v == "1");
    if let Some(why) = &missing {
        eprintln!("{}: {why}", if required { "error" } else { "ignored" });
        if required {
            return ExitCode::FAILURE;
        }
    }
    let nvrtc = compiler();
    // Another compiler has other registers.
    let other = !parts(README, REGISTERS)[1].starts_with(&nvrtc);
    let mut trials = vec![
        Trial::test("sets", sets),
        Trial::test("launches", || same(LAUNCHES, &launches())),
        Trial::test("registers", || same(REGISTERS, &registers().map_err(|e| e.to_string())?))
            .with_ignored_flag(missing.is_some() || other),
    ];
    for variant in variants() {
        for arch in ARCHITECTURES.into_iter().filter(|&arch| variant.is_for(arch)) {
            let variant = variant.clone();
            let name = format!("{nvrtc} sm_{arch} {variant}");
            let trial = Trial::test(name, move || check(&variant, arch));
            trials.push(trial.with_ignored_flag(missing.is_some()));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn sets() -> Result<(), Failed> {
    let sets = variants().len();
    if sets <= MOST_SETS { Ok(()) } else { Err(format!("{sets} sets").into()) }
}

/// Whether `kernels/README.md` has this table.
fn same(name: &str, table: &str) -> Result<(), Failed> {
    let written = parts(README, name)[1];
    if written == table {
        return Ok(());
    }
    let mut lines = table.lines().filter(|line| !written.lines().any(|w| w == *line));
    let line = lines.next().unwrap_or("fewer lines");
    let command = "cargo run --release --example kernels -- --tables kernels/README.md";
    Err(format!("kernels/README.md lacks\n{line}\n`{command}` adds it").into())
}

fn check(variant: &Variant, arch: u32) -> Result<(), Failed> {
    let compiled = compile(variant.kernel, &variant.defines, arch).map_err(|e| e.to_string())?;
    let usage = compiled
        .usage()
        .ok_or_else(|| format!("no launch bounds, or no usage in the log: {}", compiled.log))?;
    if usage.spills > 0 {
        return Err(format!("{usage:?}: spills").into());
    }
    // Registers are handed out to warps in steps of 8 a thread.
    let registers = usage.registers.next_multiple_of(8) * usage.threads * usage.blocks;
    if registers > 65_536 {
        return Err(format!("{usage:?}: so many blocks need {registers} registers").into());
    }
    if variant.kernel.starts_with("attention") {
        let of_hopper = variant.kernel.contains("wgmma");
        let instructions = if of_hopper { WGMMA_INSTRUCTIONS } else { INSTRUCTIONS };
        for instruction in instructions {
            if !compiled.ptx.contains(*instruction) {
                return Err(format!("no {instruction}").into());
            }
        }
    }
    if compiled.log.contains("warning") || compiled.log.contains(SERIALISED) {
        return Err(compiled.log.into());
    }
    Ok(())
}
