//! The noise schedule, full (`T<k>`) and respaced (`S<k>`).

use serde_json::Value;

use crate::golden::{Golden, Trials, compare, compare_absolute, trial};
use crate::library;

/// Both sides are f64 and may multiply up ᾱ in another order.
const TOLERANCE: f64 = 1e-13;

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("schedule")?;
    let mut trials = Vec::new();
    for (name, array) in tensors.iter() {
        let Some((kind, steps, quantity)) = parse(name) else { continue };
        let (want, quantity) = (array.data.clone(), quantity.to_owned());
        trials.push(trial(format!("schedule/{}", name.replace('.', "/")), move || {
            let got = match kind {
                Kind::Full => library::full_schedule(&quantity)?,
                Kind::Respaced => library::schedule(steps, &quantity)?,
            };
            match quantity.as_str() {
                "timesteps" => compare_absolute(got, &want, 0.0),
                _ => compare(got, &want, TOLERANCE),
            }
        }));
    }
    for (name, value) in section.as_object().into_iter().flatten() {
        let (Some((_, steps, "timesteps")), Err(_)) = (parse(name), tensors.get(name)) else {
            continue;
        };
        let want: Vec<f64> =
            value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        trials.push(trial(format!("schedule/{}", name.replace('.', "/")), move || {
            let got = library::schedule(steps, "timesteps")?;
            // Of long lists the manifest has the beginning.
            compare_absolute(got.into_iter().take(want.len()), &want, 0.0)
        }));
    }
    Ok(trials)
}

#[derive(Clone, Copy)]
enum Kind {
    Full,
    Respaced,
}

/// `S5.betas` is the betas of 5 steps; `T1000.betas` those of the full schedule.
fn parse(name: &str) -> Option<(Kind, usize, &str)> {
    let (steps, quantity) = name.split_once('.')?;
    let (kind, steps) = match steps.strip_prefix('S') {
        Some(steps) => (Kind::Respaced, steps),
        None => (Kind::Full, steps.strip_prefix('T')?),
    };
    Some((kind, steps.parse().ok()?, quantity))
}
