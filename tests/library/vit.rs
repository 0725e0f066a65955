//! Vision Transformers with the weights of files.

use std::fs;

use invad::backbones::{self, Backbone, Vit, VitConfig, vit};
use invad::tensor::TensorView;
use invad::weights::Weights;
use invad::{Device, Error, Precision, Tensor};

use crate::support::networks::{Parameter, random_vit, safetensors, tiny_vit, weights};
use crate::support::numbers::{bits, poisoned, uniform};

fn made(config: VitConfig, tensors: &[Parameter]) -> invad::Result<std::sync::Arc<dyn Backbone>> {
    vit("ours", config, weights(tensors))
}

#[test]
fn bytes_become_the_tokens_of_normalised_images() {
    let config = tiny_vit().mean([0.5, 0.4, 0.3]).std([0.25, 0.5, 0.2]);
    let tensors = random_vit(&config);
    let bytes: Vec<u8> =
        uniform(3, 2 * 24 * 24 * 3, 128.0).iter().map(|v| (v + 128.0) as u8).collect();
    let backbone = made(config.clone(), &tensors).unwrap();
    let spec = backbone.spec();
    assert_eq!((spec.image_size, spec.grid, spec.channels), (24, 6, 32));
    let packed = backbone.pack(Device::Cpu, Precision::F32).unwrap();
    let mut features = poisoned(&spec.features().of(2));
    let rgb = TensorView::from_bytes(&bytes, &spec.rgb(2)).unwrap();
    let mut extractor = packed.extractor(2, &mut { Device::Cpu }).unwrap();
    extractor.extract(rgb, features.view_mut()).unwrap();

    let pixel =
        |(i, v): (usize, &u8)| (f32::from(*v) / 255.0 - config.mean[i % 3]) / config.std[i % 3];
    let pixels = bytes.iter().enumerate().map(pixel).collect();
    let pixels = Tensor::from_f32(pixels, &spec.rgb(2), Device::Cpu).unwrap();
    let network = Vit::new(&config, weights(&tensors), [24, 24], Device::Cpu).unwrap();
    let mut tokens = poisoned(&[2, 36, 32]);
    network.tokens(&pixels, &mut tokens).unwrap();
    assert_eq!(bits(&features), bits(&tokens));
    // The class token and three registers come first.
    let mut all = poisoned(&[2, 40, 32]);
    network.tokens(&pixels, &mut all).unwrap();
    let skipped = bits(&all);
    assert_eq!(skipped[4 * 32..40 * 32], bits(&tokens)[..36 * 32]);

    let wrong = network.tokens(&pixels, &mut poisoned(&[2, 41, 32])).unwrap_err();
    assert!(matches!(wrong, Error::Shape { arg: "features", .. }), "{wrong}");
    let wrong = network.tokens(&poisoned(&[2, 24, 28, 3]), &mut tokens).unwrap_err();
    assert!(matches!(wrong, Error::Shape { arg: "images", .. }), "{wrong}");
}

#[test]
fn names_are_prepared() {
    for (name, parameters) in [
        ("vit-b16", 85_798_656),
        ("dino-vit-b16", 85_798_656),
        ("dinov2-vits14", 22_056_576),
        ("dinov2-vitb14", 86_580_480),
        ("dinov2-vitl14-reg", 304_368_640 + 4 * 1024),
        ("dinov2-vits14-reg", 22_056_576 + 4 * 384),
    ] {
        assert!(VitConfig::NAMES.contains(&name));
        let c = VitConfig::named(name).unwrap();
        let (d, gains) = (c.width, if c.layer_scale { 2 * c.width } else { 0 });
        let block = 12 * d * d + 13 * d + gains;
        let mask = if c.layer_scale { d } else { 0 };
        let embedded = 3 * c.patch.pow(2) * d + d;
        let tokens = (c.positions.pow(2) + 2 + c.registers) * d;
        assert_eq!(c.depth * block + embedded + tokens + mask + 2 * d, parameters, "{name}");
    }
    for name in VitConfig::NAMES {
        let c = VitConfig::named(name).unwrap();
        assert_eq!((c.image_size % c.patch, c.width / c.heads), (0, 64), "{name}");
        assert_eq!(c.norm, !name.starts_with("dinov2"), "{name}");
    }
    let none = VitConfig::named("dinov2-vith14").unwrap_err();
    assert!(none.to_string().contains("dinov2-vits14-reg"), "{none}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let config = tiny_vit();
    let tensors = random_vit(&config);
    let refused = |config: VitConfig| made(config, &tensors).unwrap_err().to_string();
    let side = refused(config.clone().patch(14).image_size(256));
    assert_eq!(side, "Vit: `image size` should be a multiple of the patch 14, as 252 is, got 256");
    for (other, what) in [
        (config.clone().blocks(vec![]), "blocks"),
        (config.clone().blocks(vec![2, 0]), "blocks"),
        (config.clone().blocks(vec![1, 1]), "blocks"),
        (config.clone().blocks(vec![3]), "blocks"),
        (config.clone().heads(3), "heads"),
        (config.clone().heads(0), "heads"),
        (config.clone().image_size(0), "image size"),
        (config.clone().patch(0), "patch"),
        (config.clone().depth(usize::MAX), "depth"),
        (config.clone().registers(usize::MAX), "registers"),
        (config.clone().eps(Some(f32::NAN)), "eps"),
    ] {
        let refused = refused(other);
        assert!(refused.contains(&format!("`{what}` should be")), "{refused}");
    }
}

#[test]
fn other_weights_are_named() {
    let config = tiny_vit();
    let without = |name: &str| {
        let mut tensors = random_vit(&config);
        tensors.retain(|(other, ..)| other != name);
        made(config.clone(), &tensors).unwrap_err().to_string()
    };
    for name in ["norm.weight", "blocks.1.ls2.gamma", "register_tokens", "blocks.0.attn.qkv.bias"] {
        let refused = without(name);
        assert!(refused.contains(&format!("missing: `{name}`")), "{refused}");
    }
    let tensors = random_vit(&config);
    for (other, what) in [
        (config.clone().depth(2).blocks(vec![1]), "no `blocks.2."),
        (config.clone().registers(0), "no `register_tokens`"),
        (config.clone().layer_scale(false), "no `blocks.0.ls1.gamma`"),
        (config.clone().width(32), "of another shape: "),
    ] {
        let refused = made(other, &tensors).unwrap_err();
        assert!(matches!(refused, Error::File { .. }), "{refused}");
        assert!(refused.to_string().contains(what), "{refused}");
    }
    let mut twice = random_vit(&config);
    let again = ("vit.norm.weight".to_owned(), vec![16], vec![1.0; 16]);
    twice.push(again);
    made(config.clone(), &twice).unwrap_err();
}

/// Features of other options are those of another backbone, and of a file's own epsilon others.
#[test]
fn options_and_the_files_epsilon_count() {
    let config = tiny_vit();
    let tensors = random_vit(&config);
    let hash = |config: VitConfig| made(config, &tensors).unwrap().spec().hash.clone();
    let own = hash(config.clone());
    assert_eq!(hash(config.clone()), own);
    for other in [
        config.clone().norm(false),
        config.clone().blocks(vec![1, 2]),
        config.clone().resampling(backbones::Resampling::Hub),
        config.clone().eps(Some(1e-5)),
    ] {
        assert_ne!(hash(other.clone()), own, "{other:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, beside) =
        (folder.path().join("model.safetensors"), folder.path().join("config.json"));
    fs::write(&file, safetensors(&tensors)).unwrap();
    let of_file = |config: VitConfig| {
        vit("ours", config, Weights::open(&file).unwrap()).map(|made| made.spec().hash.clone())
    };
    assert_eq!(of_file(config.clone()).unwrap(), own);
    for (text, eps) in [("{\"layer_norm_eps\": 1e-5}", 1e-5), ("{\"hidden_size\": 16}", 1e-6)] {
        fs::write(&beside, text).unwrap();
        let with = hash(config.clone().eps(Some(eps)));
        assert_eq!(of_file(config.clone()).unwrap(), with, "{text}");
        assert_eq!(of_file(config.clone().eps(Some(1e-6))).unwrap(), own, "what is said counts");
    }
    for text in ["{", "{\"layer_norm_eps\": \"small\"}", "{\"layer_norm_eps\": -1}"] {
        fs::write(&beside, text).unwrap();
        let refused = of_file(config.clone()).unwrap_err();
        assert!(refused.to_string().contains("config.json"), "{refused}");
    }
}
