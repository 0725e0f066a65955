//! Every kernel in every variant compiles with NVRTC for every architecture, without spills and with
//! few enough registers for the blocks that a multiprocessor is to hold.
//!
//! `INVAD_NVRTC` lists folders as `CUDA_PATH` names one: the tests then run with each one's NVRTC. Without
//! NVRTC they are ignored, and fail with `INVAD_REQUIRE_NVRTC=1`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use invad::cuda::{Variant, compile, kernels, probe, variants};
use libtest_mimic::{Arguments, Failed, Trial};

const ARCHITECTURES: [u32; 5] = [80, 86, 89, 90, 120];

/// For each kernel the threads of a block, and the blocks that a multiprocessor's 65536 registers
/// are to hold of it. On sm_89 and newer.
const OCCUPANCY: &[(&str, u32, u32)] = &[
    ("adaln_zero", 128, 2),
    // At a width of 4096, where the block has so many.
    ("adaln_zero_backward", 512, 1),
    ("adamw", 256, 3),
    ("add_noise", 256, 6),
    ("add_position", 256, 4),
    ("attention", 128, 2),
    ("attention_backward_kv", 128, 2),
    ("attention_backward_q", 128, 2),
    ("attention_split", 256, 1),
    ("attention_tiled", 128, 2),
    ("channel_gate", 256, 4),
    ("channel_mean", 256, 4),
    ("column_sums", 256, 6),
    ("denoising_loss", 512, 2),
    ("depthwise_conv2d", 128, 4),
    ("gather_features", 128, 8),
    ("gelu", 256, 4),
    ("global_norm", 256, 6),
    ("global_norm_clip", 256, 1),
    ("inversion_step", 256, 6),
    ("mahalanobis", 256, 2),
    ("normal", 256, 4),
    ("normalise", 256, 6),
    ("patchify", 128, 8),
    ("resize_bilinear", 256, 6),
    ("score", 256, 6),
    ("score_stats", 32, 16),
    ("silu", 256, 6),
    ("silu_backward", 256, 6),
    ("stem_conv", 128, 4),
    ("timestep_embedding", 128, 8),
    ("to_f16", 256, 6),
    ("unpatchify", 128, 8),
];

/// Instructions that the tensor-core kernels are to consist of.
const INSTRUCTIONS: [&str; 3] = ["mma.sync", "ldmatrix", "cp.async"];

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
    let nvrtc = match probe().nvrtc.version {
        Some((major, minor)) => format!("NVRTC {major}.{minor}"),
        None => "no NVRTC".into(),
    };
    let mut trials = vec![Trial::test("table", table)];
    for variant in variants() {
        for arch in ARCHITECTURES {
            let variant = variant.clone();
            let name = format!("{nvrtc} sm_{arch} {variant}");
            let trial = Trial::test(name, move || check(&variant, arch));
            trials.push(trial.with_ignored_flag(missing.is_some()));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Every kernel has a row.
fn table() -> Result<(), Failed> {
    let names: Vec<&str> = OCCUPANCY.iter().map(|(name, ..)| *name).collect();
    let kernels: Vec<&str> = kernels().collect();
    if names == kernels { Ok(()) } else { Err(format!("{names:?} for {kernels:?}").into()) }
}

fn check(variant: &Variant, arch: u32) -> Result<(), Failed> {
    let compiled = compile(variant.kernel, &variant.defines, arch).map_err(|e| e.to_string())?;
    let usage = compiled.usage().ok_or_else(|| format!("no usage in the log: {}", compiled.log))?;
    if usage.spills > 0 {
        return Err(format!("{usage:?}: spills").into());
    }
    let row = OCCUPANCY.iter().find(|(name, ..)| *name == variant.kernel);
    let &(_, threads, blocks) = row.ok_or("no row in the table")?;
    // Registers are handed out to warps in steps of 8 a thread.
    let registers = usage.registers.next_multiple_of(8) * threads * blocks;
    if arch >= 89 && registers > 65_536 {
        return Err(format!("{usage:?}: {blocks} blocks need {registers} registers").into());
    }
    if variant.kernel.starts_with("attention") {
        for instruction in INSTRUCTIONS {
            if !compiled.ptx.contains(instruction) {
                return Err(format!("no {instruction}").into());
            }
        }
    }
    if compiled.log.contains("warning") {
        return Err(compiled.log.into());
    }
    Ok(())
}
