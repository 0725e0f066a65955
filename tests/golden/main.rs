//! The library against golden files: one trial per case and quantity.
//!
//! `INVAD_GOLDEN` names the directory, `tests/golden/data` by default. Which cases there are is read from its
//! manifest and its tensors, so that any directory of the same form can be used.
//!
//! What detectors compute on a GPU is tried there too, see [`place`].

mod aupimo;
mod denoiser;
mod diffusion;
mod dit_components;
mod efficientnet;
mod effnet_b4;
mod evaluate_inv;
mod fp8;
mod golden;
mod imported;
mod library;
mod lite;
mod metrics;
mod naive;
mod parameters;
mod place;
mod preproc_lr;
mod pth;
mod recon;
mod schedule;
mod scoring;
#[path = "../support/mod.rs"]
mod support;
mod unet;
mod vit;
mod vit_family;
#[allow(dead_code)] // Damaged files are of other tests.
#[path = "../library/weights/writer.rs"]
mod writer;

use std::path::Path;
use std::process::ExitCode;

use golden::{Golden, Problem, Trials, ignored, trial};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: support::memory::Counted = support::memory::Counted;

/// Lists the trials of a section of the manifest.
type Section = fn(&'static Golden, &'static Value) -> Trials;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data");
    let dir = std::env::var_os("INVAD_GOLDEN").map_or(default, Into::into);
    let golden: &'static Golden = match Golden::open(dir) {
        Ok(golden) => Box::leak(Box::new(golden)),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = golden::trials();
    for (name, section) in &golden.manifest {
        trials.extend(section_trials(golden, name, section));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn section_trials(
    golden: &'static Golden,
    name: &'static str,
    section: &'static Value,
) -> Vec<Trial> {
    let parts: &[(&str, Section)] = match name {
        "dit" => &[
            ("dit/parameters", |golden, section| parameters::trials("dit", golden, section)),
            ("dit", |golden, section| denoiser::trials("dit", golden, section)),
        ],
        "mlp" => &[
            ("mlp/parameters", |golden, section| parameters::trials("mlp", golden, section)),
            ("mlp", |golden, section| denoiser::trials("mlp", golden, section)),
        ],
        "unet" => &[
            ("unet/parameters", |golden, section| parameters::trials("unet", golden, section)),
            ("unet", |golden, section| denoiser::trials("unet", golden, section)),
        ],
        "dit_components" => &[("dit_components", dit_components::trials)],
        "diffusion" => &[("schedule", schedule::trials), ("diffusion", diffusion::trials)],
        "scoring" => &[("scoring", scoring::trials)],
        "evaluate_inv" => &[("evaluate_inv", evaluate_inv::trials)],
        "preproc_lr" => &[("preproc_lr", preproc_lr::trials)],
        "effnet_b4" => &[("effnet_b4", effnet_b4::trials)],
        "pth" => &[("pth", pth::trials)],
        "metrics" => &[("metrics", metrics::trials)],
        "recon" => &[("recon", recon::trials)],
        "aupimo" => &[("aupimo", aupimo::trials)],
        "fp8" => &[("fp8", fp8::trials)],
        "vit" => &[("vit", vit::trials)],
        "vit_family" => &[("vit_family", vit_family::trials)],
        _ if lite::is_lite(name) => return listed(name, lite::trials(golden, name, section)),
        _ => return vec![ignored(name, "no test reads this section")],
    };
    parts.iter().flat_map(|(part, list)| listed(part, list(golden, section))).collect()
}

/// The trials of a part of a section, or one that says why there are none.
fn listed(part: &str, trials: Trials) -> Vec<Trial> {
    match trials {
        Ok(trials) if trials.is_empty() => {
            vec![trial(part, || Err("the manifest lists no cases".into()))]
        }
        Ok(trials) => trials,
        Err(Problem::Missing(reason)) => vec![ignored(part, &reason)],
        Err(Problem::Broken(reason)) => vec![trial(part, || Err(reason))],
    }
}
