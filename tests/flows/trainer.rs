use invad::checkpoint::{Ema, LossWeight, Recipe, Steps, TrainingConfig, TrainingState};
use invad::denoisers::{self, DitConfig};
use invad::{Device, Error, Tensor, Trainer};
use tempfile::tempdir;

use crate::support::networks::*;
use crate::support::numbers::{assert_close, bits, f64s};

/// The bits of the state after `steps` steps, and of the losses.
fn run(config: &TrainingConfig, images: usize, steps: u64) -> ([Vec<u32>; 4], Vec<u64>) {
    let mut trainer = trainer(config, images);
    let losses = (0..steps).map(|_| trainer.step().unwrap().loss.to_bits()).collect();
    (state_bits(trainer.state()), losses)
}

fn saved_and_loaded(trainer: &Trainer) -> TrainingState {
    let folder = tempdir().unwrap();
    let path = folder.path().join("state");
    trainer.state().save(&path).unwrap();
    TrainingState::load(path).unwrap()
}

#[test]
fn same_seed_same_bits() {
    for recipe in recipes() {
        let config = training(recipe, 12);
        let first = run(&config, 6, 12);
        assert!(first == run(&config, 6, 12), "{}", config.recipe.name);
        let other = TrainingConfig { seed: 8, ..config.clone() };
        assert!(first != run(&other, 6, 12), "{}", config.recipe.name);
    }
}

#[test]
fn threads_do_not_matter() {
    for recipe in recipes() {
        // Wide enough that every operation is split.
        let denoiser = DitConfig { width: 96, heads: 3, ..tiny() };
        let config = TrainingConfig { denoiser: denoiser.into(), ..training(recipe, 5) };
        let on = |threads| on_threads(threads, || run(&config, 6, 5));
        assert!(on(1) == on(3), "{}", config.recipe.name);
    }
}

#[test]
fn resumed_anywhere_same_bits() {
    let folder = tempdir().unwrap();
    for recipe in recipes() {
        let config = training(recipe, 9);
        let (uninterrupted, losses) = run(&config, 6, 9);
        for stop in [0, 1, 4, 9] {
            let state = saved_and_loaded(&trained(&config, 6, stop));
            assert_eq!((state.step, &state.config), (stop, &config));
            let mut resumed = Trainer::resume(state, &config, features(6), Device::Cpu).unwrap();
            assert_eq!((resumed.step_count(), resumed.is_done()), (stop, stop == 9));
            for &loss in &losses[stop as usize..] {
                assert_eq!(resumed.step().unwrap().loss.to_bits(), loss, "stopped at {stop}");
            }
            assert!(state_bits(resumed.state()) == uninterrupted, "stopped at {stop}");
            // The file of the detector as well.
            let file = |name: &str, trainer: Trainer| {
                let path = folder.path().join(name);
                trainer.into_checkpoint().unwrap().save(&path).unwrap();
                std::fs::read(path).unwrap()
            };
            assert!(file("a", resumed) == file("b", trained(&config, 6, 9)));
        }
    }
}

#[test]
fn resume_refuses_other_settings_by_name() {
    let [whitened, paper] = recipes();
    let config = training(whitened.clone(), 9);
    let refused = |change: TrainingConfig, features: Tensor, setting: &str| {
        let state = saved_and_loaded(&trained(&config, 6, 4));
        match Trainer::resume(state, &change, features, Device::Cpu).err().unwrap() {
            Error::Argument { op: "resume", arg, expected, got } => {
                assert_eq!(arg, setting);
                assert!(expected.contains("the training state was saved"), "{expected}");
                assert!(!expected.starts_with(&got), "{expected} {got}");
            }
            other => panic!("{other}"),
        }
    };
    let with = |change: fn(&mut TrainingConfig)| {
        let mut config = config.clone();
        change(&mut config);
        config
    };
    refused(with(|c| c.seed = 8), features(6), "seed");
    refused(with(|c| c.steps = 10), features(6), "steps");
    refused(TrainingConfig { recipe: paper, ..config.clone() }, features(6), "recipe");
    refused(with(|c| c.recipe.clip = 2.0), features(6), "recipe");
    refused(
        with(|c| c.denoiser = DitConfig { width: 32, ..tiny() }.into()),
        features(6),
        "denoiser",
    );
    refused(with(|c| c.backbone.name = "other".into()), features(6), "backbone");
    refused(with(|c| c.backbone.hash = "other".into()), features(6), "backbone weights");
    refused(with(|c| c.categories = vec!["nuts".into()]), features(6), "category");
    let mut other = features(6).to_vec_f32();
    other[77] = f32::from_bits(other[77].to_bits() + 1);
    let other = Tensor::from_f32(other, features(6).shape(), Device::Cpu).unwrap();
    refused(config.clone(), other, "data");
    refused(config.clone(), features(5), "data");
}

#[test]
fn a_number_that_is_not_finite_stops_before_it_spreads() {
    let [_, paper] = recipes();
    let config = training(paper, 50);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = features(30);
        let at = x.len() - 1;
        x.view_mut().part(at, &[1]).unwrap().fill(bad).unwrap();
        let mut trainer = Trainer::new(config.clone(), x, Device::Cpu).unwrap();
        let mut before = state_bits(trainer.state());
        let error = loop {
            match trainer.step() {
                Ok(_) => before = state_bits(trainer.state()),
                Err(e) => break e,
            }
        };
        let steps = trainer.step_count();
        assert!(steps < 8, "one pass meets every image");
        match error {
            Error::NonFinite { step, what, last_good } => {
                assert_eq!((step, what, last_good), (steps, "the loss", steps));
            }
            other => panic!("{other}"),
        }
        let message = format!(
            "training step {}: the loss is not finite; the state after {steps} steps is kept",
            steps + 1
        );
        assert_eq!(error.to_string(), message);
        assert!(state_bits(trainer.state()) == before);
        assert!(state_bits(&saved_and_loaded(&trainer)) == before);
    }
}

#[test]
fn whitening_refuses_what_is_not_finite() {
    let [whitened, _] = recipes();
    let mut x = features(6);
    x.view_mut().part(3, &[1]).unwrap().fill(f32::NAN).unwrap();
    let refused = Trainer::new(training(whitened, 5), x, Device::Cpu).err().unwrap();
    assert!(matches!(refused, Error::Argument { arg: "features", .. }), "{refused}");
}

#[test]
fn learns() {
    for recipe in recipes() {
        let config = training(recipe, 100);
        let mut trainer = trainer(&config, 4);
        let losses: Vec<f64> = (0..100).map(|_| trainer.step().unwrap().loss).collect();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&losses[..25]), mean(&losses[75..]));
        assert!(last < 0.8 * first, "{}: {first} {last}", config.recipe.name);
    }
}

#[test]
fn more_images_in_a_batch_than_there_are() {
    for recipe in recipes() {
        let config = training(recipe.batch(8), 4);
        assert!(trained(&config, 3, 4).is_done());
        assert!(trained(&config, 1, 4).is_done());
    }
}

#[test]
fn every_parameter_moves() {
    for recipe in recipes() {
        let config = training(recipe, 12);
        let dit = denoisers::read(&config.denoiser).unwrap();
        let before = trainer(&config, 6).state().parameters.to_vec_f32();
        let after = trained(&config, 6, 12).state().parameters.to_vec_f32();
        let d = tiny().width;
        for p in dit.parameters() {
            for i in 0..p.len() {
                // Softmax does not see what is added to all keys.
                let key_bias = p.name.ends_with("qkv.bias") && (d..2 * d).contains(&i);
                let at = p.offset + i;
                assert!(key_bias || before[at] != after[at], "{} [{i}]", p.name);
            }
        }
    }
}

#[test]
fn average_of_the_parameters() {
    assert_eq!(
        [0, 1, 18, 500, 10_000].map(|i| Ema::Ramp(0.995).decay(i)),
        [1.0 / 20.0, 2.0 / 21.0, 0.5, 501.0 / 520.0, 0.995]
    );
    for recipe in recipes() {
        let config = training(recipe, 20);
        let mut trainer = trainer(&config, 6);
        let mut want = f64s(&trainer.state().parameters);
        for i in 0..20 {
            trainer.step().unwrap();
            let decay = config.recipe.ema.decay(i);
            for (w, p) in want.iter_mut().zip(f64s(&trainer.state().parameters)) {
                *w = decay * *w + (1.0 - decay) * p;
            }
        }
        assert_close(&config.recipe.name, &f64s(&trainer.state().ema), &want, 1e-6);
        assert_ne!(bits(&trainer.state().ema), bits(&trainer.state().parameters));
    }
}

#[test]
fn reports_what_a_step_did() {
    let config = training(recipes()[0].clone(), 20);
    let mut trainer = trainer(&config, 6);
    for k in 1..=20 {
        let report = trainer.step().unwrap();
        assert_eq!(report.step, k);
        assert!(report.loss > 0.0 && report.gradient_norm > 0.0, "{report:?}");
        let peak = config.recipe.peak_rate;
        assert!((0.0..=peak).contains(&report.learning_rate), "{report:?}");
        // 5% of 20 steps warm up: the peak comes at step 1, counted from 0.
        assert_eq!(report.learning_rate == peak, k == 2, "{report:?}");
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let config = || training(recipes()[0].clone(), 5);
    let refused = |config: TrainingConfig, argument: &str| match Trainer::new(
        config,
        features(3),
        Device::Cpu,
    )
    .err()
    .unwrap()
    {
        Error::Argument { arg, .. } => assert_eq!(arg, argument),
        other => panic!("{other}"),
    };
    refused(TrainingConfig { steps: 0, ..config() }, "steps");
    refused(TrainingConfig { steps: u64::MAX, ..config() }, "steps");
    let with = |change: fn(&mut Recipe)| {
        let mut config = config();
        change(&mut config.recipe);
        config
    };
    refused(with(|r| r.batch = 0), "batch");
    refused(with(|r| r.batch = usize::MAX), "batch");
    refused(with(|r| r.peak_rate = f64::NAN), "peak_rate");
    refused(with(|r| r.initial_rate = -1.0), "initial_rate");
    refused(with(|r| r.last_rate = f64::INFINITY), "last_rate");
    refused(with(|r| r.warmup = -0.1), "warmup");
    refused(with(|r| r.beta1 = 1.0), "beta1");
    refused(with(|r| r.beta2 = f64::NAN), "beta2");
    refused(with(|r| r.eps = -1.0), "eps");
    refused(with(|r| r.eps = 0.0), "eps");
    refused(with(|r| r.weight_decay = f64::NAN), "weight_decay");
    refused(with(|r| r.clip = f64::NAN), "clip");
    refused(with(|r| r.ema = Ema::Constant(1.5)), "ema");
    refused(with(|r| r.ema = Ema::Ramp(f64::NAN)), "ema");
    refused(with(|r| r.inversion_steps = 0), "inversion_steps");
    refused(with(|r| r.single_timestep = 1000), "single_timestep");
    refused(with(|r| r.timesteps = [2, 1]), "timesteps");
    refused(with(|r| r.timesteps = [0, 1000]), "timesteps");

    let shape = Trainer::new(config(), tiny_tensor(&[3, 4, 4, 6]), Device::Cpu).err().unwrap();
    assert!(matches!(shape, Error::Shape { arg: "features", .. }), "{shape}");
    let none = Trainer::new(config(), tiny_tensor(&[0, 4, 4, 5]), Device::Cpu).err().unwrap();
    assert!(matches!(none, Error::Shape { arg: "features", .. }), "{none}");
}

fn tiny_tensor(shape: &[usize]) -> Tensor {
    Tensor::from_f32(vec![0.5; shape.iter().product()], shape, Device::Cpu).unwrap()
}

#[test]
fn evaluations_of_a_recipe() {
    let of = |recipe: &Recipe| {
        (recipe.inversion_steps, recipe.single_timestep, recipe.timesteps, recipe.loss_weight)
    };
    let (whitened, paper) = (Recipe::whitened(), Recipe::paper());
    assert_eq!(of(&whitened), (1, 250, [50, 400], LossWeight::Uniform));
    assert_eq!(whitened.candidates, [250, 100]);
    assert_eq!(of(&paper), (3, 100, [0, 999], LossWeight::Uniform));
    let [early, late] = [100, 600].map(|t| whitened.clone().with_timestep(t));
    assert_eq!(of(&early), (1, 100, [25, 200], LossWeight::Uniform));
    assert_eq!(of(&late), (1, 600, [150, 999], LossWeight::Uniform));
    let several = whitened.with_evaluations(3);
    assert_eq!(of(&several), (3, 250, [0, 999], LossWeight::Middle));
    // What the user asks for is not chosen anew.
    assert!([early, late, several].iter().all(|recipe| recipe.candidates.is_empty()));
    assert_eq!(paper.clone().with_evaluations(3), paper);
}

#[test]
fn steps_of_a_recipe() {
    let steps =
        |steps, batch, images| Recipe::paper().steps(steps).batch(batch).training_steps(images, 3);
    assert_eq!(steps(Steps::Fixed(1000), 8, 5), 1000);
    assert_eq!(steps(Steps::PerCategory(1000), 8, 75), 3000);
    assert_eq!(steps(Steps::PerCategory(1000), 8, 74), 2960);
    assert_eq!(steps(Steps::PerCategory(u64::MAX), 8, 5), 200);
    assert_eq!(steps(Steps::Epochs(300), 8, 209), 300 * 26);
    assert_eq!(steps(Steps::Epochs(300), 8, 3), 300);
    // Settings that training refuses later.
    assert_eq!(steps(Steps::Epochs(u64::MAX), 1, 5), u64::MAX);
    assert_eq!(steps(Steps::Epochs(2), 0, 5), 10);
}
