//! The parameters of the denoisers' cases, by rule.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::golden::{Golden, Problem, Trials, cases, compare_absolute, fill, trial, whole};
use crate::unet;

/// A denoiser's sizes and the seed of its parameters.
#[derive(Clone, Debug)]
pub struct Config {
    pub channels: usize,
    pub depth: usize,
    pub grid: usize,
    pub width: usize,
    pub seed: u64,
    pub kind: Kind,
}

/// What only one kind has.
#[derive(Clone, Debug)]
pub enum Kind {
    Dit { heads: usize, patch: usize },
    Mlp,
    Unet(unet::Sizes),
}

impl Config {
    /// An MLP's manifest has the size of a condition, which gets no gradient, as what a U-Net's has for a width; its
    /// depth is that of a level.
    pub fn read(config: &Value) -> Result<Self, String> {
        let (kind, depth, width) = if !config["model_channels"].is_null() {
            (Kind::Unet(unet::Sizes::read(config)?), "num_res_blocks", "model_channels")
        } else if config["z_channels"].is_null() {
            let patch = if config["patch"].is_null() { 1 } else { whole(config, "patch")? };
            (Kind::Dit { heads: whole(config, "heads")?, patch }, "depth", "width")
        } else {
            (Kind::Mlp, "depth", "width")
        };
        Ok(Self {
            channels: whole(config, "C")?,
            depth: whole(config, depth)?,
            grid: whole(config, "grid")?,
            width: whole(config, width)?,
            seed: whole(config, "seed")? as u64,
            kind,
        })
    }

    /// Elements of one input.
    pub fn elements(&self) -> usize {
        self.channels * self.grid * self.grid
    }

    /// The parameters that get a gradient: official name and shape.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (d, c) = (self.width, self.channels);
        let mut shapes = Vec::new();
        let mut weighted = |name: String, weight: &[usize]| {
            shapes.push((format!("net.{name}.weight"), weight.to_vec()));
            shapes.push((format!("net.{name}.bias"), weight[..1].to_vec()));
        };
        let (time, outputs) = match &self.kind {
            Kind::Unet(sizes) => return sizes.shapes(self),
            &Kind::Dit { patch, .. } => {
                weighted("x_embedder.proj".into(), &[d, c, patch, patch]);
                for i in 0..self.depth {
                    let block = format!("blocks.{i}");
                    weighted(format!("{block}.adaLN_modulation.1"), &[6 * d, d]);
                    weighted(format!("{block}.attn.qkv"), &[3 * d, d]);
                    weighted(format!("{block}.attn.proj"), &[d, d]);
                    weighted(format!("{block}.mlp.fc1"), &[4 * d, d]);
                    weighted(format!("{block}.mlp.fc2"), &[d, 4 * d]);
                }
                ("t_embedder", patch * patch * c)
            }
            Kind::Mlp => {
                weighted("input_proj".into(), &[d, c]);
                for i in 0..self.depth {
                    let block = format!("res_blocks.{i}");
                    weighted(format!("{block}.adaLN_modulation.1"), &[3 * d, d]);
                    weighted(format!("{block}.in_ln"), &[d]);
                    weighted(format!("{block}.mlp.0"), &[d, d]);
                    weighted(format!("{block}.mlp.2"), &[d, d]);
                }
                weighted("final_layer.norm_final".into(), &[d]);
                ("time_embed", c)
            }
        };
        weighted(format!("{time}.mlp.0"), &[d, 256]);
        weighted(format!("{time}.mlp.2"), &[d, d]);
        weighted("final_layer.adaLN_modulation.1".into(), &[2 * d, d]);
        weighted("final_layer.linear".into(), &[outputs, d]);
        if let Kind::Dit { patch, .. } = self.kind {
            let tokens = (self.grid / patch).pow(2);
            shapes.push(("net.pos_embed".into(), vec![1, tokens, d]));
        }
        shapes
    }

    /// The values of [`shapes`](Self::shapes), by name.
    pub fn parameters(&self) -> BTreeMap<String, Vec<f32>> {
        let shapes = self.shapes().into_iter();
        shapes.map(|(name, shape)| (name.clone(), parameter(self.seed, &name, &shape))).collect()
    }
}

/// The values of one parameter.
pub fn parameter(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let (scale, offset) = if name.ends_with("pos_embed") {
        (0.5, 0.0)
    } else if name.ends_with(".bias") {
        (0.1, 0.0)
    } else if name == "cls_embed.weight" || name.ends_with("embedding_table.weight") {
        (0.02, 0.0)
    } else if shape.len() == 1 {
        (0.2, 1.0)
    } else {
        let boosted = name.contains("adaLN_modulation")
            || name.contains("emb_layers")
            || name.ends_with("t_embedder.mlp.2.weight")
            || name.ends_with("time_embed.2.weight")
            || name.ends_with("time_embed.mlp.2.weight");
        let fan_in: usize = shape[1..].iter().product();
        let gain = if boosted { 2.0 } else { 1.0 };
        (gain * (3.0 / fan_in as f64).sqrt(), 0.0)
    };
    fill(seed, name, shape.iter().product(), scale, offset)
}

/// The rule against the files that hold parameters of a kind.
pub fn trials(kind: &str, golden: &'static Golden, section: &'static Value) -> Trials {
    let mut trials = Vec::new();
    for (case, values) in cases(section) {
        if let Some(stored) = values["parameters"].as_object() {
            let config = Config::read(&values["config"])?;
            trials.push(trial(format!("{kind}/{case}/names"), move || {
                let shapes = config.shapes().into_iter();
                let shapes = shapes.map(|(name, shape)| (name, serde_json::json!(shape)));
                let mut got: serde_json::Map<String, Value> = shapes.collect();
                // It gets no gradient.
                got.extend(
                    stored.get_key_value("cls_embed.weight").map(|(k, v)| (k.clone(), v.clone())),
                );
                if got == *stored { Ok(()) } else { Err(format!("{got:?}, stored {stored:?}")) }
            }));
        }
        let file = format!("{kind}_{case}_weights");
        let stored = match golden.tensors(&file) {
            Ok(stored) => stored,
            Err(Problem::Missing(_)) => continue,
            Err(problem) => return Err(problem),
        };
        let config = Config::read(&values["config"])?;
        trials.push(trial(format!("{kind}/{case}/parameters"), move || {
            for (name, array) in stored.iter() {
                compare_absolute(parameter(config.seed, name, &array.shape), &array.data, 0.0)
                    .map_err(|error| format!("{name}: {error}"))?;
            }
            for (name, shape) in config.shapes() {
                let stored = &stored.get(&name)?.shape;
                if *stored != shape {
                    return Err(format!("{name}: shape {shape:?}, stored {stored:?}"));
                }
            }
            Ok(())
        }));
    }
    if trials.is_empty() {
        let reason = format!("no {kind}_<case>_weights.safetensors, no `parameters` of a case");
        return Err(Problem::Missing(reason));
    }
    Ok(trials)
}
