//! Tiny networks, features and pictures.

use std::sync::OnceLock;

use image::{Rgb, RgbImage};
use invad::backbones::{self, EfficientNet, Loaded};
use invad::checkpoint::{BackboneId, Checkpoint, Recipe, TrainingConfig, TrainingState};
use invad::denoisers::{Denoiser, DitConfig};
use invad::weights::Weights;
use invad::{Detector, Device, Tensor, Trainer};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::numbers::{Numbers, bits, tensor, uniform};

/// EfficientNet-Lite0 on a device.
pub fn lite0(device: Device) -> Loaded {
    Loaded::new(backbones::named("efficientnet-lite0").unwrap(), device).unwrap()
}

/// The tensors of an EfficientNet, of numbers in [-1, 1) by a tensor's name and length, in sizes that keep activations
/// in bounds: names, shapes and values.
pub fn efficientnet_numbers(
    network: &EfficientNet,
    numbers: impl Fn(&str, usize) -> Vec<f32>,
) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let tensors = network.tensors().into_iter().map(|(name, shape)| {
        let fan_in: usize = shape[1..].iter().product();
        let norm = name.contains("_bn");
        let (offset, scale) = match name.rsplit('.').next() {
            Some("running_mean") => (0.0, 0.2),
            Some("running_var") => (1.0, 0.5),
            Some("weight") if norm => (1.0, 0.2),
            Some("bias") => (0.0, if norm { 0.2 } else { 0.1 }),
            _ => (0.0, (5.0 / fan_in as f64).sqrt() as f32),
        };
        let mut values = numbers(&name, shape.iter().product());
        values.iter_mut().for_each(|v| *v = offset + scale * *v);
        (name, shape, values)
    });
    tensors.collect()
}

/// A file of them.
pub fn weights_of(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Weights {
    let bytes = tensors
        .iter()
        .map(|(_, _, values)| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() });
    let bytes: Vec<_> = bytes.collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    Weights::of_bytes("numbers", safetensors::serialize(views, None).unwrap()).unwrap()
}

/// The same of numbers that mean nothing.
pub fn any_efficientnet_weights(network: &EfficientNet) -> Weights {
    weights_of(&efficientnet_numbers(network, |name, n| {
        uniform(name.bytes().map(u64::from).sum::<u64>() + n as u64, n, 1.0)
    }))
}

/// A denoiser of a few thousand parameters.
pub fn tiny() -> DitConfig {
    DitConfig { channels: 5, grid: 4, width: 16, depth: 2, heads: 2, patch: 1 }
}

/// Both recipes, with batches of 4 and a rate at which a tiny network learns.
pub fn recipes() -> [Recipe; 2] {
    let small = |recipe: Recipe| recipe.batch(4).peak_rate(2e-3);
    [small(Recipe::whitened()), small(Recipe::paper())]
}

pub fn training(recipe: Recipe, steps: u64) -> TrainingConfig {
    TrainingConfig {
        recipe,
        denoiser: tiny().into(),
        backbone: BackboneId { name: "none".into(), hash: "0123".into(), image_size: 8 },
        seed: 7,
        steps,
        categories: vec!["dots".into(), "stripes".into()],
    }
}

/// Features of `images` images for [`tiny`], which lie close to a plane.
pub fn features(images: usize) -> Tensor {
    let c = tiny();
    let tokens = images * c.grid * c.grid;
    let (plane, rest) = (tensor(1, &[tokens, 2], 2.0), tensor(2, &[tokens, c.channels], 0.1));
    let (plane, mut x) = (plane.to_vec_f32(), rest.to_vec_f32());
    for (x, p) in x.chunks_exact_mut(c.channels).zip(plane.chunks_exact(2)) {
        for (i, x) in x.iter_mut().enumerate() {
            *x += p[0] * (i as f32 - 2.0) + p[1] + 0.5;
        }
    }
    Tensor::from_f32(x, &[images, c.grid, c.grid, c.channels], Device::Cpu).unwrap()
}

pub fn trainer(config: &TrainingConfig, images: usize) -> Trainer {
    Trainer::new(config.clone(), features(images), Device::Cpu).unwrap()
}

/// A trainer after `steps` steps.
pub fn trained(config: &TrainingConfig, images: usize, steps: u64) -> Trainer {
    let mut trainer = trainer(config, images);
    for _ in 0..steps {
        trainer.step().unwrap();
    }
    trainer
}

/// The bits of everything that training changes.
pub fn state_bits(state: &TrainingState) -> [Vec<u32>; 4] {
    [&state.parameters, &state.ema, &state.m, &state.v].map(bits)
}

/// What `run` returns on a pool of so many threads.
pub fn on_threads<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
}

/// Parameters none of which is 0, as after training.
pub fn parameters(dit: &dyn Denoiser, seed: u64) -> Tensor {
    let mut values = dit.init(seed, Device::Cpu).unwrap().to_vec_f32();
    let noise = tensor(seed + 1, &[dit.len()], 0.1).to_vec_f32();
    values.iter_mut().zip(noise).for_each(|(v, n)| *v += n);
    Tensor::from_f32(values, &[dit.len()], Device::Cpu).unwrap()
}

/// What a picture shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Stripes,
    Dots,
}

/// A picture, a little different for each `seed`.
pub fn picture(kind: Kind, seed: u64, width: u32, height: u32) -> RgbImage {
    let mut numbers = Numbers::new(seed + 1000 * kind as u64);
    let shift = numbers.below(8) as u32;
    RgbImage::from_fn(width, height, |x, y| {
        let bright = match kind {
            Kind::Stripes => ((x + shift) / 4).is_multiple_of(2),
            Kind::Dots => (x + shift) % 8 < 3 && y % 8 < 3,
        };
        let value = if bright { 190 } else { 60 };
        let mut channel = |v: u32| (v as usize + numbers.below(20)) as u8;
        Rgb([channel(value), channel(value + 10), channel(250 - value)])
    })
}

/// The same with a bright square.
pub fn defective(kind: Kind, seed: u64, width: u32, height: u32) -> RgbImage {
    let mut picture = picture(kind, seed, width, height);
    for (x, y) in (width / 2..width / 2 + 12).flat_map(|x| (10..22).map(move |y| (x, y))) {
        picture.put_pixel(x.min(width - 1), y.min(height - 1), Rgb([255, 40, 40]));
    }
    picture
}

pub fn pictures(kind: Kind, seeds: std::ops::Range<u64>) -> Vec<RgbImage> {
    seeds.map(|seed| picture(kind, seed, 48, 40)).collect()
}

/// A detector of stripes and dots, not calibrated.
pub fn checkpoint(recipe: Recipe, steps: u64) -> Checkpoint {
    let backbone = lite0(Device::Cpu);
    let [_, _, g, c] = backbone.spec().features().of(1);
    let images = [pictures(Kind::Stripes, 0..6), pictures(Kind::Dots, 0..6)].concat();
    let mut features = tensor(0, &[images.len(), g, g, c], 0.0);
    backbone.extract(&images, &mut features, &mut Default::default()).unwrap();
    let config = TrainingConfig {
        denoiser: DitConfig { channels: c, grid: g, width: 32, depth: 1, heads: 2, patch: 1 }
            .into(),
        backbone: backbone.spec().into(),
        ..training(recipe, steps)
    };
    let mut trainer = Trainer::new(config, features, Device::Cpu).unwrap();
    for _ in 0..steps {
        trainer.step().unwrap();
    }
    trainer.into_checkpoint().unwrap()
}

/// Held-out pictures of a category.
pub fn held_out(kind: Kind) -> Vec<RgbImage> {
    pictures(kind, 100..107)
}

/// A calibrated detector, made once for all tests.
pub fn detector() -> &'static Detector {
    static DETECTOR: OnceLock<Detector> = OnceLock::new();
    DETECTOR.get_or_init(|| {
        let [whitened, _] = recipes();
        let mut detector = Detector::new(checkpoint(whitened, 12)).unwrap();
        detector.calibrate("stripes", &held_out(Kind::Stripes), &[]).unwrap();
        detector.calibrate("dots", &held_out(Kind::Dots), &[]).unwrap();
        detector
    })
}
