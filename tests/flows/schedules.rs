//! Schedules and what networks predict, each by its definition.

use std::f64::consts::PI;

use invad::checkpoint::{Checkpoint, Recipe};
use invad::diffusion::{Inverter, Parameterisation, Process, Schedule};
use invad::{Device, Error};
use tempfile::tempdir;

use crate::support::files::calibrated;
use crate::support::networks::*;
use crate::support::numbers::{assert_close, bits};

/// Two lists of ᾱ alike, relative to each.
fn assert_alike(name: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{name}");
    let ratios: Vec<f64> = got.iter().zip(want).map(|(got, want)| got / want).collect();
    assert_close(name, &ratios, &vec![1.0; want.len()], 1e-12);
}

#[test]
fn by_their_definitions() {
    // What the configuration of Stable Diffusion gives, as PyTorch computes it.
    let scaled = Schedule::scaled_linear(0.00085, 0.012, 1000).unwrap();
    let alphas = scaled.alphas_cumprod();
    assert_close("scaled", &[alphas[0], alphas[999]], &[0.99915, 0.004_660_099], 1e-6);
    let root = |t: f64| 0.00085f64.sqrt() + t / 999.0 * (0.012f64.sqrt() - 0.00085f64.sqrt());
    let betas: Vec<f64> = (0..1000).map(|t| root(f64::from(t)).powi(2)).collect();
    assert_alike("scaled β", &scaled.betas(), &betas);

    for timesteps in [1, 7, 1000] {
        let cosine = Schedule::cosine(timesteps).unwrap();
        let f = |t: usize| (0.5 * PI * (t as f64 / timesteps as f64 + 0.008) / 1.008).cos().powi(2);
        let mut want: Vec<f64> = (1..timesteps).map(|t| f(t) / f(0)).collect();
        want.push(want.last().copied().unwrap_or(1.0) * 1e-3);
        assert_alike("cosine", cosine.alphas_cumprod(), &want);
    }

    let sigmas = [0.0, 0.5, 3.0, 80.0];
    let given = Schedule::from_sigmas(&sigmas).unwrap();
    assert_alike("sigmas", given.alphas_cumprod(), &[1.0, 0.8, 0.1, 1.0 / 6401.0]);
    let karras = Schedule::karras(0.002, 80.0, 18).unwrap();
    let sigma = |i: f64| {
        let [least, most] = [0.002f64, 80.0].map(|s| s.powf(1.0 / 7.0));
        (most + i / 17.0 * (least - most)).powi(7)
    };
    let want: Vec<f64> = (0..18).rev().map(|i| 1.0 / (1.0 + sigma(f64::from(i)).powi(2))).collect();
    assert_alike("karras", karras.alphas_cumprod(), &want);

    let linear = Schedule::linear();
    assert_eq!(Schedule::new(linear.alphas_cumprod().to_vec()).unwrap(), linear);
    let again = Schedule::from_betas(linear.betas()).unwrap();
    assert_alike("β and back", again.alphas_cumprod(), linear.alphas_cumprod());
    assert_eq!(scaled.respaced(5).unwrap().timesteps, [0, 250, 500, 749, 999]);
    assert_eq!(karras.respaced(3).unwrap().timesteps, [0, 8, 17]);
    assert!(karras.respaced(19).is_err());
}

#[test]
fn numbers_that_are_none() {
    let refused = |made: Result<Schedule, Error>, says: &str| match made {
        Err(Error::Argument { op: "Schedule", arg, got, .. }) => {
            assert!(format!("{arg} {got}").contains(says), "{arg} {got}");
        }
        other => panic!("{other:?}"),
    };
    refused(Schedule::new(vec![]), "timesteps 0");
    refused(Schedule::new(vec![1.0; 70_000]), "timesteps 70000");
    for bad in [0.0, -0.1, 1.1, f64::NAN, f64::INFINITY, 0.9] {
        refused(Schedule::new(vec![0.9, bad]), &format!("alphas_cumprod {bad} at 1"));
    }
    refused(Schedule::from_betas([0.1, 1.0]), "alphas_cumprod 0 at 1");
    refused(Schedule::scaled_linear(0.2, 0.1, 10), "betas 0.2 to 0.1");
    refused(Schedule::scaled_linear(0.1, f64::NAN, 10), "betas 0.1 to NaN");
    refused(Schedule::scaled_linear(0.1, 0.2, 0), "timesteps 0");
    refused(Schedule::cosine(0), "timesteps 0");
    for bad in [-1.0, 0.5, f64::NAN, f64::INFINITY] {
        refused(Schedule::from_sigmas(&[0.5, bad]), "sigmas");
    }
    refused(Schedule::karras(-1.0, 80.0, 18), "sigmas NaN at 0");
}

/// Of x₀ and ε that are known, each network that predicts rightly gives ε, x₀ and the way to another level.
#[test]
fn what_networks_predict() {
    let (clean, noise) = (0.7, -1.3);
    for alpha in [0.9999, 0.5, 4e-5] {
        let (signal, level) = (f64::sqrt(alpha), f64::sqrt(1.0 - alpha));
        let x = signal * clean + level * noise;
        for (of, f) in [
            (Parameterisation::Epsilon, noise),
            (Parameterisation::Velocity, signal * noise - level * clean),
            (Parameterisation::Clean, clean),
            (Parameterisation::Residual, x - clean),
        ] {
            let (p, q) = of.target_factors(alpha);
            assert_close("target", &[p * clean + q * noise], &[f], 1e-13);
            let (p, q) = of.epsilon_factors(alpha);
            assert_close(&format!("{of:?} at {alpha}"), &[p * x + q * f], &[noise], 1e-11);
            for to in [0.0, 0.3, 1.0] {
                let (a, b) = of.ddim_factors(alpha, to);
                let want = f64::sqrt(to) * clean + f64::sqrt(1.0 - to) * noise;
                assert_close(&format!("{of:?} {alpha} {to}"), &[a * x + b * f], &[want], 1e-9);
            }
        }
    }
}

/// Where nothing is noised, what is clean says nothing of noise.
#[test]
fn without_noise() {
    let dit = invad::denoisers::Dit::new(tiny()).unwrap();
    let parameters = parameters(&dit, 5);
    let schedule = Schedule::from_sigmas(&[0.0, 1.0, 2.0]).unwrap();
    for parameterisation in Parameterisation::ALL {
        let made = |steps, single| {
            let process = Process { schedule: schedule.clone(), parameterisation };
            Inverter::new(&dit, &parameters, process, steps, single, Device::Cpu)
        };
        assert!(made(1, 1).is_ok());
        match (made(2, 0), parameterisation) {
            (Ok(_), Parameterisation::Epsilon | Parameterisation::Velocity) => {}
            (Err(e), Parameterisation::Clean | Parameterisation::Residual) => {
                assert!(e.to_string().contains("none at 0"), "{e}");
            }
            (other, _) => panic!("{parameterisation:?}: {other:?}"),
        }
        assert!(made(1, 3).is_err());
    }
}

/// A detector of another schedule is trained by it, and keeps it to the bit; of the linear one its file says nothing.
#[test]
fn in_a_detector() {
    let schedule = Schedule::cosine(60).unwrap();
    let [whitened, paper] = recipes();
    for recipe in [
        whitened.clone().with_schedule(schedule.clone()),
        paper.with_schedule(schedule.clone()).parameterisation(Parameterisation::Clean),
    ] {
        recipe_of_sixty(&recipe);
        let folder = tempdir().unwrap();
        let path = folder.path().join("detector");
        let checkpoint = trained(&training(recipe, 8), 6, 3).into_checkpoint().unwrap();
        assert!(!bits(&checkpoint.ema).iter().all(|&bits| bits == 0));
        let checkpoint = calibrated(checkpoint);
        checkpoint.save(&path).unwrap();
        let loaded = Checkpoint::load(&path).unwrap();
        assert_eq!(loaded.config, checkpoint.config);
        assert_eq!(loaded.config.recipe.schedule, schedule);
    }
    let says = |recipe: &Recipe| serde_json::to_value(recipe).unwrap().get("schedule").is_some();
    assert!(!says(&whitened) && says(&whitened.clone().with_schedule(schedule)));
    let mut json = serde_json::to_value(whitened).unwrap();
    json["schedule"] = vec![0.5, 0.6].into();
    let refused = serde_json::from_value::<Recipe>(json).unwrap_err();
    assert!(refused.to_string().contains("0.6 at 1"), "{refused}");
}

fn recipe_of_sixty(recipe: &Recipe) {
    assert_eq!(recipe.timesteps, [0, 59]);
    assert!(recipe.single_timestep < 60 && recipe.candidates.is_empty());
    let timesteps = |recipe: Recipe| (recipe.timesteps, recipe.single_timestep);
    assert_eq!(timesteps(recipe.clone().with_timestep(40)), ([10, 59], 40));
    assert_eq!(recipe.clone().with_evaluations(3).timesteps, [0, 59]);
}
