//! Whole inversions and detectors on a GPU, against the CPU's.

use std::ops::Range;

use invad::checkpoint::Recipe;
use invad::denoisers::{Denoiser, Dit, DitConfig, Mlp, MlpConfig, Unet, UnetConfig};
use invad::detect::ScoreOptions;
use invad::diffusion::{Inverter, Parameterisation};
use invad::{DType, Detector, Device, Error, Precision, Products, Tensor, ops};

use crate::alone::passes_alone;
use crate::support::emulator::gpu;
use crate::support::networks::*;
use crate::support::numbers::{bits, tensor};

const BOTH: [Parameterisation; 2] = [Parameterisation::Epsilon, Parameterisation::Velocity];

/// Root mean square of the difference, in parts of that of `want`.
pub fn difference(got: &Tensor, want: &Tensor) -> f64 {
    let (got, want) = (got.to_vec_f32(), want.to_vec_f32());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = got.iter().zip(&want).map(|(g, w)| square(g - w)).sum();
    (error / want.iter().map(|&w| square(w)).sum::<f64>()).sqrt()
}

/// A network with head size 32 and 64 tokens, and one with patches of two.
fn networks() -> [DitConfig; 2] {
    let small = DitConfig { channels: 24, grid: 8, width: 64, depth: 2, heads: 2, patch: 1 };
    [small, DitConfig { channels: 12, heads: 1, patch: 2, ..small }]
}

#[test]
fn latents_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for config in networks() {
        let dit = Dit::new(config).unwrap();
        let parameters = parameters(&dit, 5);
        let shape = [3, config.grid, config.grid, config.channels];
        let x = tensor(1, &shape, 1.7);
        for (steps, parameterisation) in [(1, BOTH[0]), (1, BOTH[1]), (3, BOTH[0]), (3, BOTH[1])] {
            let inverted = |device| {
                let inverter =
                    Inverter::new(&dit, &parameters, parameterisation, steps, 100, device).unwrap();
                assert_eq!(inverter.device(), device);
                let mut z = x.view().copied_to(device, DType::F32).unwrap();
                inverter.invert(&mut z, &mut inverter.workspace(3).unwrap()).unwrap();
                z
            };
            let off = difference(&inverted(gpu), &inverted(Device::Cpu));
            println!("{config:?} {parameterisation:?} {steps} steps: {off:.1e}");
            assert!(off < 2e-3, "{config:?} {parameterisation:?} {steps} steps: {off:.1e}");
        }
    }
}

/// In int8 the GPU is closer to the CPU in int8 than that is to itself in f32.
#[test]
fn int8_is_that_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let config = DitConfig { channels: 24, grid: 8, width: 64, depth: 2, heads: 2, patch: 1 };
    let dit = Dit::new(config).unwrap();
    let parameters = parameters(&dit, 5);
    let shape = [3, config.grid, config.grid, config.channels];
    let x = tensor(1, &shape, 1.7);
    let inverted = |device, products| {
        let precision = Precision::of(device).with_products(products);
        let (kind, evaluations) = (BOTH[1], (1, 100));
        let inverter =
            Inverter::in_precision(&dit, &parameters, kind, evaluations, device, precision)
                .unwrap();
        let mut z = x.view().copied_to(device, DType::F32).unwrap();
        inverter.invert(&mut z, &mut inverter.workspace(3).unwrap()).unwrap();
        z
    };
    let int8 = Some(Products::Int8);
    let on_cpu = inverted(Device::Cpu, int8);
    let (off, coarse) = (
        difference(&inverted(gpu, int8), &on_cpu),
        difference(&on_cpu, &inverted(Device::Cpu, None)),
    );
    println!("off by {off:.1e}, int8 from f32 by {coarse:.1e}");
    assert!(coarse > 1e-3 && off < 0.7 * coarse, "{off:.1e} {coarse:.1e}");
}

/// Map and stats of an inversion whose last step is fused with the score: those of the latent, and
/// recorded work gives the same bits again, whatever else the workspace has recorded in between.
#[test]
fn scores_are_those_of_the_latent() {
    let Some(gpu) = gpu() else { return };
    for (config, (steps, parameterisation)) in
        networks().into_iter().flat_map(|c| [(1, BOTH[0]), (3, BOTH[1])].map(|case| (c, case)))
    {
        let dit = Dit::new(config).unwrap();
        let parameters = parameters(&dit, 5);
        let inverter = Inverter::new(&dit, &parameters, parameterisation, steps, 100, gpu).unwrap();
        let mut space = inverter.workspace(3).unwrap();
        let x = tensor(1, &[3, 8, 8, config.channels], 1.7);
        let mut z = x.view().copied_to(gpu, DType::F32).unwrap();
        inverter.invert(&mut z, &mut space).unwrap();
        let tokens = z.view().part(0, &[3, 64, config.channels]).unwrap();
        let mut want = [[3, 64], [3, 5]].map(|shape| poisoned(&shape, gpu));
        let [map, stats] = &mut want;
        ops::score(tokens, map, stats).unwrap();
        let mut first = None;
        for again in 0..3 {
            if again == 2 {
                z.view_mut().copy_from_slice(&x.to_vec_f32()).unwrap();
                inverter.invert(&mut z, &mut space).unwrap();
            }
            z.view_mut().copy_from_slice(&x.to_vec_f32()).unwrap();
            let (map, stats) = inverter.score(&mut z, &mut space).unwrap();
            let got = [map.to_vec_f32(), stats.to_vec_f32()];
            for (got, want) in got.iter().zip(&want) {
                let got = Tensor::from_f32(got.clone(), want.shape(), Device::Cpu).unwrap();
                let off = difference(&got, want);
                assert!(off < 1e-6, "{config:?} {steps} steps: {off:.1e}");
            }
            assert_eq!(*first.get_or_insert(got.clone()), got);
        }
    }
}

fn poisoned(shape: &[usize], gpu: Device) -> Tensor {
    let mut tensor = Tensor::zeros(shape, DType::F32, gpu).unwrap();
    tensor.view_mut().fill(f32::NAN).unwrap();
    tensor
}

/// A recorded inversion gives the same bits as the first, and follows another x.
#[test]
fn recorded_inversions_repeat() {
    let Some(gpu) = gpu() else { return };
    let dit = Dit::new(networks()[0]).unwrap();
    let inverter = |seed| Inverter::new(&dit, &parameters(&dit, seed), BOTH[1], 3, 0, gpu).unwrap();
    let (one, other) = (inverter(5), inverter(6));
    let mut spaces = [&one, &other].map(|inverter| inverter.workspace(2).unwrap());
    let x = tensor(1, &[2, 8, 8, 24], 1.7).to_vec_f32();
    let mut z = Tensor::zeros(&[2, 8, 8, 24], DType::F32, gpu).unwrap();
    let mut run = |which: usize, z: &mut Tensor| {
        z.view_mut().copy_from_slice(&x).unwrap();
        [&one, &other][which].invert(&mut *z, &mut spaces[which]).unwrap();
        bits(z)
    };
    let first = run(0, &mut z);
    assert_eq!(run(0, &mut z), first);
    assert_eq!(run(0, &mut z), first);
    let mut elsewhere = Tensor::zeros(&[2, 8, 8, 24], DType::F32, gpu).unwrap();
    assert_eq!(run(0, &mut elsewhere), first);
    let second = run(1, &mut elsewhere);
    assert_ne!(second, first);
    assert_eq!(run(1, &mut elsewhere), second);
    assert_eq!(run(0, &mut z), first);
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(gpu) = gpu() else { return };
    let dit = Dit::new(networks()[0]).unwrap();
    let inverter = Inverter::new(&dit, &parameters(&dit, 5), BOTH[1], 3, 0, gpu).unwrap();
    let mut space = inverter.workspace(2).unwrap();
    let refused = inverter.invert(&mut tensor(1, &[2, 8, 8, 24], 1.0), &mut space).unwrap_err();
    assert!(matches!(refused, Error::Device { .. }), "{refused}");
    // Another inverter's workspace, which has recorded work on the same x.
    let other = Inverter::new(&dit, &parameters(&dit, 6), BOTH[1], 3, 0, gpu).unwrap();
    let mut x = Tensor::zeros(&[2, 8, 8, 24], DType::F32, gpu).unwrap();
    inverter.invert(&mut x, &mut space).unwrap();
    let refused = other.invert(&mut x, &mut space).unwrap_err();
    assert!(matches!(refused, Error::Argument { arg: "space", .. }), "{refused}");
    let mut three = Tensor::zeros(&[3, 8, 8, 24], DType::F32, gpu).unwrap();
    let refused = inverter.invert(&mut three, &mut space).unwrap_err();
    assert!(matches!(refused, Error::Shape { .. }), "{refused}");
}

/// The scores of a detector, calibrated on the CPU, are those of the CPU on every batch size.
#[test]
fn scores_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for recipe in recipes() {
        compare_scores(recipe, gpu);
    }
}

/// A detector of three evaluations, on the CPU.
fn calibrated(recipe: Recipe) -> Detector {
    let mut checkpoint = checkpoint(recipe, 30);
    checkpoint.config.recipe.inversion_steps = 3;
    let mut detector = Detector::new(checkpoint).unwrap();
    detector.calibrate("dots", &pictures(Kind::Dots, 20..30), &[]).unwrap();
    detector
}

fn compare_scores(recipe: Recipe, gpu: Device) {
    let (here, there) = (calibrated(recipe.clone()), calibrated(recipe).to_device(gpu).unwrap());
    assert_eq!((here.device(), there.device()), (Device::Cpu, gpu));
    let mut images = pictures(Kind::Dots, 40..49);
    images.extend((0..2).map(|seed| defective(Kind::Dots, seed, 48, 40)));
    let options = ScoreOptions::default().category(Some("dots".into()));
    let run = |detector: &Detector| detector.score_with(&images, &options).unwrap();
    let (want, got) = (run(&here), run(&there));
    for (got, want) in got.iter().zip(&want) {
        let off = (got.score - want.score).abs();
        println!("{:.4} for {:.4}", got.score, want.score);
        assert!(off < 0.05, "{} for {}", got.score, want.score);
        assert_eq!(got.is_anomalous, want.is_anomalous);
    }
    let again = run(&there);
    assert!(again.iter().zip(&got).all(|(a, b)| a == b), "recorded work gives the same scores");
}

/// Without cuBLASLt the bits of an image do not depend on its batch.
#[test]
fn images_are_on_their_own() {
    if gpu().is_some() {
        passes_alone("inversion::with_own_linear_layers", &[("INVAD_LINEAR", "own")]);
    }
}

#[test]
#[ignore = "run by the test before"]
fn with_own_linear_layers() {
    let gpu = gpu().unwrap();
    // Of so many images, and of one alone, tiles are of another size, and attention would be another kernel's.
    let images = 17;
    let (channels, grid, depth) = (24, 8, 1);
    let unet = UnetConfig {
        channels,
        grid,
        width: 32,
        channel_mult: vec![1, 2],
        res_blocks: 1,
        attention_downsample: vec![1, 2],
        head_size: 16,
    };
    let networks: [Box<dyn Denoiser>; 3] = [
        Box::new(
            Dit::new(DitConfig { channels, grid, width: 128, depth, heads: 4, patch: 1 }).unwrap(),
        ),
        Box::new(Mlp::new(MlpConfig { channels, grid, width: 128, depth }).unwrap()),
        Box::new(Unet::new(unet).unwrap()),
    ];
    let size = grid * grid * channels;
    let x = tensor(1, &[images, size], 1.7).to_vec_f32();
    for network in networks {
        let parameters = parameters(&*network, 5);
        let inverter = Inverter::new(&*network, &parameters, BOTH[1], 1, 100, gpu).unwrap();
        let inverted = |of: Range<usize>| {
            let shape = [of.len(), grid, grid, channels];
            let mut z = Tensor::zeros(&shape, DType::F32, gpu).unwrap();
            z.view_mut().copy_from_slice(&x[of.start * size..of.end * size]).unwrap();
            inverter.invert(&mut z, &mut inverter.workspace(of.len()).unwrap()).unwrap();
            bits(&z)
        };
        let all = inverted(0..images);
        for of in [0..1, 16..17, 2..5, 3..12] {
            let want = &all[of.start * size..of.end * size];
            assert!(inverted(of.clone()) == want, "{network:?}: images {of:?}");
        }
    }
    // And from bytes to scores.
    let [recipe, _] = recipes();
    let detector = calibrated(recipe).to_device(gpu).unwrap();
    let images = pictures(Kind::Dots, 40..45);
    let options = ScoreOptions::default().category(Some("dots".into()));
    let scored = |of: Range<usize>| detector.score_with(&images[of], &options).unwrap();
    let all = scored(0..5);
    for of in [0..1, 4..5, 1..4] {
        assert!(scored(of.clone()) == all[of.clone()], "scores of images {of:?}");
    }
}
