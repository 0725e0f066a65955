//! Section `recon`: the reconstruction baseline.

use invad::Device;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::golden::{
    Array, Golden, Tensors, Trials, cases, compare, compare_absolute, compare_as_good, shared,
    trial, whole,
};
use crate::library;
use crate::naive;
use crate::parameters::Config;
use crate::place::{Place, places};

/// Relative to the largest, in f32; of what is only noised.
const TOLERANCE: f64 = 1e-5;
const NOISED: f64 = 1e-6;
/// Of scores, which are divided by the range of the set.
const SCORE: f64 = 1e-3;

/// What noising and denoising gives.
pub struct Reconstruction {
    /// What the network is told, in the order of its evaluations.
    pub timesteps: Vec<f64>,
    pub x_t: Vec<f32>,
    pub rec: Vec<f32>,
    /// The states after each evaluation, one after another.
    pub states: Vec<f32>,
    /// The mean squared difference at each cell.
    pub map: Vec<f32>,
    /// Of each image.
    pub mse: Vec<f64>,
    /// From the least to the largest mse of all images.
    pub score: Vec<f64>,
}

/// Images that are noised to step `k` of S and denoised.
#[derive(Clone)]
pub struct Run {
    pub config: Config,
    pub steps: usize,
    pub k: usize,
    pub x: Vec<f32>,
    /// Of one image, the same for all.
    pub noise: Vec<f32>,
}

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("recon")?;
    let config = Config::read(&section["config"])?;
    let (x, noise) = (tensors.get("features")?.f32s(), tensors.get("noise")?.f32s());
    let mut trials = Vec::new();
    for (name, case) in cases(&section["runs"]) {
        let (steps, k) = (whole(case, "S")?, whole(case, "k")?);
        let run = Run { config: config.clone(), steps, k, x: x.clone(), noise: noise.clone() };
        let told: Option<Vec<f64>> =
            case["t_calls"].as_array().map(|t| t.iter().filter_map(Value::as_f64).collect());
        let mut want = tensors.part(&format!("{name}."));
        if let Some(told) = told.filter(|told| !told.is_empty()) {
            want.put("t_calls", Array { shape: vec![told.len()], data: told.into() });
        }
        for place in places() {
            trials.extend(run_trials(&format!("recon/{name}"), run.clone(), &want, place));
        }
    }
    Ok(trials)
}

/// The trials of one run, of those quantities that there are.
pub fn run_trials(label: &str, run: Run, want: &Tensors, place: Place) -> Vec<Trial> {
    if let Some(refusal) = place.refusal(label, &run.config) {
        return vec![refusal];
    }
    let reconstruction = {
        let run = run.clone();
        shared(move || {
            let Run { config, steps, k, x, noise } = &run;
            library::reconstruction(config, *steps, *k, x, noise, place.device)
        })
    };
    let f64s = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect();
    type Of = fn(&Reconstruction, &dyn Fn(&[f32]) -> Vec<f64>) -> Vec<f64>;
    let quantities: [(&str, f64, Of); 7] = [
        ("t_calls", 0.0, |r, _| r.timesteps.clone()),
        ("x_t", NOISED, |r, f64s| f64s(&r.x_t)),
        ("rec", TOLERANCE, |r, f64s| f64s(&r.rec)),
        ("steps", TOLERANCE, |r, f64s| f64s(&r.states)),
        ("map", TOLERANCE, |r, f64s| f64s(&r.map)),
        ("mse", TOLERANCE, |r, _| r.mse.clone()),
        ("score", SCORE, |r, _| r.score.clone()),
    ];
    let mut trials = Vec::new();
    if place.device == Device::Cpu {
        for (name, tolerance, of) in quantities {
            let Ok(want) = want.get(name).map(|want| want.data.clone()) else { continue };
            let reconstruction = reconstruction.clone();
            trials.push(trial(format!("{label}/{name}"), move || {
                let got = of(reconstruction.as_ref().as_ref()?, &f64s);
                match name {
                    "score" => compare_absolute(got, &want, tolerance),
                    _ => compare(got, &want, tolerance),
                }
            }));
        }
        return trials;
    }
    let plain = {
        let reconstruction = reconstruction.clone();
        shared(move || {
            let x_t = &reconstruction.as_ref().as_ref()?.x_t;
            naive::denoised(&run.config, run.steps, run.k, x_t)
        })
    };
    let Ok(rec) = want.get("rec").map(|rec| rec.data.clone()) else { return trials };
    let mse = want.get("mse").map(|mse| mse.data.clone());
    {
        let (reconstruction, plain, rec) = (reconstruction.clone(), plain.clone(), rec.clone());
        trials.push(trial(place.label(format!("{label}/rec")), move || {
            let got = reconstruction.as_ref().as_ref()?.rec.iter().copied();
            compare_as_good(got, &rec, plain.as_ref().as_ref()?.iter().copied())
        }));
    }
    if let Ok(want) = mse {
        trials.push(trial(place.label(format!("{label}/mse")), move || {
            let (got, plain) = (&reconstruction.as_ref().as_ref()?.mse, plain.as_ref().as_ref()?);
            let elements = rec.len() / want.len();
            let mut images =
                got.iter().zip(want.iter()).zip(rec.chunks(elements).zip(plain.chunks(elements)));
            // An error e of the reconstruction changes its mean square m by 2·√m·rms(e) + rms(e)² at most.
            images.try_for_each(|((&got, &want), (rec, plain))| {
                let squares = rec.iter().zip(plain).map(|(r, &p)| (r - f64::from(p)).powi(2));
                let rounding = want.sqrt() / 4096.0;
                let rms = 2.0 * (squares.sum::<f64>() / elements as f64).sqrt() + rounding;
                compare_absolute([got], &[want], 2.0 * want.sqrt() * rms + rms * rms)
            })
        }));
    }
    trials
}
