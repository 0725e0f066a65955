//! Times of operations, of features, of the inversion and of training.
//!
//! `cargo bench -- SUBJECT` takes one of them, whose set-up alone is done; `SUBJECT/…` one's measurements by name. Any other
//! argument picks by name among all of them.

mod adaln_zero;
mod adamw;
mod anomaly_score;
mod attention;
mod common;
mod ddim_inversion;
mod denoising_loss;
mod features;
mod gemm;
mod inversion;
#[path = "../tests/support/mod.rs"]
mod support;
mod training;

use std::env;

use criterion::Criterion;

/// What a subject measures. No name begins with another one.
type Subject = (&'static str, &'static [fn(&mut Criterion)]);

const SUBJECTS: &[Subject] = &[
    ("adaln_zero", &[adaln_zero::forward, adaln_zero::backward]),
    ("adamw", &[adamw::adamw]),
    ("anomaly_score", &[anomaly_score::anomaly_score, anomaly_score::mahalanobis]),
    ("attention", &[attention::forward, attention::backward]),
    ("ddim_inversion", &[ddim_inversion::ddim_inversion]),
    ("denoising_loss", &[denoising_loss::denoising_loss]),
    ("features", &[features::lite0]),
    ("gemm", &[gemm::forward, gemm::backward]),
    ("inversion", &[inversion::inversion]),
    ("training", &[training::training]),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let of = |arg: &str| SUBJECTS.iter().find(|(name, _)| arg.starts_with(name));
    let picked = env::args().skip(1).find_map(|arg| of(&arg).map(|subject| (subject, arg)));
    let subjects = match &picked {
        Some((subject, arg)) => {
            if subject.0 == arg {
                // All of it, whatever its groups are called.
                criterion = criterion.with_filter("");
            }
            std::slice::from_ref(*subject)
        }
        None => SUBJECTS,
    };
    subjects.iter().flat_map(|(_, measure)| *measure).for_each(|measure| measure(&mut criterion));
    criterion.final_summary();
}
