//! Times of operations, of features, of the inversion and of training.
//!
//! `cargo bench -- SUBJECT` measures one of them, `SUBJECT/…` what is called so there; nothing is set up for
//! the others. What else Criterion takes comes after it.

mod adaln_zero;
mod adamw;
mod anomaly_score;
mod attention;
mod common;
mod ddim_inversion;
mod denoising_loss;
mod features;
mod gather_patches;
mod gemm;
mod group_norm;
mod inversion;
mod metrics;
#[path = "../tests/support/mod.rs"]
mod support;
mod training;

use std::env;

use criterion::Criterion;

/// A name, with which no other one begins, and what is measured.
type Subject = (&'static str, &'static [fn(&mut Criterion)]);

const SUBJECTS: &[Subject] = &[
    ("adaln_zero", &[adaln_zero::forward, adaln_zero::backward]),
    ("adamw", &[adamw::adamw]),
    ("anomaly_score", &[anomaly_score::anomaly_score, anomaly_score::mahalanobis]),
    ("attention", &[attention::forward, attention::backward]),
    ("ddim_inversion", &[ddim_inversion::ddim_inversion]),
    ("denoising_loss", &[denoising_loss::denoising_loss]),
    ("features", &[features::lite0, features::b4, features::dinov2]),
    (
        "gather_patches",
        &[
            gather_patches::forward,
            gather_patches::backward,
            gather_patches::convolution,
            gather_patches::old,
        ],
    ),
    ("gemm", &[gemm::forward, gemm::backward]),
    ("group_norm", &[group_norm::forward, group_norm::backward]),
    ("inversion", &[inversion::inversion]),
    ("metrics", &[metrics::metrics]),
    ("training", &[training::training]),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let first = env::args().nth(1).unwrap_or_default();
    let picked = SUBJECTS.iter().find(|(name, _)| first.starts_with(name));
    if picked.is_some_and(|(name, _)| *name == first) {
        // All of it, whatever its groups are called.
        criterion = criterion.with_filter("");
    }
    let subjects = picked.map_or(SUBJECTS, std::slice::from_ref);
    subjects.iter().flat_map(|(_, measures)| *measures).for_each(|measure| measure(&mut criterion));
    criterion.final_summary();
}
