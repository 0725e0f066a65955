//! Section `effnet_b4`: EfficientNet-B4 with weights by rule, padded in two ways.

use invad::Device;
use invad::backbones::EfficientNet;
use serde_json::Value;

use crate::efficientnet::{Pixels, compare_all, compare_block};
use crate::golden::{Golden, Problem, Trials, fill, shared, trial, unif, whole};
use crate::library;
use crate::naive::{self, Stored};
use crate::place::places;
use crate::support::networks::{efficientnet_numbers, weights};

/// The blocks whose outputs are features.
const TAPS: [usize; 4] = [1, 5, 9, 21];

/// What the tensors of a way to pad are called, the network that pads so, and the size of images it pads for.
const WAYS: [(&str, &str, &str, Option<usize>); 2] = [
    ("features", "blockstats.", "efficientnet-b4-reference", Some(380)),
    ("features_pad256", "blockstats_pad256.", "efficientnet-b4", None),
];

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("effnet_b4")?;
    let seed = whole(section, "seed")? as u64;
    let image = image(section, seed)?;
    let mut trials = Vec::new();
    for (features, statistics, name, pads_for) in WAYS {
        let Ok(want) = tensors.get(features).cloned() else { continue };
        let network = EfficientNet::named(name).map_err(|e| e.to_string())?;
        let numbers = {
            let network = network.clone();
            move || efficientnet_numbers(&network, |name, n| unif(seed, name, n))
        };
        let [plain, halves] = [Stored::F32, Stored::F16].map(|stored| {
            let (image, numbers) = (image.clone(), numbers.clone());
            shared(move || {
                let values = numbers().into_iter().map(|(name, _, values)| (name, values));
                naive::efficientnet(&naive::b4(pads_for), values.collect(), &image, &TAPS, stored)
            })
        });
        let (all, naive, own) = (want.data.clone(), halves.clone(), plain.clone());
        trials.push(trial(format!("effnet_b4/{features} of the plain computation"), move || {
            compare_all(Device::Cpu, &own, &all, &naive)
        }));
        for place in places() {
            let device = place.device;
            let (image, numbers, network) = (image.clone(), numbers.clone(), network.clone());
            let outputs = shared(move || {
                let weights = weights(&numbers());
                library::efficientnet::blocks(&network, &weights, &image, &TAPS, device)
            });
            let (want, got, naive) = (want.data.clone(), outputs.clone(), halves.clone());
            trials.push(trial(place.label(format!("effnet_b4/{features}")), move || {
                compare_all(device, &got, &want, &naive)
            }));
            for (block, want) in tensors.under(statistics) {
                let i: usize = block.parse().map_err(|_| format!("`{statistics}{block}`"))?;
                let (want, got) = (want.data.clone(), outputs.clone());
                let naive = [halves.clone(), plain.clone()];
                let label = place.label(format!("effnet_b4/{statistics}{block}"));
                trials.push(trial(label, move || {
                    compare_block(device, i, &got, naive.each_ref(), &want)
                }));
            }
        }
    }
    Ok(trials)
}

/// That of the manifest's `fill(seed,"NAME",(B, 3, H, W),SCALE)`.
fn image(section: &Value, seed: u64) -> Result<Pixels, Problem> {
    let text = section["image"].as_str().unwrap_or_default();
    let parse = || {
        let inner = text.strip_prefix("fill(seed,\"")?.strip_suffix(')')?;
        let (name, rest) = inner.split_once("\",(")?;
        let (shape, scale) = rest.split_once("),")?;
        let shape = shape.split(',').map(|n| n.trim().parse().ok()).collect::<Option<Vec<usize>>>();
        Some((name, <[usize; 4]>::try_from(shape?).ok()?, scale.trim().parse().ok()?))
    };
    let (name, shape, scale) = parse().ok_or_else(|| format!("manifest: image `{text}`"))?;
    Ok(Pixels::Normalised { x: fill(seed, name, shape.iter().product(), scale, 0.0), shape })
}
