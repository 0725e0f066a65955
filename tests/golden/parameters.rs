//! The parameters of the DiT cases, by rule.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::golden::{Golden, Problem, Trials, cases, compare_absolute, fill, trial, whole};

/// A DiT's sizes and the seed of its parameters.
#[derive(Clone, Debug)]
pub struct Config {
    pub channels: usize,
    pub depth: usize,
    pub grid: usize,
    pub heads: usize,
    pub patch: usize,
    pub width: usize,
    pub seed: u64,
}

impl Config {
    pub fn read(config: &Value) -> Result<Self, String> {
        Ok(Self {
            channels: whole(config, "C")?,
            depth: whole(config, "depth")?,
            grid: whole(config, "grid")?,
            heads: whole(config, "heads")?,
            patch: if config["patch"].is_null() { 1 } else { whole(config, "patch")? },
            width: whole(config, "width")?,
            seed: whole(config, "seed")? as u64,
        })
    }

    pub fn tokens(&self) -> usize {
        (self.grid / self.patch).pow(2)
    }

    /// Elements of one input.
    pub fn elements(&self) -> usize {
        self.channels * self.grid * self.grid
    }

    /// The parameters that get a gradient: official name and shape.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (d, c, p) = (self.width, self.channels, self.patch);
        let mut shapes = vec![
            ("net.pos_embed".to_owned(), vec![1, self.tokens(), d]),
            ("net.x_embedder.proj.weight".to_owned(), vec![d, c, p, p]),
            ("net.x_embedder.proj.bias".to_owned(), vec![d]),
        ];
        let mut linear = |name: String, out: usize, inner: usize| {
            shapes.push((format!("{name}.weight"), vec![out, inner]));
            shapes.push((format!("{name}.bias"), vec![out]));
        };
        linear("net.t_embedder.mlp.0".into(), d, 256);
        linear("net.t_embedder.mlp.2".into(), d, d);
        for i in 0..self.depth {
            let block = format!("net.blocks.{i}");
            linear(format!("{block}.adaLN_modulation.1"), 6 * d, d);
            linear(format!("{block}.attn.qkv"), 3 * d, d);
            linear(format!("{block}.attn.proj"), d, d);
            linear(format!("{block}.mlp.fc1"), 4 * d, d);
            linear(format!("{block}.mlp.fc2"), d, 4 * d);
        }
        linear("net.final_layer.adaLN_modulation.1".into(), 2 * d, d);
        linear("net.final_layer.linear".into(), p * p * c, d);
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
    let scale = if name.ends_with("pos_embed") {
        0.5
    } else if name.ends_with(".bias") {
        0.1
    } else if name == "cls_embed.weight" || name.ends_with("embedding_table.weight") {
        0.02
    } else {
        let boosted =
            name.contains("adaLN_modulation") || name.ends_with("t_embedder.mlp.2.weight");
        let fan_in: usize = shape[1..].iter().product();
        let gain = if boosted { 2.0 } else { 1.0 };
        gain * (3.0 / fan_in as f64).sqrt()
    };
    fill(seed, name, shape.iter().product(), scale, 0.0)
}

/// The rule against the files that hold parameters.
pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let mut trials = Vec::new();
    for (case, values) in cases(section) {
        let file = format!("dit_{case}_weights");
        let stored = match golden.tensors(&file) {
            Ok(stored) => stored,
            Err(Problem::Missing(_)) => continue,
            Err(problem) => return Err(problem),
        };
        let config = Config::read(&values["config"])?;
        trials.push(trial(format!("dit/{case}/parameters"), move || {
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
        return Err(Problem::Missing("no dit_<case>_weights.safetensors".into()));
    }
    Ok(trials)
}
