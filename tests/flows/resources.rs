//! What a training may use changes its memory, and its numbers no more than it must.

use invad::checkpoint::{Ema, TrainingConfig, TrainingState};
use invad::denoisers::{Dit, DitConfig, FeatureShape, Recompute};
use invad::device::Purpose;
use invad::train::{Average, Memory, Resources};
use invad::{DType, Device, Error, Trainer};
use tempfile::tempdir;

use crate::support::networks::*;
use crate::support::numbers::{assert_close, f64s};

fn with(config: &TrainingConfig, resources: Resources) -> Trainer {
    Trainer::new(config.clone(), features(6), resources).unwrap()
}

fn recomputing(way: Recompute) -> Resources {
    Resources::default().memory(Memory::Recompute(way))
}

/// After `steps` steps: the state's bits, and the losses and norms.
fn run(
    config: &TrainingConfig,
    resources: Resources,
    steps: u64,
) -> ([Vec<u32>; 4], Vec<[u64; 2]>) {
    let mut trainer = with(config, resources);
    let reports = (0..steps).map(|_| trainer.step().unwrap());
    let numbers = reports.map(|r| [r.loss.to_bits(), r.gradient_norm.to_bits()]).collect();
    (state_bits(trainer.state()), numbers)
}

#[test]
fn what_is_computed_again_is_the_same() {
    for recipe in recipes() {
        for depth in [0, 1, 2, 5] {
            // Wide enough that every operation is split.
            let denoiser = DitConfig { depth, width: 96, heads: 3, ..tiny() };
            let config =
                TrainingConfig { denoiser: denoiser.into(), ..training(recipe.clone(), 6) };
            for micro_batch in [None, Some(2)] {
                let of = |way| run(&config, recomputing(way).micro_batch(micro_batch), 6);
                let kept = of(Recompute::Nothing);
                for way in [Recompute::Normalisation, Recompute::Blocks] {
                    assert!(of(way) == kept, "{} depth {depth} {way:?}", config.recipe.name);
                }
            }
        }
    }
}

#[test]
fn micro_batches_add_up() {
    for recipe in recipes() {
        let config = training(recipe.batch(12), 8);
        let step = |micro_batch| {
            let mut trainer = with(&config, Resources::default().micro_batch(micro_batch));
            let report = trainer.step().unwrap();
            (report.loss, report.gradient_norm, f64s(&trainer.state().m))
        };
        let (loss, norm, m) = step(None);
        assert_eq!(step(Some(12)), (loss, norm, m.clone()));
        for micro in [1, 2, 3, 4, 6] {
            let (part_loss, part_norm, part_m) = step(Some(micro));
            let case = format!("{} in parts of {micro}", config.recipe.name);
            assert_eq!(part_loss, loss, "{case}: losses are of single images");
            assert!((part_norm / norm - 1.0).abs() < 1e-6, "{case}: {part_norm} for {norm}");
            // After one step the first moment is the gradient times a number.
            assert_close(&case, &part_m, &m, 2e-6);
        }
    }
}

#[test]
fn average_on_the_host() {
    let [whitened, _] = recipes();
    for ema in [Ema::Ramp(0.995), Ema::Constant(0.9)] {
        let config = training(whitened.clone().ema(ema), 20);
        let resources = Resources::default().average(Average::Host { every: 6 });
        let mut trainer = with(&config, resources);
        let mut here = with(&config, Resources::default());
        let mut want = f64s(&trainer.state().parameters);
        let mut update = |trainer: &Trainer, steps: std::ops::Range<u64>| {
            let decay: f64 = steps.map(|i| config.recipe.ema.decay(i)).product();
            for (w, p) in want.iter_mut().zip(f64s(&trainer.state().parameters)) {
                *w = decay * *w + (1.0 - decay) * p;
            }
            want.clone()
        };
        for k in 1..=20 {
            trainer.step().unwrap();
            here.step().unwrap();
            if k % 6 == 0 {
                let want = update(&trainer, k - 6..k);
                assert_close(&format!("step {k}"), &f64s(&trainer.state().ema), &want, 1e-6);
            }
        }
        let moved = |trainer: &Trainer| {
            [&trainer.state().parameters, &trainer.state().m, &trainer.state().v].map(f64s)
        };
        assert!(moved(&trainer) == moved(&here));
        // What is left over counts in the detector.
        let want = update(&trainer, 18..20);
        assert_close("detector", &f64s(&trainer.into_checkpoint().unwrap().ema), &want, 1e-6);
    }
}

#[test]
fn resumed_between_two_averages_same_bits() {
    let [whitened, _] = recipes();
    let config = training(whitened, 11);
    let resources = Resources::default().average(Average::Host { every: 4 });
    let ends = |mut trainer: Trainer| {
        while !trainer.is_done() {
            trainer.step().unwrap();
        }
        (state_bits(trainer.state()), f64s(&trainer.into_checkpoint().unwrap().ema))
    };
    let whole = ends(with(&config, resources));
    let folder = tempdir().unwrap();
    for stop in [3, 4, 6, 10] {
        let mut trainer = with(&config, resources);
        for _ in 0..stop {
            trainer.step().unwrap();
        }
        let path = folder.path().join("state");
        trainer.state().save(&path).unwrap();
        let state = TrainingState::load(&path).unwrap();
        let resumed = Trainer::resume(state, &config, features(6), resources).unwrap();
        assert!(ends(resumed) == whole, "stopped at {stop}");
    }
}

#[test]
fn the_fastest_way_that_fits() {
    let [whitened, _] = recipes();
    let config = training(whitened, 3);
    let plan = |way| Resources::default().plan(&Dit::new(tiny()).unwrap(), 4, way).unwrap();
    let totals = Recompute::ALL.map(|way| plan(way).total());
    assert!(totals[0] > totals[1] && totals[1] > totals[2], "{totals:?}");
    let limited = |bytes| {
        let resources = Resources::default().memory(Memory::Limit(bytes));
        Trainer::new(config.clone(), features(6), resources)
    };
    for (i, way) in Recompute::ALL.into_iter().enumerate() {
        let trainer = limited(totals[i]).unwrap();
        assert_eq!((trainer.recompute(), trainer.plan()), (way, &plan(way)));
    }
    let kept = with(&config, Resources::default());
    assert_eq!((kept.recompute(), kept.plan()), (Recompute::Nothing, &plan(Recompute::Nothing)));

    let refused = limited(totals[2] - 1).err().unwrap();
    let Error::TooLarge { needed, available, largest, purpose, setting, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!((*needed, *available), (totals[2], totals[2] - 1));
    let (which, bytes) = plan(Recompute::Blocks).largest().unwrap();
    assert_eq!((purpose, *largest), (&which.to_string(), bytes));
    assert_eq!(setting, "a smaller micro-batch");
    let text = refused.to_string();
    assert!(text.starts_with("training on cpu needs 0."), "{text}");
    assert!(text.ends_with("a smaller micro-batch needs less"), "{text}");
}

#[test]
fn settings_that_make_a_plan_smaller() {
    let gigant = DitConfig::gigant(FeatureShape { grid: 16, channels: 272 });
    let gigant = Dit::new(gigant).unwrap();
    let on_gpu = |resources: Resources, way| {
        let device = Device::Cuda(0);
        resources.device(device).plan(&gigant, 8, way).unwrap()
    };
    let bytes = |plan: &invad::device::Plan, purpose| {
        plan.bytes().find(|(p, _)| *p == purpose).map_or(0, |(_, bytes)| bytes)
    };
    let fast = on_gpu(Resources::default(), Recompute::Nothing);
    let parameters = bytes(&fast, Purpose::Parameters);
    assert_eq!(bytes(&fast, Purpose::Half), parameters / 2);
    assert_eq!(bytes(&fast, Purpose::Gradients), parameters);
    assert_eq!(bytes(&fast, Purpose::Moments), 2 * parameters);
    assert_eq!(bytes(&fast, Purpose::Average), parameters);
    let host = Average::Host { every: 100 };
    let small = Resources::default().moments(DType::BF16).average(host);
    let plan = on_gpu(small, Recompute::Blocks);
    assert_eq!(bytes(&plan, Purpose::Moments), parameters);
    assert_eq!(bytes(&plan, Purpose::Average), 0);
    // What the method was published with took 28 GB on each of eight GPUs.
    assert!(plan.total() <= 18 << 30, "{}", plan.total());
    let exact = Resources::default().average(host);
    let plan = on_gpu(exact, Recompute::Blocks);
    assert!(plan.total() <= 23 << 30, "{}", plan.total());
}

#[test]
fn resources_out_of_range() {
    let [whitened, _] = recipes();
    let config = training(whitened, 3);
    let refused = |resources: Resources, argument: &str| match Trainer::new(
        config.clone(),
        features(6),
        resources,
    )
    .err()
    .unwrap()
    {
        Error::Argument { op: "Resources", arg, .. } => assert_eq!(arg, argument),
        other => panic!("{other}"),
    };
    let default = Resources::default;
    for micro in [0, 3, 5, 8] {
        refused(default().micro_batch(Some(micro)), "micro_batch");
    }
    refused(default().moments(DType::BF16), "moments");
    refused(default().moments(DType::F16), "moments");
    refused(default().average(Average::Host { every: 0 }), "average");
    for scale in [0.0, 0.5, 3.0, f64::NAN, f64::INFINITY, 2f64.powi(25)] {
        refused(default().loss_scale(scale), "loss_scale");
    }
}
