//! What every registered kind of denoisers has to hold, tried on the smallest network of the kind.

use std::sync::Arc;

use invad::denoisers::{
    self, Denoiser, DenoiserId, FeatureShape, Parameters, Recompute, Trainable, Training, Use,
};
use invad::device::{Plan, Purpose};
use invad::{DType, Device, Error, Precision, Tensor};

use crate::support::emulator::{gpu, is_emulated, peak_memory};
use crate::support::networks::{on_threads, parameters};
use crate::support::numbers::{bits, f64s, tensor};
use crate::{LISTS, alone, assert_few, bytes, difference};

const FEATURES: FeatureShape = FeatureShape { grid: 4, channels: 8 };
const TIMESTEPS: [usize; 3] = [0, 250, 999];

/// Runs a test of each kind, one at a time.
fn each(test: impl Fn(&str, Arc<dyn Denoiser>)) {
    let _alone = alone();
    let kinds = denoisers::kinds();
    assert!(!kinds.is_empty());
    for kind in kinds {
        test(kind.name, (kind.smallest)(FEATURES).unwrap());
    }
}

fn how(device: Device, recompute: Recompute) -> Training {
    Training { precision: Precision::of(device), recompute }
}

/// Forward and backward passes of a network, with everything that they need.
struct Passes {
    network: Box<dyn Trainable>,
    full: Tensor,
    half: Option<Tensor>,
    x: Tensor,
    t: Tensor,
    out: Tensor,
    dout: Tensor,
    gradients: Tensor,
    dx: Tensor,
}

impl Passes {
    fn new(denoiser: &dyn Denoiser, device: Device, images: usize, way: Recompute) -> Self {
        let dtype = Precision::of(device).dtype();
        let on = |tensor: &Tensor, dtype| tensor.view().copied_to(device, dtype).unwrap();
        let shape = FEATURES.of(images);
        let full = parameters(denoiser, 5);
        let poisoned = || {
            let mut tensor = Tensor::zeros(&shape, dtype, device).unwrap();
            tensor.view_mut().fill(f32::NAN).unwrap();
            tensor
        };
        let times = (0..images).map(|i| TIMESTEPS[i % TIMESTEPS.len()] as f32).collect();
        Self {
            network: denoiser.trainable(images, how(device, way), &mut { device }).unwrap(),
            half: (dtype != DType::F32).then(|| on(&full, dtype)),
            full: on(&full, DType::F32),
            x: on(&tensor(1, &shape, 1.7), DType::F32),
            t: on(&Tensor::from_f32(times, &[images], Device::Cpu).unwrap(), DType::F32),
            out: poisoned(),
            dout: on(&tensor(2, &shape, 1.0), dtype),
            gradients: Tensor::zeros(&[denoiser.len()], DType::F32, device).unwrap(),
            dx: poisoned(),
        }
    }

    fn forward(&mut self) -> invad::Result<()> {
        let parameters = Parameters { full: &self.full, half: self.half.as_ref() };
        self.network.forward(parameters, self.x.view(), self.t.view(), self.out.view_mut())
    }

    fn backward(&mut self) -> invad::Result<()> {
        let parameters = Parameters { full: &self.full, half: self.half.as_ref() };
        let dx = Some(self.dx.view_mut());
        self.network.backward(parameters, self.dout.view(), &mut self.gradients, dx)
    }

    fn both(&mut self) -> [Vec<f64>; 3] {
        self.gradients.view_mut().fill(0.0).unwrap();
        self.forward().unwrap();
        self.backward().unwrap();
        let all = [&self.out, &self.gradients, &self.dx].map(f64s);
        assert!(all.iter().flatten().all(|v| v.is_finite()));
        all
    }

    /// Σ dout·out, whose gradients the backward pass returns.
    fn loss(&mut self) -> f64 {
        self.forward().unwrap();
        f64s(&self.out).iter().zip(f64s(&self.dout)).map(|(a, b)| a * b).sum()
    }
}

fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

#[test]
fn files_can_name_it() {
    each(|name, denoiser| {
        let id = denoiser.id();
        assert_eq!(id.kind, name);
        let json = serde_json::to_string(&id).unwrap();
        let read: DenoiserId = serde_json::from_str(&json).unwrap();
        assert_eq!(read, id);
        let again = denoisers::read(&read).unwrap();
        assert_eq!(again.parameters(), denoiser.parameters());
        assert_eq!((again.features(), again.id()), (FEATURES, id));
        let mut other = read.clone();
        other.sizes.insert("flavour".into(), 3.into());
        assert!(matches!(denoisers::read(&other), Err(Error::Argument { .. })), "{name}");
    });
}

#[test]
fn parameters_lie_one_behind_the_other() {
    each(|name, denoiser| {
        let mut end = 0;
        for p in denoiser.parameters() {
            assert_eq!(p.offset, end, "{name}: {}", p.name);
            end += p.len();
        }
        assert_eq!(denoiser.len(), end);
        let names: std::collections::BTreeSet<_> =
            denoiser.parameters().iter().map(|p| &p.name).collect();
        assert_eq!(names.len(), denoiser.parameters().len(), "{name}: names");
        let fresh = |seed| bits(&denoiser.init(seed, Device::Cpu).unwrap());
        assert!(fresh(1) == fresh(1) && fresh(1) != fresh(2), "{name}: seeds");
        let mut left = denoiser.parameters().iter();
        let mut handed = |p: &denoisers::Parameter, numbers: &[f32]| {
            assert_eq!((Some(p), numbers.len()), (left.next(), p.len()), "{name}");
            assert!(numbers.iter().all(|v| v.is_finite()));
            Ok(())
        };
        denoiser.init_each(1, &mut handed).unwrap();
        assert_eq!(left.next(), None);
    });
}

/// Along one direction for each parameter, and for x.
#[test]
fn gradients_are_finite_differences() {
    each(|name, denoiser| {
        let mut passes = Passes::new(&*denoiser, Device::Cpu, 3, Recompute::Nothing);
        let [_, gradients, dx] = passes.both();
        let (full, x) = (passes.full.to_vec_f32(), passes.x.to_vec_f32());
        let mut compare = |what: &str, want: f64, at: &mut dyn FnMut(&mut Passes, f32)| {
            // Of several steps the best: what is too small drowns in rounding, what is too large bends.
            let errors = [1e-2, 3e-3, 1e-3, 3e-4, 1e-4].map(|h: f32| {
                at(&mut passes, h);
                let up = passes.loss();
                at(&mut passes, -h);
                let got = (up - passes.loss()) / (2.0 * f64::from(h));
                at(&mut passes, 0.0);
                (got - want).abs()
            });
            let best = errors.into_iter().fold(f64::INFINITY, f64::min);
            assert!(best <= 1e-2 * want.abs() + 2e-2, "{name}: {what}: {want} is off by {best}");
        };
        for p in denoiser.parameters() {
            let direction = tensor(p.offset as u64, &[p.len()], 1.0).to_vec_f32();
            let want = dot(&gradients[p.offset..][..p.len()], &direction);
            compare(&p.name, want, &mut |passes, h| {
                let mut moved = full.clone();
                for (v, d) in moved[p.offset..].iter_mut().zip(&direction) {
                    *v += h * d;
                }
                passes.full.view_mut().copy_from_slice(&moved).unwrap();
            });
        }
        let direction = tensor(77, &[x.len()], 1.0).to_vec_f32();
        compare("x", dot(&dx, &direction), &mut |passes, h| {
            let moved: Vec<f32> = x.iter().zip(&direction).map(|(v, d)| v + h * d).collect();
            passes.x.view_mut().copy_from_slice(&moved).unwrap();
        });
        assert!(gradients.iter().filter(|g| **g != 0.0).count() > gradients.len() / 2, "{name}");
    });
}

#[test]
fn gradients_are_added_up() {
    each(|name, denoiser| {
        let mut passes = Passes::new(&*denoiser, Device::Cpu, 2, Recompute::Nothing);
        let [_, once, _] = passes.both();
        passes.gradients.view_mut().fill(3.0).unwrap();
        passes.forward().unwrap();
        passes.backward().unwrap();
        let more: Vec<f64> = f64s(&passes.gradients).iter().map(|g| g - 3.0).collect();
        assert!(difference(&more, &once) < 1e-5, "{name}");
    });
}

/// To the bit on the CPU; a GPU computes again from what it has rounded to f16.
#[test]
fn what_is_computed_again_is_the_same() {
    each(|name, denoiser| {
        for (device, most) in [(Some(Device::Cpu), 0.0), (gpu(), 1e-3)] {
            let Some(device) = device else { continue };
            let run = |way| Passes::new(&*denoiser, device, 2, way).both();
            let ways = denoiser.recompute();
            let first = run(ways[0]);
            for &way in ways {
                for (got, want) in run(way).iter().zip(&first) {
                    let off = difference(got, want);
                    assert!(off <= most, "{name}: {way:?} on {device}: {off:.1e}");
                }
            }
        }
    });
}

/// On the CPU neither threads nor the images beside it change an image's bits.
#[test]
fn images_do_not_see_each_other() {
    each(|name, denoiser| {
        let parameters = parameters(&*denoiser, 5);
        let packed = denoiser.pack(&parameters, &TIMESTEPS, Device::Cpu, Precision::F32).unwrap();
        let x = tensor(1, &FEATURES.of(5), 1.7).to_vec_f32();
        let len = x.len() / 5;
        let run = |threads, images: usize| {
            on_threads(threads, || {
                let evaluated = x.chunks(images * len).flat_map(|x| {
                    let shape = FEATURES.of(x.len() / len);
                    let x = Tensor::from_f32(x.to_vec(), &shape, Device::Cpu).unwrap();
                    let mut out = tensor(9, &shape, f32::NAN);
                    let evaluator = packed.clone().evaluator(shape[0], &mut Device::Cpu);
                    evaluator.unwrap().evaluate(1, x.view(), out.view_mut()).unwrap();
                    bits(&out)
                });
                evaluated.collect::<Vec<_>>()
            })
        };
        let want = run(1, 5);
        for (threads, images) in [(1, 1), (1, 2), (3, 5), (3, 1), (2, 3)] {
            assert!(run(threads, images) == want, "{name}: {threads} threads, {images} at once");
        }
        let train = |threads| {
            on_threads(threads, || {
                Passes::new(&*denoiser, Device::Cpu, 3, Recompute::Nothing).both()
            })
        };
        assert!(train(1) == train(3), "{name}: training on threads");
    });
}

/// A packed network is the network, at each of its timesteps, on each device.
#[test]
fn packed_networks() {
    each(|name, denoiser| {
        for device in [Some(Device::Cpu), gpu()].into_iter().flatten() {
            let mut passes = Passes::new(&*denoiser, device, 2, Recompute::Nothing);
            let (parameters, precision) = (parameters(&*denoiser, 5), Precision::of(device));
            let packed = denoiser.pack(&parameters, &TIMESTEPS, device, precision).unwrap();
            let mut evaluator = packed.evaluator(2, &mut { device }).unwrap();
            for (i, t) in TIMESTEPS.into_iter().enumerate() {
                passes.t.view_mut().fill(t as f32).unwrap();
                passes.forward().unwrap();
                let want = f64s(&passes.out);
                passes.out.view_mut().fill(f32::NAN).unwrap();
                evaluator.evaluate(i, passes.x.view(), passes.out.view_mut()).unwrap();
                let off = difference(&f64s(&passes.out), &want);
                let tolerance = if device == Device::Cpu { 2e-6 } else { 2e-3 };
                assert!(off < tolerance, "{name}: t = {t} on {device}: {off:.1e}");
            }
            let x = passes.x.view();
            let refused = evaluator.evaluate(3, x, passes.out.view_mut()).unwrap_err();
            assert!(matches!(refused, Error::Argument { arg: "timestep", .. }), "{refused}");
        }
    });
}

/// Up to roundings to f16, which add up along deep networks: a U-Net's gradients of groups of few numbers are 1.5e-2 off,
/// those of a transformer 4e-4. Golden files hold networks of usual sizes to less.
#[test]
fn the_gpu_computes_what_the_cpu_does() {
    each(|name, denoiser| {
        let Some(gpu) = gpu() else { return };
        let run = |device| Passes::new(&*denoiser, device, 3, Recompute::Nothing).both();
        let (here, there) = (run(Device::Cpu), run(gpu));
        for (what, (got, want)) in ["out", "gradients", "dx"].iter().zip(there.iter().zip(&here)) {
            let off = difference(got, want);
            println!("{name}: {what}: {off:.1e}");
            let tolerance = if name == "unet" { 3e-2 } else { 2e-3 };
            assert!(off < tolerance, "{name}: {what}: {off:.1e}");
        }
    });
}

/// What is recorded once gives the same bits as what is queued again.
#[test]
#[cfg(feature = "cuda")]
fn recorded_work_is_the_same() {
    use invad::cuda::Graph;

    each(|name, denoiser| {
        let Some(gpu) = gpu() else { return };
        let parameters = parameters(&*denoiser, 5);
        let packed = denoiser.pack(&parameters, &TIMESTEPS, gpu, Precision::F16).unwrap();
        let mut evaluator = packed.evaluator(2, &mut { gpu }).unwrap();
        let mut passes = Passes::new(&*denoiser, gpu, 2, Recompute::Nothing);
        evaluator.evaluate(1, passes.x.view(), passes.out.view_mut()).unwrap();
        let want = bits(&passes.out);
        let work = || evaluator.evaluate(1, passes.x.view(), passes.out.view_mut());
        let mut recorded = Graph::record(gpu, work).unwrap();
        passes.out.view_mut().fill(f32::NAN).unwrap();
        recorded.run().unwrap();
        assert!(bits(&passes.out) == want, "{name}: evaluation");

        let want = passes.both();
        let mut recorded = Graph::record(gpu, || {
            passes.forward()?;
            passes.backward()
        });
        for tensor in [&mut passes.out, &mut passes.dx] {
            tensor.view_mut().fill(f32::NAN).unwrap();
        }
        passes.gradients.view_mut().fill(0.0).unwrap();
        recorded.as_mut().unwrap().run().unwrap();
        let got = [&passes.out, &passes.gradients, &passes.dx].map(f64s);
        assert!(got == want, "{name}: training");
    });
}

/// Memory is taken once, and as much of it as was planned.
#[test]
fn memory_is_what_was_planned() {
    each(|name, denoiser| {
        for device in [Some(Device::Cpu), gpu().filter(|_| is_emulated())].into_iter().flatten() {
            for &way in denoiser.recompute() {
                let mut plan = Plan::new(device);
                denoiser.trainable(3, how(device, way), &mut plan).unwrap();
                // What kernels leave to each other is taken once in a process.
                let planned: usize =
                    plan.bytes().filter(|(of, _)| *of != Purpose::Workspace).map(|of| of.1).sum();
                let mut passes = Passes::new(&*denoiser, device, 3, way);
                passes.both();
                let take =
                    || drop(denoiser.trainable(3, how(device, way), &mut { device }).unwrap());
                let what = format!("{name}, {way:?} on {device}");
                if device == Device::Cpu {
                    let (taken, _) = bytes(take);
                    assert!(
                        (planned..planned + 4 * LISTS).contains(&taken),
                        "{what}: {taken} {planned}"
                    );
                    // Products of so few rows or columns are the `gemm` crate's on every machine, some for each
                    // layer.
                    let products = denoiser.parameters().len() * (32 << 10);
                    assert_few(&what, products, || {
                        passes.forward().unwrap();
                        passes.backward().unwrap();
                    });
                } else {
                    peak_memory();
                    let before = peak_memory();
                    take();
                    assert_eq!(peak_memory() - before, planned, "{what}");
                    peak_memory();
                    passes.forward().unwrap();
                    passes.backward().unwrap();
                    assert_eq!(peak_memory(), before, "{what}: taken by passes");
                }
            }
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    each(|name, denoiser| {
        let absent = Device::Cuda(4096);
        for purpose in [Use::Inference, Use::Training] {
            let refused = denoiser.require(absent, purpose, Precision::F16).unwrap_err();
            assert!(matches!(refused, Error::Unavailable { .. }), "{name}: {refused}");
            let refused = denoiser.require(Device::Cpu, purpose, Precision::F16).unwrap_err();
            assert!(matches!(refused, Error::Argument { .. }), "{name}: {refused}");
        }
        let short = tensor(1, &[denoiser.len() - 1], 1.0);
        let refused = denoiser.pack(&short, &TIMESTEPS, Device::Cpu, Precision::F32).unwrap_err();
        assert!(matches!(refused, Error::Shape { arg: "parameters", .. }), "{name}: {refused}");
        let refused = denoiser.pack(&short, &TIMESTEPS, absent, Precision::F16).unwrap_err();
        assert!(!matches!(refused, Error::OutOfMemory { .. }), "{name}: {refused}");
        let mut passes = Passes::new(&*denoiser, Device::Cpu, 2, Recompute::Nothing);
        for other in [FEATURES.of(3), [2, 4, 4, 9], [2, 4, 5, 8]] {
            passes.x = tensor(1, &other, 1.0);
            let refused = passes.forward().unwrap_err();
            assert!(matches!(refused, Error::Shape { .. }), "{name}: {other:?}: {refused}");
        }
        let mut passes = Passes::new(&*denoiser, Device::Cpu, 2, Recompute::Nothing);
        passes.full = short;
        assert!(matches!(passes.forward(), Err(Error::Shape { .. })), "{name}");
    });
}
