//! Sections `dit`, `mlp` and `unet`: a denoiser forward, backward, over three training steps and inverting.

use std::collections::BTreeMap;

use invad::Device;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::diffusion::inversion_trials;
use crate::golden::{
    Array, Golden, Part, Problem, Shared, Tensors, Trials, cases, compare, compare_absolute,
    compare_as_good, fill, ignored, number, shared, sqrt3, statistics, trial, unif, whole,
};
use crate::imported;
use crate::library;
use crate::naive::{self, Stored};
use crate::parameters::{Config, Kind};
use crate::place::{Place, places};

/// Of losses and norms.
const LOSSES: [f64; 2] = [1e-6, 2e-3];
/// Of what three optimiser steps change where a GPU stores f16, as a part of it: one number of fifty turned
/// around makes 0.28 of it.
const ALIKE: f64 = 0.3;
/// Of what three optimiser steps of 5e-5 change, absolute.
const MOVED: f64 = 2e-5;
/// Of what that changes in the average of a parameter p, absolute, is the first plus |p| times the second: of
/// each step the average takes a thousandth, and is rounded to f32.
const AVERAGED: [f64; 2] = [6e-8, 1.5e-7];

/// Of outputs, relative to the largest, against f64: of f32, and where a GPU stores f16.
fn outputs(config: &Config) -> [f64; 2] {
    match config.kind {
        Kind::Dit { .. } => [1e-5, 5e-3],
        Kind::Mlp => [5e-6, 5e-3],
        Kind::Unet(_) => [1e-5, 5e-3],
    }
}

/// Of gradients, likewise.
fn gradients(config: &Config) -> [f64; 2] {
    match config.kind {
        Kind::Dit { .. } | Kind::Mlp => [1e-5, 1e-2],
        Kind::Unet(_) => [2e-5, 1e-2],
    }
}

/// One case: a network, by rule, and the inputs it is given.
#[derive(Clone, Debug)]
pub struct Case {
    pub config: Config,
    /// One timestep per image.
    pub timesteps: Vec<usize>,
    /// Images × C × grid × grid, as `noise`.
    pub x: Vec<f32>,
    pub noise: Vec<f32>,
}

impl Case {
    pub fn read(manifest: &Value) -> Result<Self, String> {
        let config = Config::read(manifest)?;
        let timesteps = timesteps(&manifest["t"])?;
        let n = timesteps.len() * config.elements();
        let input = |name: &str| fill(config.seed, name, n, sqrt3(), 0.0);
        Ok(Self { x: input("input.x"), noise: input("input.noise"), config, timesteps })
    }

    /// The noise of training step `s`.
    pub fn training_noise(&self, s: usize) -> Vec<f32> {
        fill(self.config.seed, &format!("train.noise.{s}"), self.x.len(), sqrt3(), 0.0)
    }
}

/// What one forward and backward pass gives, parameters under their official names.
pub struct Pass {
    pub eps: Vec<f32>,
    pub loss: f64,
    pub dx: Vec<f32>,
    pub gradients: BTreeMap<String, Vec<f32>>,
}

/// What training gives: per step, and the parameters after the last one.
pub struct Trained {
    pub losses: Vec<f64>,
    /// Before clipping.
    pub gradient_norms: Vec<f64>,
    pub parameters: BTreeMap<String, Vec<f32>>,
    pub ema: BTreeMap<String, Vec<f32>>,
}

/// What the optimiser is set to, and each step's timesteps.
#[derive(Clone, Debug)]
pub struct Training {
    pub learning_rate: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    pub clip: f64,
    pub ema_decay: f64,
    pub timesteps: Vec<Vec<usize>>,
}

impl Training {
    fn read(train: &Value, clip: f64) -> Result<Self, String> {
        let beta = |i: usize| train["betas"][i].as_f64().ok_or("manifest: two `betas`");
        let steps = train["timesteps"].as_array().ok_or("manifest: `timesteps` of each step")?;
        Ok(Self {
            learning_rate: number(train, "lr")?,
            betas: [beta(0)?, beta(1)?],
            eps: number(train, "adam_eps")?,
            weight_decay: number(train, "weight_decay")?,
            clip,
            ema_decay: number(train, "ema_decay")?,
            timesteps: steps.iter().map(timesteps).collect::<Result<_, _>>()?,
        })
    }
}

fn timesteps(list: &Value) -> Result<Vec<usize>, String> {
    let list = list.as_array().ok_or("manifest: timesteps should be a list")?;
    let whole = list.iter().map(|t| t.as_u64().map(|t| t as usize));
    whole.collect::<Option<_>>().ok_or_else(|| "manifest: timesteps should be whole".into())
}

pub fn trials(kind: &str, golden: &'static Golden, section: &'static Value) -> Trials {
    let mut trials = Vec::new();
    for (name, manifest) in cases(section) {
        let label = format!("{kind}/{name}");
        if manifest["config"].is_null() {
            trials.push(trial(format!("{label}/parameters"), move || reference(manifest)));
            continue;
        }
        match case_trials(golden, &label, &format!("{kind}_{name}"), manifest) {
            Ok(of_case) => trials.extend(of_case),
            Err(Problem::Missing(reason)) => trials.push(ignored(&label, &reason)),
            Err(problem) => return Err(problem),
        }
    }
    Ok(trials)
}

/// A network of the real size, of which only the number of parameters is there, that of an MLP with the condition's
/// layer included.
fn reference(manifest: &Value) -> Result<(), String> {
    let mut config = manifest.clone();
    config["seed"] = 0.into();
    if config["grid"].is_null() {
        config["grid"] = 1.into();
    }
    let config = Config::read(&config)?;
    let want = match &config.kind {
        Kind::Unet(_) => whole(manifest, "n_params_net")?,
        _ => {
            let condition = (whole(manifest, "z_channels")? + 1) * config.width;
            whole(manifest, "n_params_without_cls_embed")? - condition
        }
    };
    match library::parameter_count(&config)? {
        got if got == want => Ok(()),
        got => Err(format!("{got} parameters, expected {want}")),
    }
}

fn case_trials(golden: &Golden, label: &str, file: &str, manifest: &'static Value) -> Trials {
    let tensors = golden.tensors(file)?;
    let case = Case::read(&manifest["config"])?;
    let mut trials = imported::trials(label, &case.config, &case.x, &tensors);
    for place in places() {
        if let Some(refusal) = place.refusal(label, &case.config) {
            trials.push(refusal);
            continue;
        }
        trials.extend(pass_trials(label, manifest, &case, &tensors, place)?);
        if place.device != Device::Cpu {
            trials.push(packed_trial(label, &case, &tensors, place)?);
        }
        trials.extend(training_trials(label, manifest, &case, &tensors, place)?);
        trials.extend(inversion_trials(label, &case.config, &case.x, &tensors, place)?);
    }
    Ok(trials)
}

fn pass_trials(
    name: &str,
    manifest: &Value,
    case: &Case,
    tensors: &Tensors,
    place: Place,
) -> Trials {
    let pass = {
        let case = case.clone();
        shared(move || library::pass(&case, place.device))
    };
    let label = |what: &str| place.label(format!("{name}/{what}"));
    let both = [outputs(&case.config), gradients(&case.config)];
    let [outputs, gradients] = both.map(|both| place.tolerance(both));
    let mut trials = Vec::new();
    let blocks = {
        let case = case.clone();
        shared(move || naive::blocks(&case, Stored::F32))
    };
    for (tensor, want) in tensors.iter() {
        let want = want.clone();
        let label = label(tensor);
        if tensor == "eps" {
            if place.device == Device::Cpu {
                let (case, same) = (case.clone(), want.clone());
                trials.push(trial(format!("{label} of the plain computation"), move || {
                    let eps = naive::eps(&case, Stored::F32)?;
                    compare(prefix(&eps, &same)?, &same.data, outputs)
                }));
            }
            trials.push(of(&pass, label, move |p| {
                compare(prefix(&p.eps, &want)?, &want.data, outputs)
            }));
        } else if let (Some(block), Device::Cpu) =
            (tensor.strip_prefix("blockstats."), place.device)
        {
            let block = block.to_owned();
            trials.push(of(&blocks, format!("{label} of the plain computation"), move |blocks| {
                let got = statistics(get(blocks, &block)?);
                compare_absolute(got, &want.data, outputs * want.data[2])
            }));
        } else if let ("temb.freqs_f32", Device::Cpu) = (tensor, place.device) {
            trials.push(trial(label, move || {
                compare_absolute(library::timestep_frequencies(want.data.len())?, &want.data, 0.0)
            }));
        } else if tensor == "grad.x" {
            trials.push(of(&pass, label, move |p| {
                compare(prefix(&p.dx, &want)?, &want.data, gradients)
            }));
        } else if let Some(parameter) = tensor.strip_prefix("grad.") {
            let parameter = parameter.to_owned();
            trials.push(of(&pass, label, move |p| {
                compare(get(&p.gradients, &parameter)?.iter().copied(), &want.data, gradients)
            }));
        } else if let Some(parameter) = tensor.strip_prefix("gsum.") {
            let (parameter, seed) = (parameter.to_owned(), case.config.seed);
            trials.push(of(&pass, label, move |p| {
                let probe = unif_of(seed, &parameter, p)?;
                sums(get(&p.gradients, &parameter)?, &probe, &want.data, gradients)
            }));
        } else if let Some(parameter) = tensor.strip_prefix("ghead.") {
            let parameter = parameter.to_owned();
            trials.push(of(&pass, label, move |p| {
                let gradient = get(&p.gradients, &parameter)?;
                let largest = gradient.iter().fold(0.0f64, |m, &g| m.max(f64::from(g.abs())));
                compare_absolute(prefix(gradient, &want)?, &want.data, gradients * largest)
            }));
        }
    }
    let loss = number(manifest, "loss_f64")?;
    let near = place.tolerance(LOSSES);
    trials.push(of(&pass, label("loss"), move |p| compare([p.loss], &[loss], near)));
    Ok(trials)
}

/// ε where weights and activations are f16.
fn packed_trial(name: &str, case: &Case, tensors: &Tensors, place: Place) -> Result<Trial, String> {
    let (case, want) = (case.clone(), tensors.get("eps")?.clone());
    Ok(trial(place.label(format!("{name}/eps of packed weights")), move || {
        let eps = library::eps(&case, place.device)?;
        let plain = naive::eps(&case, Stored::F16)?;
        compare_as_good(prefix(&eps, &want)?, &want.data, prefix(&plain, &want)?)
    }))
}

fn training_trials(
    name: &str,
    manifest: &Value,
    case: &Case,
    tensors: &Tensors,
    place: Place,
) -> Trials {
    let label = |what: String| place.label(format!("{name}/{what}"));
    let mut trials = Vec::new();
    let train = &manifest["train"];
    if train.is_null() {
        return Ok(trials);
    }
    let before = case.config.parameters();
    for (kind, manifest) in
        [("train", train), ("train_clip_inactive", &manifest["train_clip_inactive"])]
    {
        if manifest.is_null() {
            continue;
        }
        let training = Training::read(train, number(manifest, "clip")?)?;
        let case = case.clone();
        let trained = shared(move || library::train(&case, &training, place.device));
        let per_step: [Part<Trained, Vec<f64>>; 2] =
            [("losses_f64", |t| &t.losses), ("grad_norm_before_clip_f64", |t| &t.gradient_norms)];
        for (key, got) in per_step {
            let want: Vec<f64> =
                manifest[key].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
            let near = place.tolerance(LOSSES);
            trials.push(of(&trained, label(format!("{kind}/{key}")), move |t| {
                compare(got(t).iter().copied(), &want, near)
            }));
        }
        for (parameter, want) in manifest["delta_l2"].as_object().into_iter().flatten() {
            let Some(before) = before.get(parameter).cloned() else { continue };
            if judged(parameter, before.len()).len() < before.len() {
                continue;
            }
            let want = want.as_f64().ok_or("manifest: `delta_l2` should be numbers")?;
            let (parameter, near) = (parameter.to_owned(), place.tolerance([1e-3, 2e-2]));
            let label = label(format!("{kind}/delta_l2/{parameter}"));
            trials.push(of(&trained, label, move |t| {
                let moved = delta(get(&t.parameters, &parameter)?, &before);
                let norm = moved.iter().map(|d| d * d).sum::<f64>().sqrt();
                compare([norm], &[want], near)
            }));
        }
        if kind != "train" {
            continue;
        }
        let stored: [Part<Trained, BTreeMap<String, Vec<f32>>>; 2] =
            [("delta3.", |t| &t.parameters), ("emadelta3.", |t| &t.ema)];
        for (prefix, got) in stored {
            let averaged = prefix == "emadelta3.";
            for (parameter, want) in tensors.under(prefix) {
                let want = want.data.clone();
                let (parameter, prefix) = (parameter.to_owned(), prefix.to_owned());
                let before = before
                    .get(&parameter)
                    .cloned()
                    .ok_or_else(|| format!("{prefix}{parameter}: not a parameter"))?;
                let label = label(format!("{prefix}{parameter}"));
                trials.push(of(&trained, label, move |t| {
                    let moved = delta(get(got(t), &parameter)?, &before);
                    if moved.len() != want.len() {
                        return Err(format!("{} elements, expected {}", moved.len(), want.len()));
                    }
                    let judged = judged(&parameter, moved.len());
                    if place.device != Device::Cpu {
                        return alike(&moved, &want, &judged);
                    }
                    let allowed = |i: usize| match averaged {
                        true => AVERAGED[0] + AVERAGED[1] * f64::from(before[i].abs()),
                        false => MOVED,
                    };
                    // In units of what is allowed.
                    let pick = |v: &[f64]| judged.iter().map(|&i| v[i] / allowed(i)).collect();
                    let (got, want): (Vec<f64>, Vec<f64>) = (pick(&moved), pick(&want));
                    compare_absolute(got, &want, 1.0)
                }));
            }
        }
    }
    Ok(trials)
}

/// A trial of a shared result.
fn of<T: Send + Sync + 'static>(
    result: &Shared<T>,
    name: String,
    check: impl FnOnce(&T) -> Result<(), String> + Send + 'static,
) -> Trial {
    let result = result.clone();
    trial(name, move || check(result.as_ref().as_ref()?))
}

fn get<'a>(of: &'a BTreeMap<String, Vec<f32>>, name: &str) -> Result<&'a [f32], String> {
    of.get(name).map(Vec::as_slice).ok_or_else(|| format!("the library has no `{name}`"))
}

/// As many of the first elements as are stored.
fn prefix(all: &[f32], stored: &Array) -> Result<Vec<f32>, String> {
    let n = stored.data.len();
    all.get(..n).map(<[f32]>::to_vec).ok_or_else(|| format!("{} elements, expected {n}", all.len()))
}

fn unif_of(seed: u64, parameter: &str, pass: &Pass) -> Result<Vec<f32>, String> {
    Ok(unif(seed, &format!("probe.{parameter}"), get(&pass.gradients, parameter)?.len()))
}

/// Sum, norm and product with `probe` of a gradient. Rounding moves all three by parts of the norm. Errors of
/// one factor of a weight's gradient are common to a row of it and add up in sums: to parts of Σ|g|.
fn sums(gradient: &[f32], probe: &[f32], want: &[f64], tolerance: f64) -> Result<(), String> {
    let g = || gradient.iter().map(|&g| f64::from(g));
    let sum: f64 = g().sum();
    let norm = g().map(|g| g * g).sum::<f64>().sqrt();
    let product: f64 = g().zip(probe).map(|(g, &p)| g * f64::from(p)).sum();
    let &[want_sum, want_norm, want_product] = want else {
        return Err(format!("{} sums, expected 3", want.len()));
    };
    compare([norm], &[want_norm], tolerance)?;
    let total: f64 = g().map(f64::abs).sum();
    let most = tolerance * (2.0 * norm).max(0.1 * total);
    compare_absolute([sum, product], &[want_sum, want_product], most)
}

/// AdamW's first steps are as long for a small gradient as for a large one, so that rounding turns some of
/// those that are almost 0 around: movements are compared as a whole.
fn alike(got: &[f64], want: &[f64], judged: &[usize]) -> Result<(), String> {
    let square = |of: &dyn Fn(usize) -> f64| judged.iter().map(|&i| of(i).powi(2)).sum::<f64>();
    let off = (square(&|i| got[i] - want[i]) / square(&|i| want[i])).sqrt();
    if off <= ALIKE { Ok(()) } else { Err(format!("{off:.1e} of the movement off")) }
}

fn delta(after: &[f32], before: &[f32]) -> Vec<f64> {
    after.iter().zip(before).map(|(&a, &b)| f64::from(a) - f64::from(b)).collect()
}

/// The elements of a parameter whose movement is determined. The key third of the bias of q, k, v is not:
/// softmax does not see it, its exact gradient is 0, and AdamW scales rounding noise up to full steps.
fn judged(parameter: &str, n: usize) -> Vec<usize> {
    let keys = if parameter.ends_with("attn.qkv.bias") { n / 3..2 * n / 3 } else { 0..0 };
    (0..n).filter(|i| !keys.contains(i)).collect()
}
