//! Section `diffusion`: noising, inversion and reconstruction.

use invad::Device;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::golden::{
    Golden, Part, Problem, Tensors, Trials, cases, compare, compare_absolute, compare_as_good,
    fill, ignored, shared, sqrt3, trial, whole,
};
use crate::imported;
use crate::library;
use crate::naive;
use crate::parameters::Config;
use crate::place::{Place, places};
use crate::recon::{self, Run};

/// Of latents, relative to the largest, in f32.
const TOLERANCE: f64 = 1e-5;

/// What inverting with S evaluations gives.
pub struct Inversion {
    /// The state after the last step.
    pub latent: Vec<f32>,
    /// The states after each step, one after another.
    pub states: Vec<f32>,
    /// The network's output at each step, one after another.
    pub eps: Vec<f32>,
}

/// The images of a configuration and what noise is added to them.
struct Inputs {
    config: Config,
    x: Vec<f32>,
    noise: Vec<f32>,
}

impl Inputs {
    fn read(manifest: &Value) -> Result<Self, String> {
        let config = Config::read(manifest)?;
        let n = whole(manifest, "B")? * config.elements();
        let input = |name: &str| fill(config.seed, name, n, sqrt3(), 0.0);
        Ok(Self { x: input("diff.x"), noise: input("diff.noise"), config })
    }
}

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let mut trials = Vec::new();
    for (name, config) in cases(&section["config"]) {
        let file = if name == "tiny" { "diffusion".into() } else { format!("inversion_{name}") };
        let tensors = match golden.tensors(&file) {
            Ok(tensors) => tensors,
            Err(Problem::Missing(reason)) => {
                trials.push(ignored(&format!("inversion/{name}"), &reason));
                continue;
            }
            Err(problem) => return Err(problem),
        };
        let Inputs { config: network, x, .. } = Inputs::read(config)?;
        let label = if name == "tiny" { "inversion".into() } else { format!("inversion/{name}") };
        trials.extend(imported::trials(&label, &network, &x, &tensors));
        for place in places() {
            match place.refusal(&format!("inversion/{name}"), &network) {
                Some(refusal) => trials.push(refusal),
                None => trials.extend(inversion_trials(&label, &network, &x, &tensors, place)?),
            }
        }
        if name == "tiny" {
            trials.extend(noising_trials(config, &tensors, &section["recon"])?);
            for place in places() {
                if !section["recon"].is_null() {
                    trials.extend(reconstruction_trials(
                        config,
                        &tensors,
                        &section["recon"],
                        place,
                    )?);
                }
            }
        }
    }
    Ok(trials)
}

/// The trials of what is inverted from `x`, of those quantities that there are.
pub fn inversion_trials(
    label: &str,
    config: &Config,
    x: &[f32],
    tensors: &Tensors,
    place: Place,
) -> Result<Vec<Trial>, String> {
    let mut trials = Vec::new();
    for (tensor, _) in tensors.under("inv.S") {
        let Some(steps) = tensor.strip_suffix(".latent") else { continue };
        let count: usize = steps.parse().map_err(|_| format!("inv.S{tensor}: which S?"))?;
        let inversion = {
            let (config, x) = (config.clone(), x.to_vec());
            shared(move || library::inversion(&config, count, &x, place.device))
        };
        let plain = {
            let (config, x) = (config.clone(), x.to_vec());
            shared(move || naive::inversion(&config, count, &x))
        };
        let parts: [Part<Inversion, Vec<f32>>; 3] =
            [("latent", |i| &i.latent), ("steps", |i| &i.states), ("eps", |i| &i.eps)];
        for (part, got) in parts {
            let Ok(want) = tensors.get(&format!("inv.S{steps}.{part}")) else { continue };
            let (inversion, plain) = (inversion.clone(), plain.clone());
            let want = want.data.clone();
            trials.push(trial(place.label(format!("{label}/S{steps}/{part}")), move || {
                let inversion = inversion.as_ref().as_ref()?;
                let of = |i| got(i).iter().copied();
                match place.device {
                    Device::Cpu => compare(of(inversion), &want, TOLERANCE),
                    _ => compare_as_good(of(inversion), &want, of(plain.as_ref().as_ref()?)),
                }
            }));
        }
    }
    Ok(trials)
}

fn noising_trials(
    config: &'static Value,
    tensors: &Tensors,
    recon: &'static Value,
) -> Result<Vec<Trial>, String> {
    let (x, noise) = (tensors.get("x")?.data.clone(), tensors.get("noise")?.data.clone());
    let mut trials = vec![trial("q_sample/inputs", move || {
        let inputs = Inputs::read(config)?;
        compare_absolute(inputs.x, &x, 0.0)?;
        compare_absolute(inputs.noise, &noise, 0.0)
    })];
    for (tensor, want) in tensors.under("q_sample.") {
        let want = want.data.clone();
        let times = match tensors.get(&format!("q_sample.{tensor}.t")) {
            Ok(t) => Some(t.data.clone()),
            Err(_) if tensor == "recon" => None,
            Err(_) => continue,
        };
        trials.push(trial(format!("q_sample/{tensor}"), move || {
            let inputs = Inputs::read(config)?;
            let timesteps = match times {
                Some(times) => times.iter().map(|&t| t as usize).collect(),
                None => {
                    let respaced = library::schedule(whole(recon, "S")?, "timesteps")?;
                    let t = respaced.get(whole(recon, "noise_step")?);
                    let t = *t.ok_or("manifest: `noise_step` should be less than `S`")? as usize;
                    vec![t; whole(config, "B")?]
                }
            };
            compare(library::q_sample(&inputs.x, &inputs.noise, &timesteps)?, &want, 1e-6)
        }));
    }
    Ok(trials)
}

fn reconstruction_trials(
    config: &'static Value,
    tensors: &Tensors,
    recon: &'static Value,
    place: Place,
) -> Result<Vec<Trial>, String> {
    let Inputs { config, x, noise } = Inputs::read(config)?;
    // Every image is given the noise of the first.
    let noise = noise[..config.elements()].to_vec();
    let run = Run { config, steps: whole(recon, "S")?, k: whole(recon, "noise_step")?, x, noise };
    Ok(recon::run_trials("recon", run, &tensors.part("recon.f64."), place))
}
