//! Section `diffusion`: noising, inversion and reconstruction.

use invad::Device;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::golden::{
    Golden, Part, Problem, Tensors, Trials, cases, compare, compare_absolute, compare_as_good,
    fill, ignored, shared, sqrt3, trial, whole,
};
use crate::library;
use crate::naive;
use crate::parameters::Config;
use crate::place::{Place, places};

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

/// What noising and denoising gives.
pub struct Reconstruction {
    pub x_t: Vec<f32>,
    pub rec: Vec<f32>,
    /// Per image.
    pub mse: Vec<f32>,
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
        for place in places() {
            match place.refusal(&format!("inversion/{name}"), &Config::read(config)?) {
                Some(refusal) => trials.push(refusal),
                None => trials.extend(inversion_trials(name, config, &tensors, place)?),
            }
        }
        if name == "tiny" {
            trials.extend(noising_trials(config, &tensors, &section["recon"])?);
            for place in places() {
                if place.refusal("recon", &Config::read(config)?).is_none() {
                    let recon = &section["recon"];
                    trials.extend(reconstruction_trials(config, &tensors, recon, place)?);
                }
            }
        }
    }
    Ok(trials)
}

fn inversion_trials(
    name: &str,
    config: &'static Value,
    tensors: &Tensors,
    place: Place,
) -> Result<Vec<Trial>, String> {
    let mut trials = Vec::new();
    for (tensor, _) in tensors.under("inv.S") {
        let Some(steps) = tensor.strip_suffix(".latent") else { continue };
        let label = match name {
            "tiny" => format!("inversion/S{steps}"),
            _ => format!("inversion/{name}/S{steps}"),
        };
        let count: usize = steps.parse().map_err(|_| format!("inv.S{tensor}: which S?"))?;
        let inversion = shared(move || {
            let inputs = Inputs::read(config)?;
            library::inversion(&inputs.config, count, &inputs.x, place.device)
        });
        let plain = shared(move || {
            let inputs = Inputs::read(config)?;
            naive::inversion(&inputs.config, count, &inputs.x)
        });
        let parts: [Part<Inversion, Vec<f32>>; 3] =
            [("latent", |i| &i.latent), ("steps", |i| &i.states), ("eps", |i| &i.eps)];
        for (part, got) in parts {
            let Ok(want) = tensors.get(&format!("inv.S{steps}.{part}")) else { continue };
            let (inversion, plain) = (inversion.clone(), plain.clone());
            let want = want.data.clone();
            trials.push(trial(place.label(format!("{label}/{part}")), move || {
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
    if recon.is_null() {
        return Ok(Vec::new());
    }
    let (steps, k) = (whole(recon, "S")?, whole(recon, "noise_step")?);
    let reconstruction = shared(move || {
        let inputs = Inputs::read(config)?;
        // Every image is given the noise of the first.
        let noise = &inputs.noise[..inputs.config.elements()];
        library::reconstruction(&inputs.config, steps, k, &inputs.x, noise, place.device)
    });
    let part = |name: &str| tensors.get(&format!("recon.f64.{name}")).map(|t| t.data.clone());
    let mut trials = Vec::new();
    let exact: [Part<Reconstruction, Vec<f32>>; 3] =
        [("x_t", |r| &r.x_t), ("rec", |r| &r.rec), ("mse", |r| &r.mse)];
    for (name, got) in exact {
        // Noise is added on the CPU.
        if place.device != Device::Cpu && name != "x_t" {
            continue;
        }
        let Ok(want) = part(name) else { continue };
        let reconstruction = reconstruction.clone();
        trials.push(trial(place.label(format!("recon/{name}")), move || {
            compare(got(reconstruction.as_ref().as_ref()?).iter().copied(), &want, TOLERANCE)
        }));
    }
    if place.device == Device::Cpu {
        return Ok(trials);
    }
    let plain = {
        let reconstruction = reconstruction.clone();
        shared(move || {
            let x_t = &reconstruction.as_ref().as_ref()?.x_t;
            naive::denoised(&Config::read(config)?, steps, k, x_t)
        })
    };
    if let Ok(want) = part("rec") {
        let (reconstruction, plain) = (reconstruction.clone(), plain.clone());
        trials.push(trial(place.label("recon/rec"), move || {
            let rec = reconstruction.as_ref().as_ref()?.rec.iter().copied();
            compare_as_good(rec, &want, plain.as_ref().as_ref()?.iter().copied())
        }));
    }
    if let (Ok(want), Ok(rec)) = (part("mse"), part("rec")) {
        trials.push(trial(place.label("recon/mse"), move || {
            let (got, plain) = (&reconstruction.as_ref().as_ref()?.mse, plain.as_ref().as_ref()?);
            let elements = rec.len() / want.len();
            let mut images =
                got.iter().zip(want.iter()).zip(rec.chunks(elements).zip(plain.chunks(elements)));
            // An error e of the reconstruction changes its mean square m by 2·√m·rms(e) + rms(e)² at most.
            images.try_for_each(|((&got, &want), (rec, plain))| {
                let squares = rec.iter().zip(plain).map(|(r, &p)| (r - f64::from(p)).powi(2));
                let rms = 2.0 * (squares.sum::<f64>() / elements as f64).sqrt();
                compare_absolute([got], &[want], 2.0 * want.sqrt() * rms + rms * rms)
            })
        }));
    }
    Ok(trials)
}
