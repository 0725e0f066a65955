//! Sections `lite0`, `lite1`, …: EfficientNet-Lite with ImageNet weights, which the crate has of Lite0 alone. Those of the
//! others are read from the file that `INVAD_LITE1_WEIGHTS` and so on name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use invad::Device;
use invad::backbones::EfficientNet;
use invad::weights::Weights;
use serde_json::Value;

use crate::efficientnet::{Pixels, compare_all, compare_block, compare_features};
use crate::golden::{Golden, Problem, Trials, shared, trial};
use crate::library;
use crate::naive::{self, Stored};
use crate::place::places;

/// Whether a section is one of these.
pub fn is_lite(section: &str) -> bool {
    section.strip_prefix("lite").is_some_and(|k| k.parse::<u32>().is_ok())
}

/// The file of a network's weights; `section` has the hash of the one that its authors distribute.
fn weights(name: &str, section: &Value) -> Result<PathBuf, Problem> {
    if name == "lite0" {
        return Ok(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/efficientnet-lite0.safetensors")
        );
    }
    let variable = format!("INVAD_{}_WEIGHTS", name.to_uppercase());
    let Some(path) = std::env::var_os(&variable).map(PathBuf::from) else {
        return Err(Problem::Missing(format!("{variable} names no file of its weights")));
    };
    if path.extension().is_some_and(|extension| extension == "pth") {
        let hash = Weights::open(&path).and_then(|weights| weights.hash());
        let (hash, want) = (hash.map_err(|e| e.to_string())?, section["sha256"].as_str());
        if want.is_some_and(|want| want != hash) {
            let reason = format!("{}: SHA-256 {hash}, not {want:?}", path.display());
            return Err(reason.into());
        }
    }
    Ok(path)
}

pub fn trials(golden: &'static Golden, name: &'static str, section: &'static Value) -> Trials {
    let tensors = golden.tensors(name)?;
    let path = weights(name, section)?;
    let taps: Vec<usize> = serde_json::from_value(section["outblocks"].clone())
        .map_err(|e| format!("manifest: `outblocks`: {e}"))?;
    let image = match tensors.get("image_u8_256") {
        Ok(image) => image.clone(),
        // That of Lite0 is every network's.
        Err(_) => golden.tensors("lite0")?.get("image_u8_256")?.clone(),
    };
    let want = tensors.get("features")?.data.clone();
    let [h, w, 3] = image.shape[..] else {
        return Err(format!("image_u8_256: {:?}", image.shape))?;
    };
    let image = Pixels::Bytes { rgb: image.u8s(), shape: [1, 3, h, w] };
    let network = EfficientNet::named(&format!("efficientnet-{name}"));
    let network = network.map_err(|e| e.to_string())?.taps(taps.clone());

    let plain = naive::Plain::of_blocks(&section["blocks_k_s_e_in_out_se_act"])?;
    let [plain, halves] = [Stored::F32, Stored::F16].map(|stored| {
        let (network, image, taps) = (network.clone(), image.clone(), taps.clone());
        let (plain, path) = (plain.clone(), path.clone());
        shared(move || {
            let weights = Weights::open(path).map_err(|e| e.to_string())?;
            let values = network.tensors().into_iter().map(|(name, shape)| {
                let values = weights.f32s(&name, &shape).map_err(|e| e.to_string())?;
                Ok((name, values))
            });
            let values = values.collect::<Result<BTreeMap<_, _>, String>>()?;
            naive::efficientnet(&plain, values, &image, &taps, stored)
        })
    });
    let mut trials = Vec::new();
    let (all, naive, own) = (want.clone(), halves.clone(), plain.clone());
    trials.push(trial(format!("{name}/features of the plain computation"), move || {
        compare_all(Device::Cpu, &own, &all, &naive)
    }));
    for place in places() {
        let device = place.device;
        let Pixels::Bytes { rgb, .. } = image.clone() else { unreachable!("it is made above") };
        let (want, naive) = (want.clone(), halves.clone());
        let (all, file) = (network.clone(), path.clone());
        trials.push(trial(place.label(format!("{name}/features")), move || {
            let weights = Weights::open(file).map_err(|e| e.to_string())?;
            let got = library::efficientnet::features(all, weights, &rgb, [h, w], device)?;
            compare_features(device, got, &want, &naive)
        }));
        let (network, image, taps) = (network.clone(), image.clone(), taps.clone());
        let path = path.clone();
        let outputs = shared(move || {
            let weights = Weights::open(path).map_err(|e| e.to_string())?;
            library::efficientnet::blocks(&network, &weights, &image, &taps, device)
        });
        for (block, want) in tensors.under("blockstats.") {
            let i: usize = block.parse().map_err(|_| format!("`blockstats.{block}`"))?;
            let (want, got) = (want.data.clone(), outputs.clone());
            let naive = [halves.clone(), plain.clone()];
            trials.push(trial(place.label(format!("{name}/blockstats.{block}")), move || {
                compare_block(device, i, &got, naive.each_ref(), &want)
            }));
        }
    }
    Ok(trials)
}
