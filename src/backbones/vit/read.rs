//! Weights of files by any of three libraries.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::VitConfig;
use super::config::MLP_RATIO;
use crate::error::{Error, Result};
use crate::tensor::{Device, Tensor, TensorView};
use crate::weights::{self, Weights};

/// What training code and classes around a network put before its names.
const PREFIXES: [&str; 5] = ["module.", "backbone.", "vit.", "dinov2.", "dinov2_with_registers."];

/// Under which name files have ε: transformers' config.json, and ours, as a text beside the tensors.
const EPS: &str = "layer_norm_eps";

/// Names of transformers, and timm's registers, as facebookresearch's, whose names timm shares.
const OUTSIDE: [(&str, &str); 7] = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.mask_token", "mask_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.register_tokens", "register_tokens"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("layernorm", "norm"),
    ("reg_token", "register_tokens"),
];
/// What transformers puts before the number of a block: before version 5, and from then on in its ViT.
const BLOCKS: [&str; 2] = ["encoder.layer.", "layers."];
/// The names in a block: those of files, and of version 5's modules.
const INSIDE: [(&str, &str); 14] = [
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("attention.attention.query", "attn.q"),
    ("attention.attention.key", "attn.k"),
    ("attention.attention.value", "attn.v"),
    ("attention.output.dense", "attn.proj"),
    ("attention.q_proj", "attn.q"),
    ("attention.k_proj", "attn.k"),
    ("attention.v_proj", "attn.v"),
    ("attention.o_proj", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
];

/// A tensor's name as facebookresearch has it; queries, keys and values of transformers are `attn.q`, `attn.k` and
/// `attn.v`, which it has as one.
fn our_name(theirs: &str) -> String {
    let mut name = theirs;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    let block = BLOCKS.iter().find_map(|prefix| name.strip_prefix(prefix)?.split_once('.'));
    match block {
        Some((i, rest)) => format!("blocks.{i}.{}", replaced(rest, &INSIDE)),
        None => replaced(name, &OUTSIDE),
    }
}

/// With its beginning replaced, where the table has it up to a dot or the end.
fn replaced(name: &str, table: &[(&str, &str)]) -> String {
    let found = table.iter().find_map(|(theirs, ours)| {
        let rest = name.strip_prefix(theirs)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{ours}{rest}"))
    });
    found.unwrap_or_else(|| name.to_string())
}

/// The weights of a network under the names of facebookresearch.
pub(super) struct Reader {
    weights: Weights,
    config: VitConfig,
    /// Whether queries, keys and values are tensors of their own.
    split: bool,
    /// Whether the class token has its position added already, as timm's has where there are registers.
    folded: bool,
}

impl Reader {
    /// Of a file that has all of the network, and no more blocks or registers than it.
    pub fn new(weights: Weights, config: &VitConfig) -> Result<Self> {
        let weights = weights.renamed(|name| Some(our_name(name)))?;
        let shape = |name: &str| {
            weights.entries().find(|(other, _)| *other == name).map(|(_, entry)| &entry.shape[..])
        };
        let split = shape("blocks.0.attn.q.weight").is_some();
        let folded = shape("pos_embed") == Some(&[1, config.positions.pow(2), config.width]);
        let reader = Self { config: config.clone(), split, folded, weights };
        let left = reader.weights.require(reader.parameters(split))?;
        let more = |name: &&String| name.starts_with("blocks.") || *name == "register_tokens";
        match left.iter().find(more) {
            None => Ok(reader),
            Some(name) => {
                let reason = format!("not the weights of this network, which has no `{name}`");
                Err(Error::file(reader.weights.path(), reason))
            }
        }
    }

    /// Writes what the network is read from to a file of its own, by the names of facebookresearch, with ε beside it.
    /// Returns the names of the file's other tensors, as facebookresearch would call them.
    pub fn convert(&self, to: &Path) -> Result<Vec<String>> {
        let all = self.parameters(false);
        weights::write(to, Some((EPS, self.eps()?.to_string())), &all, |i, put| {
            let (name, shape) = &all[i];
            put(&self.numbers(name, shape)?)
        })?;
        self.weights.require(self.parameters(self.split))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.weights.path()
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn hash(&self) -> Result<String> {
        self.weights.hash()
    }

    /// What is under the root of the variance.
    pub fn eps(&self) -> Result<f32> {
        const USUAL: f32 = 1e-6;
        if let Some(eps) = self.config.eps {
            return Ok(eps);
        }
        if let Some(text) = self.weights.text(EPS) {
            return checked_eps(self.weights.path(), text, text.parse().ok());
        }
        let beside = self.weights.path().with_file_name("config.json");
        if !self.weights.path().is_file() || !beside.is_file() {
            return Ok(USUAL);
        }
        let text = fs::read_to_string(&beside).map_err(|e| Error::io(&beside, e))?;
        let config: Value =
            serde_json::from_str(&text).map_err(|e| Error::file(&beside, e.to_string()))?;
        match config.get(EPS) {
            None => Ok(USUAL),
            Some(eps) => checked_eps(&beside, eps, eps.as_f64()),
        }
    }

    /// The names and shapes of all that the network has, queries, keys and values `split` or as one.
    fn parameters(&self, split: bool) -> Vec<(String, Vec<usize>)> {
        let c = &self.config;
        let (d, hidden) = (c.width, MLP_RATIO * c.width);
        let positions = c.positions.pow(2) + usize::from(!self.folded);
        let mut all =
            vec![("cls_token".into(), vec![1, 1, d]), ("pos_embed".into(), vec![1, positions, d])];
        if c.registers > 0 {
            all.push(("register_tokens".into(), vec![1, c.registers, d]));
        }
        let mut pair = |name: String, weight: &[usize]| {
            all.push((format!("{name}.weight"), weight.to_vec()));
            all.push((format!("{name}.bias"), weight[..1].to_vec()));
        };
        pair("patch_embed.proj".into(), &[d, 3, c.patch, c.patch]);
        pair("norm".into(), &[d]);
        let qkv: &[(&str, usize)] =
            if split { &[("q", 1), ("k", 1), ("v", 1)] } else { &[("qkv", 3)] };
        for i in 0..c.depth {
            let block = format!("blocks.{i}");
            pair(format!("{block}.norm1"), &[d]);
            for (name, parts) in qkv {
                pair(format!("{block}.attn.{name}"), &[parts * d, d]);
            }
            pair(format!("{block}.attn.proj"), &[d, d]);
            pair(format!("{block}.norm2"), &[d]);
            pair(format!("{block}.mlp.fc1"), &[hidden, d]);
            pair(format!("{block}.mlp.fc2"), &[d, hidden]);
        }
        if c.layer_scale {
            let gains =
                (0..c.depth).flat_map(|i| [1, 2].map(|k| format!("blocks.{i}.ls{k}.gamma")));
            all.extend(gains.map(|name| (name, vec![d])));
        }
        all
    }

    /// A weight and a bias, whose length is the weight's first axis.
    pub fn pair(&self, name: &str, shape: &[usize]) -> Result<[Vec<f32>; 2]> {
        let weight = self.numbers(&format!("{name}.weight"), shape)?;
        Ok([weight, self.numbers(&format!("{name}.bias"), &shape[..1])?])
    }

    /// A tensor by the name of facebookresearch, which has queries, keys and values as one.
    fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some((block, kind)) = name.split_once("attn.qkv.").filter(|_| self.split) else {
            return self.weights.f32s(name, shape);
        };
        let third = [&[shape[0] / 3], &shape[1..]].concat();
        let mut all = Vec::new();
        for part in ["q", "k", "v"] {
            all.extend(self.weights.f32s(&format!("{block}attn.{part}.{kind}"), &third)?);
        }
        Ok(all)
    }

    /// The gain of a block's attention (1) or MLP (2), all ones where the network has none.
    pub fn gain(&self, block: usize, branch: usize) -> Result<Vec<f32>> {
        match self.config.layer_scale {
            true => {
                let name = format!("blocks.{block}.ls{branch}.gamma");
                self.weights.f32s(&name, &[self.config.width])
            }
            false => Ok(vec![1.0; self.config.width]),
        }
    }

    /// What is added to the tokens of a grid of patches, (N, D): the class token with its position and the registers,
    /// of which images have nothing, and the positions of the grid.
    pub fn position(&self, grid: [usize; 2]) -> Result<Tensor> {
        let c = &self.config;
        let (d, side) = (c.width, c.positions);
        let mut all = self.weights.f32s("cls_token", &[1, 1, d])?;
        let own = usize::from(!self.folded);
        let positions = self.weights.f32s("pos_embed", &[1, side * side + own, d])?;
        let (of_class, of_patches) = positions.split_at(own * d);
        all.iter_mut().zip(of_class).for_each(|(token, position)| *token += position);
        if c.registers > 0 {
            all.extend(self.weights.f32s("register_tokens", &[1, c.registers, d])?);
        }
        let of_patches = TensorView::from_slice(of_patches, &[side * side, d])?;
        all.extend(c.resampling.apply(of_patches, grid)?.to_vec_f32());
        let tokens = all.len() / d;
        Tensor::from_f32(all, &[tokens, d], Device::Cpu)
    }
}

/// ε of a file that says it is `text`.
fn checked_eps(path: &Path, text: impl Display, eps: Option<f64>) -> Result<f32> {
    match eps.filter(|eps| (0.0..=1.0).contains(eps)) {
        Some(eps) => Ok(eps as f32),
        None => Err(Error::file(path, format!("`{EPS}` is {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_three_libraries() {
        for (theirs, ours) in [
            ("blocks.3.attn.qkv.bias", "blocks.3.attn.qkv.bias"),
            ("module.backbone.blocks.0.ls1.gamma", "blocks.0.ls1.gamma"),
            ("reg_token", "register_tokens"),
            ("vit.embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
            ("dinov2.encoder.layer.11.attention.attention.key.weight", "blocks.11.attn.k.weight"),
            ("encoder.layer.0.attention.output.dense.bias", "blocks.0.attn.proj.bias"),
            ("encoder.layer.0.output.dense.bias", "blocks.0.mlp.fc2.bias"),
            ("encoder.layer.7.layer_scale2.lambda1", "blocks.7.ls2.gamma"),
            ("encoder.layer.7.norm2.weight", "blocks.7.norm2.weight"),
            ("layers.1.layernorm_after.weight", "blocks.1.norm2.weight"),
            ("layers.1.attention.o_proj.weight", "blocks.1.attn.proj.weight"),
            ("layernorm.bias", "norm.bias"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("pooler.dense.weight", "pooler.dense.weight"),
            ("layernormal.bias", "layernormal.bias"),
        ] {
            assert_eq!(our_name(theirs), ours, "{theirs}");
        }
    }
}
