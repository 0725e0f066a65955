//! Training on a GPU, against the CPU's and against its own plan.

use invad::checkpoint::{LossScale, Recipe, TrainingConfig, TrainingState};
use invad::denoisers::{Denoiser, Dit, DitConfig, FeatureShape, Recompute};
use invad::train::{Average, Memory, Resources, StepReport};
use invad::{DType, Device, Error, Tensor, Trainer};

use crate::alone::passes_alone;
use crate::inversion::difference;
use crate::support::emulator::{gpu, is_emulated, parts, peak_memory};
use crate::support::networks::*;
use crate::support::numbers::{bits, tensor};

/// 16 tokens, two heads of 32.
const SMALL: DitConfig =
    DitConfig { channels: 8, grid: 4, width: 64, depth: 1, heads: 2, patch: 1 };

fn config(recipe: Recipe, steps: u64) -> TrainingConfig {
    TrainingConfig { denoiser: SMALL.into(), ..training(recipe, steps) }
}

/// Features close to a plane.
fn images(count: usize) -> Tensor {
    let tokens = 16 * count;
    let plane = tensor(1, &[tokens, 2], 2.0).to_vec_f32();
    let mut x = tensor(2, &[tokens, 8], 0.1).to_vec_f32();
    for (x, p) in x.chunks_exact_mut(8).zip(plane.chunks_exact(2)) {
        x.iter_mut().enumerate().for_each(|(i, x)| *x += p[0] * (i as f32 - 3.5) / 3.0 + p[1]);
    }
    Tensor::from_f32(x, &[count, 4, 4, 8], Device::Cpu).unwrap()
}

fn start(config: &TrainingConfig, resources: impl Into<Resources>) -> Trainer {
    Trainer::new(config.clone(), images(5), resources).unwrap()
}

fn advance(trainer: &mut Trainer, steps: usize) {
    for _ in 0..steps {
        trainer.step().unwrap();
    }
}

fn losses(trainer: &mut Trainer, steps: usize) -> Vec<f64> {
    (0..steps)
        .map(|_| {
            let report = trainer.step().unwrap();
            assert!(!report.skipped, "{report:?}");
            report.loss
        })
        .collect()
}

#[test]
fn losses_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for recipe in recipes() {
        let config = config(recipe, 200);
        let (mut here, mut there) = (start(&config, Device::Cpu), start(&config, gpu));
        let (want, got) = (losses(&mut here, 200), losses(&mut there, 200));
        for (k, (got, want)) in got.chunks(20).zip(want.chunks(20)).enumerate() {
            let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
            let (got, want) = (mean(got), mean(want));
            println!("{} steps {}: {got:.5} for {want:.5}", config.recipe.name, 20 * k);
            let off = (got / want - 1.0).abs();
            assert!(off < 1e-2, "steps {} on: {got} for {want}", 20 * k);
        }
        let mean = |losses: &[f64]| losses.iter().sum::<f64>();
        let (first, last) = (mean(&want[..50]), mean(&want[150..]));
        assert!(last < 0.9 * first, "{first} {last}");
        let off = difference(&there.state().ema, &here.state().ema);
        println!("{}: parameters differ by {off:.1e}", config.recipe.name);
        assert!(off < 2e-2, "{off:.1e}");
    }
}

/// The quickstart's training, with fewer images and steps.
#[test]
fn quickstart_shortened() {
    let Some(gpu) = gpu() else { return };
    let backbone = lite0(Device::Cpu);
    let [_, _, g, c] = backbone.spec().features().of(1);
    let images = [pictures(Kind::Stripes, 0..4), pictures(Kind::Dots, 0..4)].concat();
    let mut features = tensor(0, &[images.len(), g, g, c], 0.0);
    backbone.extract(&images, &mut features, &mut Default::default()).unwrap();
    let config = TrainingConfig {
        denoiser: DitConfig::small(FeatureShape { grid: g, channels: c }).into(),
        ..training(Recipe::whitened().batch(4), 60)
    };
    let run = |device: Device| {
        let mut trainer = Trainer::new(config.clone(), features.clone(), device).unwrap();
        let losses = losses(&mut trainer, 6);
        // The parameters are brought from the GPU in several parts.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("training.safetensors");
        trainer.state().save(&path).unwrap();
        assert!(state_bits(&TrainingState::load(&path).unwrap()) == state_bits(trainer.state()));
        losses
    };
    for (k, (got, want)) in run(gpu).into_iter().zip(run(Device::Cpu)).enumerate() {
        println!("step {k}: {got:.5} for {want:.5}");
        assert!((got / want - 1.0).abs() < 5e-3, "step {k}: {got} for {want}");
    }
}

/// Everything that can be asked of a trainer after some steps.
fn outcome(trainer: &Trainer) -> ([Vec<u32>; 4], Option<LossScale>) {
    (state_bits(trainer.state()), trainer.state().loss_scale)
}

fn ways(device: Device) -> [Resources; 3] {
    let all = Resources::from(device);
    let host = Average::Host { every: 3 };
    [
        all,
        all.moments(DType::BF16).average(host),
        all.micro_batch(Some(2))
            .memory(Memory::Recompute(Recompute::Blocks))
            .loss_scale(2f64.powi(24)),
    ]
}

#[test]
fn same_bits_again_and_resumed() {
    let Some(gpu) = gpu() else { return };
    let [whitened, _] = recipes();
    let config = config(whitened, 8);
    let folder = tempfile::tempdir().unwrap();
    for resources in ways(gpu) {
        let run = || {
            let mut trainer = start(&config, resources);
            advance(&mut trainer, 8);
            trainer
        };
        let whole = outcome(&run());
        assert!(outcome(&run()) == whole, "{resources:?}");
        for stop in [1, 4, 7] {
            let mut trainer = start(&config, resources);
            advance(&mut trainer, stop);
            let path = folder.path().join("state");
            trainer.state().save(&path).unwrap();
            drop(trainer);
            let state = TrainingState::load(&path).unwrap();
            let mut resumed = Trainer::resume(state, &config, images(5), resources).unwrap();
            while !resumed.is_done() {
                resumed.step().unwrap();
            }
            assert!(outcome(&resumed) == whole, "{resources:?} stopped at {stop}");
        }
    }
}

#[test]
fn memory_does_not_change_what_is_learnt() {
    let Some(gpu) = gpu() else { return };
    let [whitened, _] = recipes();
    let config = TrainingConfig {
        denoiser: DitConfig { depth: 3, ..SMALL }.into(),
        ..config(whitened.batch(4), 4)
    };
    let run = |recompute, micro| {
        let resources =
            Resources::from(gpu).memory(Memory::Recompute(recompute)).micro_batch(Some(micro));
        let mut trainer = start(&config, resources);
        losses(&mut trainer, 4);
        trainer
    };
    let want = run(Recompute::Nothing, 4);
    // A block's forward pass is the same again.
    let again = run(Recompute::Blocks, 4);
    assert!(outcome(&again) == outcome(&want));
    for (recompute, micro) in [
        (Recompute::Normalisation, 4),
        (Recompute::Nothing, 1),
        (Recompute::Normalisation, 2),
        (Recompute::Blocks, 2),
    ] {
        let got = run(recompute, micro);
        let off = difference(&got.state().m, &want.state().m);
        println!("{recompute:?} in parts of {micro}: moments differ by {off:.1e}");
        assert!(off < 1e-2, "{recompute:?} in parts of {micro}: {off:.1e}");
    }
}

/// Moments in bf16, rounded at random, and the average on the host.
#[test]
fn smaller_states_learn_alike() {
    let Some(gpu) = gpu() else { return };
    let [whitened, _] = recipes();
    let config = config(whitened, 60);
    let run = |resources: Resources| {
        let mut trainer = start(&config, resources);
        let losses = losses(&mut trainer, 60);
        (losses[40..].iter().sum::<f64>(), trainer)
    };
    let ((want, there), (got, smaller)) = (run(gpu.into()), run(ways(gpu)[1]));
    println!("{got} for {want}");
    assert!((got / want - 1.0).abs() < 5e-2, "{got} for {want}");
    let off = difference(&smaller.into_checkpoint().unwrap().ema, &there.state().ema);
    println!("averages differ by {off:.1e}");
    assert!(off < 5e-2, "{off:.1e}");
}

#[test]
fn an_overflow_is_skipped_and_recovered_from() {
    let Some(gpu) = gpu() else { return };
    let [_, paper] = recipes();
    let config = config(paper, 60);
    let largest = 2f64.powi(24);
    let mut trainer = start(&config, Resources::from(gpu).loss_scale(largest));
    let before = state_bits(trainer.state());
    let first = trainer.step().unwrap();
    assert!(first.skipped && first.loss.is_finite(), "{first:?}");
    assert_eq!((first.step, first.loss_scale), (1, largest));
    assert!(state_bits(trainer.state()) == before, "a skipped step moves nothing");
    let reports: Vec<_> = (0..59).map(|_| trainer.step().unwrap()).collect();
    let skipped = 1 + reports.iter().filter(|r| r.skipped).count() as u64;
    let scale = trainer.state().loss_scale.unwrap();
    assert_eq!((scale.skipped, scale.streak), (skipped, 0));
    assert_eq!(scale.scale, largest / 2f64.powi(skipped as i32));
    assert!((2..12).contains(&skipped), "{scale:?}");
    let loss = |reports: &[StepReport]| reports.iter().map(|r| r.loss).sum::<f64>();
    let (first, last) = (loss(&reports[..20]), loss(&reports[39..]));
    println!("{first} to {last}");
    assert!(last < first, "it learns: {first} to {last}");
}

#[test]
fn a_streak_of_numbers_that_are_not_finite_stops() {
    let Some(gpu) = gpu() else { return };
    let [_, paper] = recipes();
    let config = config(paper, 100);
    let mut x = images(5);
    for image in 0..5 {
        x.view_mut().part(128 * image + 5, &[1]).unwrap().fill(f32::NAN).unwrap();
    }
    let mut trainer = Trainer::new(config.clone(), x, gpu).unwrap();
    let before = state_bits(trainer.state());
    let error = loop {
        if let Err(e) = trainer.step() {
            break e;
        }
    };
    let streak = LossScale::LONGEST_STREAK + 1;
    let Error::NonFinite { step, what: "the loss", last_good: 0 } = error else {
        panic!("{error}")
    };
    assert_eq!(step + 1, streak);
    assert!(state_bits(trainer.state()) == before);
    assert_eq!(trainer.step_count(), streak);
}

/// What lies in one allocation keeps apart: no kernel reads or writes beside the parameters, gradients,
/// moments and averages that it was given.
#[test]
fn kernels_keep_to_their_parameters() {
    let Some(gpu) = gpu() else { return };
    if !is_emulated() {
        return;
    }
    // Widths that are no multiples of the kernels' tiles.
    let denoiser = DitConfig { channels: 12, grid: 3, width: 72, depth: 2, heads: 3, patch: 1 };
    let features = tensor(1, &[5, 3, 3, 12], 1.0);
    let [whitened, _] = recipes();
    let config = TrainingConfig { denoiser: denoiser.into(), ..training(whitened, 3) };
    let run = || {
        Recompute::ALL.map(|recompute| {
            let resources =
                Resources::from(gpu).micro_batch(Some(2)).memory(Memory::Recompute(recompute));
            let mut trainer = Trainer::new(config.clone(), features.clone(), resources).unwrap();
            losses(&mut trainer, 3);
            state_bits(trainer.state())
        })
    };
    let want = run();

    let dit = Dit::new(denoiser).unwrap();
    let mut ends: Vec<usize> = Vec::new();
    let mut last = "";
    for p in dit.parameters() {
        // The modulations of all blocks are one linear layer.
        let shared = p.name.find("adaLN_modulation").map_or("", |at| &p.name[at..]);
        if shared.is_empty() || shared != last {
            ends.push(p.offset + p.len());
        } else {
            *ends.last_mut().unwrap() = p.offset + p.len();
        }
        last = shared;
    }
    assert_eq!(*ends.last().unwrap(), dit.len());
    parts(&ends);
    assert!(run() == want);
}

#[test]
fn features_beyond_f16_are_refused() {
    let Some(gpu) = gpu() else { return };
    let [_, paper] = recipes();
    let with = |number: f32| {
        let mut x = images(5);
        x.view_mut().part(77, &[1]).unwrap().fill(number).unwrap();
        Trainer::new(config(paper.clone(), 4), x, gpu)
    };
    assert!(with(65504.0).is_ok());
    let text = with(-65520.0).err().unwrap().to_string();
    assert_eq!(
        text,
        "Trainer: `features` should be within ±65504, as f16 holds them on a GPU, got -65520"
    );
}

#[test]
fn too_large() {
    let Some(gpu) = gpu() else { return };
    let [whitened, _] = recipes();
    let refused = |resources: Resources| {
        let config = config(whitened.clone(), 4);
        Trainer::new(config, images(5), resources).err().unwrap().to_string()
    };
    let text = refused(Resources::from(gpu).memory(Memory::Limit(1000)));
    assert!(text.starts_with("training on cuda:0 needs "), "{text}");
    assert!(text.contains("of it for workspace, and has 0.0 MB"), "{text}");
    assert!(text.ends_with("; moments in bf16 needs less"), "{text}");
}

/// Takes steps of a training, the first of its process, and compares the memory taken with the plan.
fn compare_with_plan(
    config: &TrainingConfig,
    features: Tensor,
    resources: Resources,
    steps: usize,
) {
    assert_eq!(peak_memory(), 0);
    let mut trainer = Trainer::new(config.clone(), features, resources).unwrap();
    advance(&mut trainer, steps);
    let plan = trainer.plan();
    for (purpose, bytes) in plan.bytes() {
        println!("{purpose:24} {bytes:>14}");
    }
    let taken = peak_memory();
    println!("{taken} bytes taken, {} planned for {resources:?}", plan.total());
    assert_eq!(taken, plan.total(), "{resources:?}");
}

/// Which case a process of its own is for.
const CASE: &str = "INVAD_TEST_CASE";

fn case<T: Clone>(cases: &[T]) -> T {
    let case: usize = std::env::var(CASE).unwrap().parse().unwrap();
    cases[case].clone()
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn memory_of_real_steps() {
    let Some(gpu) = gpu() else { return };
    let [whitened, _] = recipes();
    let cases = [
        (2, Recompute::Nothing, gpu.into()),
        (2, Recompute::Normalisation, ways(gpu)[1]),
        (3, Recompute::Blocks, Resources::from(gpu).micro_batch(Some(1))),
        (0, Recompute::Blocks, gpu.into()),
    ];
    let (depth, recompute, resources) = case(&cases);
    let config =
        TrainingConfig { denoiser: DitConfig { depth, ..SMALL }.into(), ..config(whitened, 2) };
    let memory = Memory::Recompute(recompute);
    compare_with_plan(&config, images(5), resources.memory(memory), 2);
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn memory_of_gigant() {
    let Some(gpu) = gpu() else { return };
    let [whitened, _] = recipes();
    let denoiser = DitConfig::gigant(FeatureShape { grid: 16, channels: 272 });
    let recipe = whitened.batch(8);
    let config = TrainingConfig { denoiser: denoiser.into(), ..training(recipe, 2) };
    let moments = case(&[DType::BF16, DType::F32]);
    let resources = Resources::from(gpu)
        .memory(Memory::Recompute(Recompute::Blocks))
        .average(Average::Host { every: 100 })
        .moments(moments);
    compare_with_plan(&config, tensor(1, &[8, 16, 16, 272], 1.0), resources, 1);
}

/// Every byte that training takes is planned.
#[test]
fn memory_is_what_was_planned() {
    gpu();
    if is_emulated() {
        for case in ["0", "1", "2", "3"] {
            println!("{}", passes_alone("training::memory_of_real_steps", &[(CASE, case)]));
        }
    }
}

/// A step of the largest denoiser, with every allocation made and nothing computed.
#[test]
fn memory_of_gigant_is_what_was_planned() {
    gpu();
    if is_emulated() {
        for case in ["0", "1"] {
            let variables = [(CASE, case), ("INVAD_EMULATOR_ALLOCATE_ONLY", "1")];
            println!("{}", passes_alone("training::memory_of_gigant", &variables));
        }
    }
}

/// What recorded steps compute follows batches, rates and scales that are not recorded.
#[test]
fn recorded_steps_are_the_first_step_again() {
    let Some(gpu) = gpu() else { return };
    let [whitened, _] = recipes();
    let config = config(whitened, 3);
    let mut whole = start(&config, gpu);
    advance(&mut whole, 3);
    // Each step the first of its trainer.
    let mut state = None;
    for _ in 0..3 {
        let mut trainer = match state.take() {
            None => start(&config, gpu),
            Some(state) => Trainer::resume(state, &config, images(5), gpu).unwrap(),
        };
        trainer.step().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        trainer.state().save(&path).unwrap();
        state = Some(TrainingState::load(&path).unwrap());
    }
    let state = state.unwrap();
    assert!(bits(&state.parameters) == bits(&whole.state().parameters));
    assert!(bits(&state.ema) == bits(&whole.state().ema));
}
