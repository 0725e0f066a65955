//! Tiny networks, features and pictures.

use std::sync::OnceLock;

use image::{Rgb, RgbImage};
use invad::backbones::{self, EfficientNet, Loaded, VitConfig};
use invad::checkpoint::{BackboneId, Checkpoint, Recipe, TrainingConfig, TrainingState};
use invad::denoisers::{Denoiser, DitConfig, FeatureShape};
use invad::weights::Weights;
use invad::{Detector, Device, Tensor, Trainer};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};

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
) -> Vec<Parameter> {
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

/// A file of them, of numbers that mean nothing.
pub fn any_efficientnet_weights(network: &EfficientNet) -> Weights {
    weights(&efficientnet_numbers(network, |name, n| {
        uniform(name.bytes().map(u64::from).sum::<u64>() + n as u64, n, 1.0)
    }))
}

/// A denoiser of a few thousand parameters.
pub fn tiny() -> DitConfig {
    DitConfig { channels: 5, grid: 4, width: 16, depth: 2, heads: 2, patch: 1 }
}

/// A tensor of a file: name, shape and numbers.
pub type Parameter = (String, Vec<usize>, Vec<f32>);

/// The parameters of a Vision Transformer under the names of facebookresearch; `fill` makes so many numbers of a name,
/// offset + scale·v with v in [−1, 1).
pub fn vit_parameters(
    c: &VitConfig,
    fill: impl Fn(&str, usize, f64, f32) -> Vec<f32>,
) -> Vec<Parameter> {
    let d = c.width;
    let mut shapes = vec![
        ("cls_token".to_owned(), vec![1, 1, d]),
        ("pos_embed".to_owned(), vec![1, c.positions.pow(2) + 1, d]),
        ("patch_embed.proj.weight".to_owned(), vec![d, 3, c.patch, c.patch]),
        ("patch_embed.proj.bias".to_owned(), vec![d]),
        ("norm.weight".to_owned(), vec![d]),
        ("norm.bias".to_owned(), vec![d]),
    ];
    if c.registers > 0 {
        shapes.push(("register_tokens".into(), vec![1, c.registers, d]));
    }
    if c.layer_scale {
        shapes.push(("mask_token".into(), vec![1, d]));
    }
    for i in 0..c.depth {
        for (part, shape) in [
            ("norm1", vec![d]),
            ("attn.qkv", vec![3 * d, d]),
            ("attn.proj", vec![d, d]),
            ("norm2", vec![d]),
            ("mlp.fc1", vec![4 * d, d]),
            ("mlp.fc2", vec![d, 4 * d]),
        ] {
            shapes.push((format!("blocks.{i}.{part}.bias"), vec![shape[0]]));
            shapes.push((format!("blocks.{i}.{part}.weight"), shape));
        }
        for part in ["ls1", "ls2"].iter().filter(|_| c.layer_scale) {
            shapes.push((format!("blocks.{i}.{part}.gamma"), vec![d]));
        }
    }
    let parameter = |(name, shape): (String, Vec<usize>)| {
        let (scale, offset) = match name.rsplit_once('.') {
            None => (0.3, 0.0),
            Some((_, "gamma")) => (0.25, 0.5),
            Some((_, "bias")) => (0.1, 0.0),
            Some((layer, _)) if layer.contains("norm") => (0.2, 1.0),
            Some(_) => ((3.0 / shape[1..].iter().product::<usize>() as f64).sqrt(), 0.0),
        };
        let values = fill(&name, shape.iter().product(), scale, offset);
        (name, shape, values)
    };
    shapes.into_iter().map(parameter).collect()
}

/// A file of safetensors.
pub fn weights(tensors: &[Parameter]) -> Weights {
    Weights::of_bytes("made for a test", safetensors(tensors)).unwrap()
}

/// Its bytes.
pub fn safetensors(tensors: &[Parameter]) -> Vec<u8> {
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let data: Vec<_> = tensors.iter().map(|(_, _, values)| bytes(values)).collect();
    let views = tensors.iter().zip(&data).map(|((name, shape, _), data)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    serialize(views, None).unwrap()
}

/// Parameters that look like nothing.
pub fn random_vit(config: &VitConfig) -> Vec<Parameter> {
    vit_parameters(config, |name, len, scale, offset| {
        let seed =
            name.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        uniform(seed, len, scale as f32).into_iter().map(|v| v + offset).collect()
    })
}

/// A Vision Transformer of a few thousand parameters, with all that one may have.
pub fn tiny_vit() -> VitConfig {
    let named = VitConfig::named("dinov2-vits14-reg").unwrap().width(16).depth(3).heads(2);
    named.patch(4).positions(5).image_size(24).registers(3).blocks(vec![0, 2]).norm(true)
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
    checkpoint_with(recipe, steps, |FeatureShape { grid, channels }| DitConfig {
        channels,
        grid,
        width: 32,
        depth: 1,
        heads: 2,
        patch: 1,
    })
}

/// The same with another network.
pub fn checkpoint_with(
    recipe: Recipe,
    steps: u64,
    network: impl FnOnce(FeatureShape) -> DitConfig,
) -> Checkpoint {
    let backbone = lite0(Device::Cpu);
    let [_, _, g, c] = backbone.spec().features().of(1);
    let images = [pictures(Kind::Stripes, 0..6), pictures(Kind::Dots, 0..6)].concat();
    let mut features = tensor(0, &[images.len(), g, g, c], 0.0);
    backbone.extract(&images, &mut features, &mut Default::default()).unwrap();
    let config = TrainingConfig {
        denoiser: network(backbone.spec().features()).into(),
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
