use invad::denoisers::{Denoiser, Dit, DitConfig, Recompute, Training};
use invad::diffusion::{
    Inverter, Parameterisation, Process, Reconstructor, Schedule, reconstruction_errors,
};
use invad::{DType, Device, Error, Precision, Tensor, ops};

use crate::support::networks::*;
use crate::support::numbers::{assert_close, bits, f64s, poisoned, tensor};

const BOTH: [Parameterisation; 2] = [Parameterisation::Epsilon, Parameterisation::Velocity];

fn features_of(c: &DitConfig, images: usize, seed: u64) -> Tensor {
    tensor(seed, &[images, c.grid, c.grid, c.channels], 1.7)
}

/// ᾱ_t in f64, from its definition.
fn alpha(t: usize) -> f64 {
    (0..=t).map(|s| 1.0 - (1e-4 + (0.02 - 1e-4) * s as f64 / 999.0)).product()
}

/// A fresh network returns 0. With velocity prediction that is the best linear denoiser of
/// whitened features, whose inversion is a product of factors: with F = 0 the noise is
/// ε̂ = √(1−ᾱ)·x and the clean feature x̂₀ = √ᾱ·x.
#[test]
fn without_an_output_layer() {
    let dit = Dit::new(tiny()).unwrap();
    let fresh = dit.init(3, Device::Cpu).unwrap();
    let x = features_of(&tiny(), 3, 1);
    for steps in [1, 2, 3, 5, 10] {
        for parameterisation in BOTH {
            let inverter =
                Inverter::new(&dit, &fresh, parameterisation, steps, 100, Device::Cpu).unwrap();
            let mut space = inverter.workspace(3).unwrap();
            let mut z = x.clone();
            inverter.invert(&mut z, &mut space).unwrap();
            let times = inverter.timesteps();
            let mut factor = if steps == 1 { alpha(100).sqrt() } else { 1.0 };
            for (i, &t) in times.iter().enumerate() {
                let (from, to) = (alpha(t), times.get(i + 1).map_or(0.0, |&t| alpha(t)));
                factor *= to.sqrt() * from.sqrt() + (1.0 - to).sqrt() * (1.0 - from).sqrt();
            }
            match parameterisation {
                Parameterisation::Epsilon => {
                    assert!(z.to_vec_f32().iter().all(|&z| z == 0.0), "{steps} steps");
                }
                Parameterisation::Velocity => {
                    let want: Vec<f64> = f64s(&x).iter().map(|x| factor * x).collect();
                    assert_close(&format!("{steps} steps"), &f64s(&z), &want, 1e-6);
                }
                other => unreachable!("{other:?}"),
            }
        }
    }
}

/// The recursion of the method in f64, around what the network returns.
#[test]
fn steps_by_the_definition() {
    let dit = Dit::new(tiny()).unwrap();
    let parameters = parameters(&dit, 5);
    let cosine = Schedule::cosine(40).unwrap();
    for (steps, schedule) in [2, 3, 5].into_iter().flat_map(|n| [(n, None), (n, Some(&cosine))]) {
        for parameterisation in Parameterisation::ALL {
            let process = match schedule {
                Some(schedule) => Process { schedule: schedule.clone(), parameterisation },
                None => parameterisation.into(),
            };
            let inverter =
                Inverter::new(&dit, &parameters, process, steps, 0, Device::Cpu).unwrap();
            let mut space = inverter.workspace(2).unwrap();
            let mut x = features_of(&tiny(), 2, 2);
            let times = inverter.timesteps().to_vec();
            let alpha = |t| schedule.map_or(alpha(t), |schedule| schedule.alphas_cumprod()[t]);
            for (i, &t) in times.iter().enumerate() {
                let before = f64s(&x);
                let output = inverter.step(i, x.view_mut(), &mut space).unwrap().to_vec_f32();
                let (from, to) = (alpha(t), times.get(i + 1).map_or(0.0, |&t| alpha(t)));
                let want: Vec<f64> = before
                    .iter()
                    .zip(output)
                    .map(|(x, f)| {
                        let f = f64::from(f);
                        let epsilon = match parameterisation {
                            Parameterisation::Epsilon => f,
                            Parameterisation::Velocity => (1.0 - from).sqrt() * x + from.sqrt() * f,
                            Parameterisation::Clean => (x - from.sqrt() * f) / (1.0 - from).sqrt(),
                            Parameterisation::Residual => {
                                (x - from.sqrt() * (x - f)) / (1.0 - from).sqrt()
                            }
                        };
                        let clean = (x - (1.0 - from).sqrt() * epsilon) / from.sqrt();
                        to.sqrt() * clean + (1.0 - to).sqrt() * epsilon
                    })
                    .collect();
                assert_close(&format!("{steps} steps, {i}"), &f64s(&x), &want, 1e-6);
            }
        }
    }
}

#[test]
fn timesteps() {
    let dit = Dit::new(tiny()).unwrap();
    let parameters = parameters(&dit, 5);
    for (steps, want) in [
        (1, vec![100]),
        (2, vec![0, 999]),
        (3, vec![0, 500, 999]),
        (5, vec![0, 250, 500, 749, 999]),
    ] {
        let inverter = Inverter::new(&dit, &parameters, BOTH[0], steps, 100, Device::Cpu).unwrap();
        assert_eq!(inverter.timesteps(), want);
    }
    let refused =
        |steps, single| match Inverter::new(&dit, &parameters, BOTH[0], steps, single, Device::Cpu)
            .err()
            .unwrap()
        {
            Error::Argument { arg, .. } => arg,
            other => panic!("{other}"),
        };
    assert_eq!(refused(0, 100), "steps");
    assert_eq!(refused(1001, 100), "steps");
    assert_eq!(refused(1, 1000), "single_timestep");
    assert!((Schedule::linear().alphas_cumprod()[999] - alpha(999)).abs() < 1e-15);
}

/// Packed weights and one row of modulation for all images against the network as it is trained.
#[test]
fn packed_network() {
    for denoiser in [
        tiny(),
        DitConfig { patch: 2, ..tiny() },
        DitConfig { channels: 33, grid: 12, width: 72, depth: 1, heads: 3, patch: 1 },
        DitConfig { depth: 0, ..tiny() },
    ] {
        let dit = Dit::new(denoiser).unwrap();
        let parameters = parameters(&dit, 9);
        let times = [0, 1, 123, 500, 999];
        let precision = Precision::F32;
        let packed = dit.pack(&parameters, &times, Device::Cpu, precision).unwrap();
        for images in [1, 3] {
            let x = features_of(&denoiser, images, 4);
            let mut cpu = Device::Cpu;
            let mut packed = packed.clone().evaluator(images, &mut cpu).unwrap();
            let how = Training { precision, recompute: Recompute::Nothing };
            let mut whole = dit.trainable(images, how, &mut cpu).unwrap();
            for (i, &t) in times.iter().enumerate() {
                let (mut got, mut want) = (poisoned(x.shape()), poisoned(x.shape()));
                packed.evaluate(i, x.view(), got.view_mut()).unwrap();
                let t = Tensor::from_f32(vec![t as f32; images], &[images], Device::Cpu).unwrap();
                let from = (&parameters).into();
                whole.forward(from, x.view(), t.view(), want.view_mut()).unwrap();
                let case = format!("{denoiser:?}, {images} images, t {}", times[i]);
                assert!(f64s(&want).iter().any(|f| f.abs() > 0.1), "{case}");
                assert_close(&case, &f64s(&got), &f64s(&want), 2e-6);
            }
            let (mut out, beyond) = (poisoned(x.shape()), times.len());
            let refused = packed.evaluate(beyond, x.view(), out.view_mut()).unwrap_err();
            assert!(matches!(refused, Error::Argument { arg: "timestep", .. }), "{refused}");
        }
    }
}

#[test]
fn images_do_not_see_each_other() {
    for denoiser in [tiny(), DitConfig { channels: 33, grid: 12, width: 72, heads: 3, ..tiny() }] {
        let dit = Dit::new(denoiser).unwrap();
        let inverter =
            Inverter::new(&dit, &parameters(&dit, 5), BOTH[1], 3, 0, Device::Cpu).unwrap();
        let invert = |threads, images: usize| {
            on_threads(threads, || {
                let x = features_of(&denoiser, 5, 6).to_vec_f32();
                let len = x.len() / 5;
                let shape = [images, denoiser.grid, denoiser.grid, denoiser.channels];
                let mut latents = Vec::new();
                for x in x.chunks(images * len) {
                    let shape = [x.len() / len, shape[1], shape[2], shape[3]];
                    let mut z = Tensor::from_f32(x.to_vec(), &shape, Device::Cpu).unwrap();
                    let mut space = inverter.workspace(shape[0]).unwrap();
                    inverter.invert(&mut z, &mut space).unwrap();
                    latents.extend(bits(&z));
                }
                latents
            })
        };
        let want = invert(1, 5);
        for (threads, images) in [(1, 1), (1, 2), (3, 5), (3, 1), (2, 3)] {
            assert!(invert(threads, images) == want, "{threads} threads, {images} at once");
        }
    }
}

/// The score of the latent, as by the operation.
#[test]
fn scores_are_those_of_the_latent() {
    let dit = Dit::new(tiny()).unwrap();
    let parameters = parameters(&dit, 5);
    for steps in [1, 2, 3] {
        for parameterisation in BOTH {
            let inverter =
                Inverter::new(&dit, &parameters, parameterisation, steps, 100, Device::Cpu)
                    .unwrap();
            let mut space = inverter.workspace(3).unwrap();
            let mut z = features_of(&tiny(), 3, 6);
            inverter.invert(&mut z, &mut space).unwrap();
            let tokens = z.view().part(0, &[3, 16, 5]).unwrap();
            let (mut map, mut stats) = (poisoned(&[3, 16]), poisoned(&[3, ops::SCORE_STATS]));
            ops::score(tokens, &mut map, &mut stats).unwrap();
            for _ in 0..2 {
                let mut x = features_of(&tiny(), 3, 6);
                let (got_map, got) = inverter.score(&mut x, &mut space).unwrap();
                assert_eq!((got_map.shape(), got.shape()), (map.shape(), stats.shape()));
                assert_eq!(got_map.to_vec_f32(), map.to_vec_f32(), "{steps} steps");
                assert_eq!(got.to_vec_f32(), stats.to_vec_f32(), "{steps} steps");
            }
        }
    }
}

#[test]
fn other_shapes_are_refused() {
    let dit = Dit::new(tiny()).unwrap();
    let fresh = dit.init(3, Device::Cpu).unwrap();
    let short = Tensor::from_f32(vec![0.0; dit.len() - 1], &[dit.len() - 1], Device::Cpu).unwrap();
    let refused = Inverter::new(&dit, &short, BOTH[0], 3, 0, Device::Cpu).err().unwrap();
    assert!(matches!(refused, Error::Shape { arg: "parameters", .. }), "{refused}");
    let inverter = Inverter::new(&dit, &fresh, BOTH[0], 3, 0, Device::Cpu).unwrap();
    let mut space = inverter.workspace(2).unwrap();
    for shape in [[3, 4, 4, 5], [2, 4, 4, 6], [2, 4, 5, 5]] {
        let refused = inverter.invert(&mut tensor(1, &shape, 1.0), &mut space).unwrap_err();
        assert!(matches!(refused, Error::Shape { arg: "x", .. }), "{refused}");
        let refused = inverter.score(&mut tensor(1, &shape, 1.0), &mut space).unwrap_err();
        assert!(matches!(refused, Error::Shape { arg: "x", .. }), "{refused}");
    }
    let other = Inverter::new(&dit, &fresh, BOTH[0], 3, 0, Device::Cpu).unwrap();
    let mut x = tensor(1, &[2, 4, 4, 5], 1.0);
    for refused in [
        other.invert(&mut x, &mut space).unwrap_err(),
        other.score(&mut x, &mut space).unwrap_err(),
        Reconstructor::new(other, 1).unwrap().reconstruct(&mut x, &mut space).unwrap_err(),
    ] {
        assert!(matches!(refused, Error::Argument { arg: "space", .. }), "{refused}");
    }
}

#[test]
fn errors_of_a_reconstruction_are_means_of_squares() {
    let (x, y) = (tensor(1, &[2, 3, 3, 5], 2.0), tensor(2, &[2, 3, 3, 5], 2.0));
    let got = reconstruction_errors(&x, &y).unwrap();
    let (x, y) = (f64s(&x), f64s(&y));
    for image in 0..2 {
        let mut sum = 0.0;
        for cell in 0..9 {
            let at = (image * 9 + cell) * 5;
            let want = (at..at + 5).map(|i| (x[i] - y[i]).powi(2)).sum::<f64>() / 5.0;
            assert!((f64::from(got.maps[image][cell]) - want).abs() <= 1e-6 * want);
            sum += want / 9.0;
        }
        assert!((got.means[image] - sum).abs() <= 1e-12 * sum);
    }
    let refused =
        reconstruction_errors(&tensor(1, &[2, 3, 3, 5], 1.0), &tensor(1, &[2, 3, 5, 3], 1.0));
    assert!(matches!(refused, Err(Error::Shape { arg: "reconstruction", .. })), "{refused:?}");
    for empty in [[1, 0, 0, 4], [1, 2, 2, 0]] {
        let empty = Tensor::zeros(&empty, DType::F32, Device::Cpu).unwrap();
        assert!(reconstruction_errors(&empty, &empty).is_err());
    }
}

#[test]
fn reconstructions_begin_at_a_step_that_there_is() {
    let dit = Dit::new(tiny()).unwrap();
    let fresh = dit.init(3, Device::Cpu).unwrap();
    let inverter = |steps| Inverter::new(&dit, &fresh, BOTH[0], steps, 0, Device::Cpu).unwrap();
    for (steps, step) in [(3, 3), (1, 1), (2, usize::MAX)] {
        let refused = Reconstructor::new(inverter(steps), step).unwrap_err();
        assert!(matches!(refused, Error::Argument { arg: "noise_step", .. }), "{refused}");
    }
    let method = Reconstructor::new(inverter(5), 3).unwrap();
    assert_eq!(method.timesteps().collect::<Vec<_>>(), [500, 250, 0]);
    let (x, noise) = (tensor(1, &[2, 4, 4, 5], 1.0), tensor(2, &[1, 4, 4, 5], 1.0));
    let noised = method.noised(&x, &noise).unwrap();
    let alpha = Schedule::linear().alphas_cumprod()[749];
    for (i, (got, x)) in f64s(&noised).iter().zip(f64s(&x)).enumerate() {
        let want = alpha.sqrt() * x + (1.0 - alpha).sqrt() * f64s(&noise)[i % 80];
        assert!((got - want).abs() <= 1e-6, "{got} {want}");
    }
    for shape in [&[2usize, 4, 4, 5][..], &[1, 4, 5, 4], &[1]] {
        let refused = method.noised(&x, &tensor(2, shape, 1.0)).unwrap_err();
        assert!(matches!(refused, Error::Shape { arg: "noise", .. }), "{refused}");
    }
    let mut space = method.workspace(2).unwrap();
    let mut x = noised.clone();
    let refused = method.step(5, x.view_mut(), &mut space).unwrap_err();
    assert!(matches!(refused, Error::Argument { arg: "step", .. }), "{refused}");
}
