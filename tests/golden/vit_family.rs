//! Section `vit_family`: small Vision Transformers of all families, in all namings, and their positions.

use std::collections::BTreeMap;
use std::sync::Arc;

use invad::backbones::{Resampling, VitConfig};
use invad::weights::Weights;
use invad::{Device, Error};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::golden::{
    Array, Golden, Problem, Trials, cases, compare, compare_as_good, fill, ignored, trial, whole,
};
use crate::library;
use crate::naive::{self, Stored};
use crate::place::{Place, places};
use crate::support::networks::{Parameter, vit_parameters, weights};

type Result<T> = std::result::Result<T, String>;

/// Of features in f32, relative to the largest.
const FEATURES: f64 = 5e-6;
/// Of positions.
const POSITIONS: f64 = 1e-5;

/// A network, by rule, and the images that it is given.
#[derive(Clone, Debug)]
pub struct Network {
    pub config: VitConfig,
    /// (B, 3, H, W).
    pub shape: [usize; 4],
    pub image: Vec<f32>,
    pub parameters: Vec<Parameter>,
}

/// What is asked of a network.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub blocks: Vec<usize>,
    pub norm: bool,
    pub resampling: Resampling,
    pub eps: f64,
    /// Without class token and registers.
    pub patches_only: bool,
}

impl Network {
    pub fn new(config: VitConfig, seed: u64, shape: [usize; 4]) -> Self {
        let image = fill(seed, "input.image", shape.iter().product(), 2.0, 0.0);
        let parameters = vit_parameters(&config, |name, len, scale, offset| {
            fill(seed, name, len, scale, offset)
        });
        Self { config, shape, image, parameters }
    }

    fn read(manifest: &Value) -> Result<(Self, Vec<usize>)> {
        let config = &manifest["config"];
        let list = |key: &str| -> Result<Vec<usize>> {
            let list = config[key].as_array().into_iter().flatten();
            let list: Option<Vec<usize>> = list.map(|v| v.as_u64().map(|v| v as usize)).collect();
            list.ok_or_else(|| format!("manifest: `{key}` should be whole numbers"))
        };
        let image = list("image")?;
        let shape = image.try_into().map_err(|_| "manifest: `image` should be (B, 3, H, W)")?;
        let family = config["family"].as_str().ok_or("manifest: no `family`")?;
        let sizes = library::vit_family(family, whole(config, "registers")?)?;
        let sizes = sizes.patch(whole(config, "patch")?).width(whole(config, "width")?);
        let sizes = sizes.depth(whole(config, "depth")?).heads(whole(config, "heads")?);
        let sizes = sizes.registers(whole(config, "registers")?);
        let sizes = sizes.positions(whole(config, "pos_grid")?);
        Ok((Self::new(sizes, whole(config, "seed")? as u64, shape), list("layers")?))
    }

    pub fn batch(&self) -> usize {
        self.shape[0]
    }

    pub fn grid(&self) -> [usize; 2] {
        [self.shape[2], self.shape[3]].map(|side| side / self.config.patch)
    }

    /// Of an image, as many as are wanted.
    pub fn tokens(&self, wanted: &Wanted) -> usize {
        let [h, w] = self.grid();
        h * w + if wanted.patches_only { 0 } else { 1 + self.config.registers }
    }

    /// A file of the parameters, under their own names.
    pub fn weights(&self) -> Weights {
        weights(&self.parameters)
    }
}

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let mut trials = Vec::new();
    let networks = cases(section).filter(|(_, case)| case["config"].is_object());
    for (name, manifest) in networks {
        match case_trials(golden, name, manifest) {
            Ok(of_case) => trials.extend(of_case),
            Err(Problem::Missing(reason)) => {
                trials.push(ignored(&format!("vit_family/{name}"), &reason));
            }
            Err(problem) => return Err(problem),
        }
    }
    for more in [position_trials(golden, section), key_trials(golden, section)] {
        match more {
            Ok(more) => trials.extend(more),
            Err(Problem::Missing(reason)) => trials.push(ignored("vit_family", &reason)),
            Err(problem) => return Err(problem),
        }
    }
    Ok(trials)
}

/// What a tensor of a file is to be compared with.
fn wanted(
    tensor: &str,
    layers: &[usize],
    network: &Network,
    default: Resampling,
) -> Result<Wanted> {
    let (quantity, how) = tensor.split_once('.').map_or((tensor, None), |(q, how)| (q, Some(how)));
    let eps = how.and_then(|how| how.strip_prefix("eps")).map(str::parse).transpose();
    let eps = eps.map_err(|_| format!("{tensor}: no number after `eps`"))?;
    let resampling = match how {
        Some(how) if eps.is_none() => library::resampling(how)?,
        _ => default,
    };
    let last = vec![network.config.depth - 1];
    let (blocks, norm, patches_only) = match quantity {
        "features" => (layers.to_vec(), false, true),
        "features_norm" => (layers.to_vec(), true, true),
        "tokens" => (last, false, false),
        "tokens_norm" => (last, true, false),
        _ => return Err(format!("`{tensor}` is not known here")),
    };
    Ok(Wanted { blocks, norm, resampling, eps: eps.unwrap_or(1e-6), patches_only })
}

fn case_trials(golden: &'static Golden, name: &str, manifest: &'static Value) -> Trials {
    let tensors = golden.tensors(&format!("vitf_{name}"))?;
    let (network, layers) = Network::read(manifest)?;
    let network = Arc::new(network);
    let default = network.config.resampling;
    let convention = manifest["default_convention"].as_str().ok_or("no `default_convention`")?;
    let right = library::resampling(convention)? == default;
    let mut trials = vec![trial(format!("vit_family/{name}/default convention"), move || {
        if right { Ok(()) } else { Err(format!("{default:?} is the default")) }
    })];
    for (tensor, array) in tensors.iter() {
        if let Some(how) = tensor.strip_prefix("pos.") {
            let (how, want, network) =
                (library::resampling(how)?, array.data.clone(), network.clone());
            trials.push(trial(format!("vit_family/{name}/{tensor}"), move || {
                compare(positions(&network, how)?, &want, POSITIONS)
            }));
            continue;
        }
        let wanted = wanted(tensor, &layers, &network, default)?;
        let rows: Vec<usize> = (0..network.grid()[0]).collect();
        let want = Reference::new(array, &network, &rows)?;
        let label = format!("vit_family/{name}/{tensor}");
        trials.extend(network_trials(&label, &network, &wanted, &want));
    }
    for (naming, file) in manifest["files"].as_object().into_iter().flatten() {
        let path = golden.path(file.as_str().ok_or("manifest: `files` should be names")?);
        let rows: Vec<usize> = (0..network.grid()[0]).collect();
        let want = Reference::new(tensors.get("features")?, &network, &rows)?;
        let wanted = wanted("features", &layers, &network, default)?;
        let (other, label) = (network.clone(), format!("vit_family/{name}/{naming}"));
        let from = path.clone();
        let (named, of) = (want.clone(), wanted.clone());
        trials.push(trial(format!("{label} converted"), move || {
            let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
            let converted = |weights: Weights, to: &str| -> Result<_> {
                let to = folder.path().join(to);
                other.config.convert(weights, &to).map_err(|e| e.to_string())?;
                let bytes = std::fs::read(&to).map_err(|e| e.to_string())?;
                Ok((bytes, Weights::open(to).map_err(|e| e.to_string())?))
            };
            let theirs = Weights::open(from).map_err(|e| e.to_string())?;
            let (bytes, weights) = converted(theirs, "theirs")?;
            named.compare(library::vit_tokens(&other, weights, &of, Device::Cpu)?, FEATURES)?;
            let (own, weights) = converted(other.weights(), "ours")?;
            // There timm has the class token's position added to it, and nothing tells them apart.
            let folded = naming == "timm" && other.config.registers > 0;
            if (own == bytes) == folded {
                return Err("the same numbers should be the same file".into());
            }
            match converted(weights, "again")?.0 == own {
                true => Ok(()),
                false => Err("what is converted already should stay as it is".into()),
            }
        }));
        let network = network.clone();
        trials.push(trial(label, move || {
            let weights = Weights::open(path).map_err(|e| e.to_string())?;
            let got = library::vit_tokens(&network, weights, &wanted, Device::Cpu)?;
            want.compare(got, FEATURES)
        }));
    }
    Ok(trials)
}

/// What a file says of a network, and where that stands among tokens (B, T, L·D).
#[derive(Clone)]
pub struct Reference {
    values: Arc<Vec<f64>>,
    places: Arc<Vec<usize>>,
}

impl Reference {
    /// Of features (B, L·D, R, w), of whose grid they are these rows, or of the first tokens (…, D).
    pub fn new(array: &Array, network: &Network, rows: &[usize]) -> Result<Self> {
        let [h, w] = network.grid();
        let places = match array.shape[..] {
            [batch, channels, r, columns] if r == rows.len() && columns == w => {
                let cells = (0..batch * channels * r * w).map(|i| {
                    let (image, channel) = (i / (channels * r * w), i / (r * w) % channels);
                    let (row, column) = (rows[i / w % r], i % w);
                    (image * h * w + row * w + column) * channels + channel
                });
                cells.collect()
            }
            [_, _, _, _] => return Err(format!("features of another grid: {:?}", array.shape)),
            _ => (0..array.data.len()).collect(),
        };
        Ok(Self { values: array.data.clone(), places: Arc::new(places) })
    }

    fn of(&self, got: &[f32]) -> Vec<f32> {
        self.places.iter().map(|&i| got.get(i).copied().unwrap_or(f32::NAN)).collect()
    }

    fn compare(&self, got: Vec<f32>, tolerance: f64) -> Result<()> {
        compare(self.of(&got), &self.values, tolerance)
    }
}

/// A quantity of a network wherever it is computed, by the plain computation, and that another network has
/// another one.
pub fn network_trials(
    label: &str,
    network: &Arc<Network>,
    wanted: &Wanted,
    want: &Reference,
) -> Vec<Trial> {
    let mut trials = Vec::new();
    for place in places() {
        let (network, wanted, want) = (network.clone(), wanted.clone(), want.clone());
        if let Some(refusal) = refusal(label, &network, &wanted, place) {
            trials.push(refusal);
            continue;
        }
        trials.push(trial(place.label(label), move || {
            let got = library::vit_tokens(&network, network.weights(), &wanted, place.device)?;
            match place.device {
                Device::Cpu => want.compare(got, FEATURES),
                _ => {
                    let naive = naive::vit_tokens(&network, &wanted, Stored::F16)?;
                    compare_as_good(want.of(&got), &want.values, want.of(&naive))
                }
            }
        }));
    }
    let (network, wanted, want) = (network.clone(), wanted.clone(), want.clone());
    trials.push(trial(format!("{label} of the plain computation"), move || {
        want.compare(naive::vit_tokens(&network, &wanted, Stored::F32)?, FEATURES)?;
        let mut other = (*network).clone();
        let bias = other.parameters.iter_mut().find(|(name, ..)| name == "blocks.0.mlp.fc1.bias");
        bias.ok_or("no bias")?.2[0] += 1e-2;
        match want.compare(naive::vit_tokens(&other, &wanted, Stored::F32)?, FEATURES) {
            Ok(()) => Err("a perturbed network is not told apart".into()),
            Err(_) => Ok(()),
        }
    }));
    trials
}

/// In place of the trials of a network that a GPU has no kernels for: that it says so.
fn refusal(label: &str, network: &Arc<Network>, wanted: &Wanted, place: Place) -> Option<Trial> {
    let c = &network.config;
    let fits = c.width.is_multiple_of(8) && (c.width / c.heads).is_multiple_of(8);
    if place.device == Device::Cpu || fits {
        return None;
    }
    let (network, wanted) = (network.clone(), wanted.clone());
    Some(trial(format!("{} is refused", place.label(label)), move || {
        match library::vit_refusal(&network, &wanted, place.device)? {
            Error::Argument { expected, .. } if expected.contains("a multiple of 8") => Ok(()),
            other => Err(format!("refused for another reason: {other}")),
        }
    }))
}

/// The positions of the network's patches, resampled for its images.
fn positions(network: &Network, how: Resampling) -> Result<Vec<f32>> {
    let (d, side) = (network.config.width, network.config.positions);
    let all =
        network.parameters.iter().find(|(name, ..)| name == "pos_embed").ok_or("no positions")?;
    library::resampled_positions(how, &all.2[d..], side, d, network.grid())
}

/// `pos.<M>_<h>x<w>.<convention>`.
fn position_trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("vitf_pos")?;
    let seed = whole(&section["pos"], "seed")? as u64;
    let width = whole(&section["pos"], "D")?;
    let mut trials = Vec::new();
    for (name, array) in tensors.under("pos.") {
        let sizes = name.split_once('.').and_then(|(sizes, how)| {
            let (side, grid) = sizes.split_once('_')?;
            let (h, w) = grid.split_once('x')?;
            Some((side.parse().ok()?, [h.parse().ok()?, w.parse().ok()?], how))
        });
        let (side, grid, how): (usize, [usize; 2], _) = sizes.ok_or(format!("pos.{name}"))?;
        let (how, want) = (library::resampling(how)?, array.data.clone());
        trials.push(trial(format!("vit_family/pos.{name}"), move || {
            let x = fill(seed, &format!("pos.{side}"), side * side * width, 3f64.sqrt(), 0.0);
            compare(library::resampled_positions(how, &x, side, width, grid)?, &want, POSITIONS)
        }));
    }
    Ok(trials)
}

/// Every name of every family in the namings of `vitf_keys.json`, whose files are made here.
fn key_trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let path = golden.path("vitf_keys.json");
    if !path.exists() {
        return Err(Problem::Missing("no vitf_keys.json".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let families: BTreeMap<String, Vec<Value>> =
        serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let mut trials = Vec::new();
    for (family, keys) in families {
        let keys = Arc::new(keys);
        let mut like = Vec::new();
        for (_, case) in cases(section).filter(|(_, case)| case["config"].is_object()) {
            let (network, layers) = Network::read(case)?;
            let c = &network.config;
            let of = case["config"]["family"].as_str().unwrap_or_default();
            let of = if c.registers == 0 { of.into() } else { format!("{of}+registers") };
            like.extend((of == family).then_some((network, layers)));
        }
        let Some((network, layers)) = like.into_iter().next() else { continue };
        let network = Arc::new(network);
        for naming in ["timm", "transformers", "transformers_v5"] {
            for prefix in ["", "module.", "backbone.", "vit.", "module.dinov2."] {
                let (network, keys, layers) = (network.clone(), keys.clone(), layers.clone());
                let name = format!("vit_family/keys/{family}/{prefix}{naming}");
                trials.push(trial(name, move || {
                    let default = network.config.resampling;
                    let wanted = wanted("features", &layers, &network, default)?;
                    let named = renamed(&network, &keys, naming, prefix)?;
                    let of = |weights| library::vit_tokens(&network, weights, &wanted, Device::Cpu);
                    let want = of(network.weights())?;
                    if of(weights(&named))? == want { Ok(()) } else { Err("other features".into()) }
                }));
            }
        }
    }
    Ok(trials)
}

/// The network's tensors under other names, and in as many parts as those have.
fn renamed(
    network: &Network,
    keys: &[Value],
    naming: &str,
    prefix: &str,
) -> Result<Vec<Parameter>> {
    let mut all = Vec::new();
    for (name, shape, values) in &network.parameters {
        let (name, block) = match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'))
        {
            Some((i, rest)) => (format!("blocks.{{i}}.{rest}"), i),
            None => (name.clone(), ""),
        };
        let key = keys.iter().find(|key| key["name"] == name.as_str());
        let theirs = &key.ok_or_else(|| format!("vitf_keys.json: no `{name}`"))?[naming];
        let theirs: Vec<&str> = match theirs {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => continue,
        };
        let (mut shape, mut values) = (shape.clone(), values.clone());
        let folded = naming == "timm" && network.config.registers > 0;
        if folded && name == "cls_token" {
            let position = network.parameters.iter().find(|(name, ..)| name == "pos_embed");
            values.iter_mut().zip(&position.ok_or("no positions")?.2).for_each(|(v, p)| *v += p);
        } else if folded && name == "pos_embed" {
            values.drain(..network.config.width);
            shape[1] -= 1;
        }
        shape[0] /= theirs.len();
        let part = values.len() / theirs.len();
        for (theirs, values) in theirs.iter().zip(values.chunks(part)) {
            let name = format!("{prefix}{}", theirs.replace("{i}", block));
            all.push((name, shape.clone(), values.to_vec()));
        }
    }
    Ok(all)
}
