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
mod evaluate_inv;
mod golden;
mod library;
mod lite0;
mod metrics;
mod naive;
mod parameters;
mod place;
mod preproc_lr;
mod recon;
mod schedule;
mod scoring;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;

use golden::{Golden, Problem, Trials, ignored, trial};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

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

fn section_trials(golden: &'static Golden, name: &str, section: &'static Value) -> Vec<Trial> {
    let parts: &[(&str, Section)] = match name {
        "dit" => &[
            ("dit/parameters", |golden, section| parameters::trials("dit", golden, section)),
            ("dit", |golden, section| denoiser::trials("dit", golden, section)),
        ],
        "mlp" => &[
            ("mlp/parameters", |golden, section| parameters::trials("mlp", golden, section)),
            ("mlp", |golden, section| denoiser::trials("mlp", golden, section)),
        ],
        "dit_components" => &[("dit_components", dit_components::trials)],
        "diffusion" => &[("schedule", schedule::trials), ("diffusion", diffusion::trials)],
        "scoring" => &[("scoring", scoring::trials)],
        "evaluate_inv" => &[("evaluate_inv", evaluate_inv::trials)],
        "preproc_lr" => &[("preproc_lr", preproc_lr::trials)],
        "lite0" => &[("lite0", lite0::trials)],
        "metrics" => &[("metrics", metrics::trials)],
        "recon" => &[("recon", recon::trials)],
        "aupimo" => &[("aupimo", aupimo::trials)],
        "effnet_b4" => return vec![ignored(name, "EfficientNet-B4 comes later")],
        "vit" => return vec![ignored(name, "ViT comes later")],
        _ if is_lite(name) => {
            return vec![ignored(name, "of EfficientNet-Lite only Lite0 is supported")];
        }
        _ => return vec![ignored(name, "no test reads this section")],
    };
    let list = |&(part, list): &(&str, Section)| match list(golden, section) {
        Ok(trials) if trials.is_empty() => {
            vec![trial(part, || Err("the manifest lists no cases".into()))]
        }
        Ok(trials) => trials,
        Err(Problem::Missing(reason)) => vec![ignored(part, &reason)],
        Err(Problem::Broken(reason)) => vec![trial(part, || Err(reason))],
    };
    parts.iter().flat_map(list).collect()
}

/// Whether a section is one of the EfficientNet-Lite family other than Lite0.
fn is_lite(name: &str) -> bool {
    name.strip_prefix("lite").is_some_and(|k| k != "0" && k.parse::<u32>().is_ok())
}
