//! The detector file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file;
use super::{Calibration, ImageStats, Levels, Recipe};
use crate::backbones::BackboneSpec;
use crate::denoisers::{self, Denoiser, DenoiserId, FeatureShape};
use crate::error::{Error, Result};
use crate::gaussian::{Gaussians, Prior, Whitening};
use crate::ops::expect_shape;
use crate::tensor::{DType, Device, Tensor, TensorView};
use crate::types::Products;

const FORMAT: &str = "invad-detector";
/// Up to version 2 there was one kind of denoiser, which files did not name. From 4 on files have a checksum, and the NLL
/// of images in f64.
const VERSION: u32 = 4;
/// Columns of the statistics of images, the last three the NLL ([`parts`]). Up to version 3 there were five, with it in f32.
const COLUMNS: usize = 7;
const COLUMNS_OF_OLD: usize = 5;
/// The tensors of [`Levels`]: both or none.
const LEVELS: [&str; 2] = ["levels.mean", "levels.std"];

/// The tensors of [`Prior`]: its W, and those of each category, whose name follows.
const PRIOR: &str = "prior.weight";
const PRIOR_MEAN: &str = "prior.mean";
const PRIOR_VECTORS: &str = "prior.vectors";

/// Which backbone made the features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneId {
    /// Its name.
    pub name: String,
    /// SHA-256 of the file of its weights, in hexadecimal.
    pub hash: String,
    /// Side of the square to which images are resized.
    pub image_size: usize,
}

impl From<&BackboneSpec> for BackboneId {
    fn from(spec: &BackboneSpec) -> Self {
        Self { name: spec.name.clone(), hash: spec.hash.clone(), image_size: spec.image_size }
    }
}

/// Everything about a detector that is not an array of numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// How it was trained and how it scores.
    pub recipe: Recipe,
    /// The denoiser.
    pub denoiser: DenoiserId,
    /// What made the features.
    pub backbone: BackboneId,
    /// The seed of its training.
    pub seed: u64,
    /// Optimiser steps taken.
    pub steps: u64,
    /// Images trained on.
    pub images: usize,
    /// The categories trained on, sorted.
    pub categories: Vec<String>,
    /// What the network's linear layers multiply, if not what the device has operations for
    /// ([`Precision::with_products`](crate::Precision::with_products)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub products: Option<Products>,
}

/// A detector as it is kept in a file. Whoever trains makes one; whoever detects loads one.
#[derive(Debug)]
pub struct Checkpoint {
    /// Everything that is not an array.
    pub config: CheckpointConfig,
    /// The denoiser's parameters: one axis, in the order of
    /// [`Denoiser::parameters`](crate::denoisers::Denoiser::parameters).
    pub denoiser: Tensor,
    /// Their average over training, which scores.
    pub ema: Tensor,
    /// The whitening, where the recipe has one.
    pub whitening: Option<Whitening>,
    /// What maps are levelled by, a number of each cell of the grid, in files of version 1.
    pub levels: Option<Levels>,
    /// What latents are held against, where the recipe has it and normal images were seen.
    pub prior: Option<Prior>,
    /// Statistics of normal images.
    pub calibration: Calibration,
}

impl Checkpoint {
    /// The detector of a denoiser that was trained elsewhere, as far as that makes one: it is to be calibrated, and where
    /// the recipe has a prior, to learn that. `parameters`, (len), f32 on the host, stand for their average as well. Of the
    /// recipe those parts count that say how images are scored.
    ///
    /// # Errors
    /// [`Error::Argument`] if the recipe whitens features, by what training alone finds, or is not one;
    /// [`Error::Shape`] if `parameters` has another shape; [`Error::HostMemory`] if there is not enough.
    pub fn of_trained(
        denoiser: &dyn Denoiser,
        parameters: Tensor,
        recipe: Recipe,
        backbone: &BackboneSpec,
        categories: Vec<String>,
    ) -> Result<Self> {
        const OP: &str = "Checkpoint::of_trained";
        recipe.check()?;
        if recipe.whiten {
            let expected = "one that does not whiten features, as that of the paper";
            return Err(Error::argument(OP, "recipe", expected, recipe.name));
        }
        expect_shape(OP, "parameters", parameters.shape(), &[denoiser.len()])?;
        Ok(Self {
            config: CheckpointConfig {
                recipe,
                denoiser: denoiser.id(),
                backbone: backbone.into(),
                seed: 0,
                steps: 0,
                images: 0,
                categories,
                products: None,
            },
            ema: parameters.try_clone()?,
            denoiser: parameters,
            whitening: None,
            levels: None,
            prior: None,
            calibration: Calibration::default(),
        })
    }

    /// Writes the file, aside first and then renamed.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let network = denoisers::read(&self.config.denoiser)?;
        let mut tensors = Vec::new();
        for (prefix, values) in [("denoiser", &self.denoiser), ("ema", &self.ema)] {
            for p in network.parameters() {
                let part = values.view().part(p.offset, &p.shape)?;
                tensors.push((format!("{prefix}.{}", p.name), part));
            }
        }
        if let Some(whitening) = &self.whitening {
            let (weight, bias) = whitening.parts();
            tensors.push(("whitening.weight".into(), weight.view()));
            tensors.push(("whitening.bias".into(), bias.view()));
        }
        if let Some(levels) = &self.levels {
            let side = network.features().grid;
            for (name, part) in LEVELS.into_iter().zip(levels.parts()) {
                tensors.push((name.into(), TensorView::from_slice(part, &[side, side])?));
            }
        }
        if let Some(prior) = &self.prior {
            tensors.push((PRIOR.into(), prior.weight().view()));
            for (category, Gaussians { mean, vectors }) in prior.categories() {
                tensors.push((format!("{PRIOR_MEAN}.{category}"), mean.view()));
                tensors.push((format!("{PRIOR_VECTORS}.{category}"), vectors.view()));
            }
        }
        let mut calibration = Vec::new();
        let Calibration { categories, trained } = &self.calibration;
        for (prefix, categories) in [("calibration", categories), ("trained", trained)] {
            for (category, images) in categories {
                let row =
                    |i: &ImageStats| [&[i.max, i.abs, i.block, i.top5][..], &parts(i.nll)].concat();
                let rows = images.iter().flat_map(row).collect();
                let rows = Tensor::from_f32(rows, &[images.len(), COLUMNS], Device::Cpu)?;
                calibration.push((format!("{prefix}.{category}"), rows));
            }
        }
        tensors.extend(calibration.iter().map(|(name, rows)| (name.clone(), rows.view())));
        file::write(path.as_ref(), FORMAT, VERSION, &self.config, tensors)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`]
    /// if it is damaged, of another format or version, or does not agree with itself.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let mut file: file::Contents<CheckpointConfig> =
            file::read(path.as_ref(), FORMAT, VERSION)?;
        let config = file.config.clone();
        config.recipe.check().map_err(|e| file.fail(e.to_string()))?;
        let network = denoisers::read(&config.denoiser).map_err(|e| file.fail(e.to_string()))?;
        let FeatureShape { grid: side, channels } = network.features();
        let mut parameters = |prefix: &str| {
            // The file has as many numbers as it claims before memory is set aside for them.
            let mut parts = Vec::new();
            for p in network.parameters() {
                parts.push(file.take(&format!("{prefix}.{}", p.name), &p.shape)?);
            }
            let mut values = Tensor::zeros(&[network.len()], DType::F32, Device::Cpu)?;
            for (p, part) in network.parameters().iter().zip(parts) {
                let data = part.to_vec_f32();
                values.view_mut().part(p.offset, &[p.len()])?.copy_from_slice(&data)?;
            }
            Ok(values)
        };
        let (denoiser, ema) = (parameters("denoiser")?, parameters("ema")?);
        let whitening = if config.recipe.whiten {
            let weight = file.take("whitening.weight", &[channels, channels])?;
            Some(Whitening::from_parts(weight, file.take("whitening.bias", &[channels])?)?)
        } else {
            None
        };
        let levels = if LEVELS.iter().any(|name| file.shape(name).is_some()) {
            let mut take = |name| -> Result<_> { Ok(file.take(name, &[side, side])?.to_vec_f32()) };
            let levels = Levels::from_parts(take(LEVELS[0])?, take(LEVELS[1])?);
            // All numbers of a file are finite: only spreads can be wrong.
            let fail = |e| file.fail(format!("tensor `{}` is of no use: {e}", LEVELS[1]));
            Some(levels.map_err(fail)?)
        } else {
            None
        };
        let prior = if config.recipe.prior && file.shape(PRIOR).is_some() {
            let weight = file.take(PRIOR, &[channels, channels])?;
            let positions = side.pow(2);
            let mut gaussians = BTreeMap::new();
            for category in &config.categories {
                let mean = format!("{PRIOR_MEAN}.{category}");
                if file.shape(&mean).is_none() {
                    continue;
                }
                let mean = file.take(&mean, &[positions, channels])?;
                let vectors = format!("{PRIOR_VECTORS}.{category}");
                let rows = file.shape(&vectors).and_then(|shape| shape.get(1)).copied();
                let shape = [positions, rows.unwrap_or(0), channels];
                let vectors = file.take(&vectors, &shape)?;
                gaussians.insert(category.clone(), Gaussians { mean, vectors });
            }
            let prior = Prior::from_parts(weight, gaussians);
            Some(prior.map_err(|e| file.fail(format!("its prior is of no use: {e}")))?)
        } else {
            None
        };
        let mut calibration = Calibration::default();
        let Calibration { categories, trained } = &mut calibration;
        let prefixed = [("calibration", categories), ("trained", trained)];
        for (prefix, categories) in prefixed {
            for category in &config.categories {
                let name = format!("{prefix}.{category}");
                let (rows, columns) = match file.shape(&name) {
                    None => continue,
                    Some(&[n, columns @ (COLUMNS | COLUMNS_OF_OLD)]) if n > 0 => {
                        (file.take(&name, &[n, columns])?.to_vec_f32(), columns)
                    }
                    Some(got) => {
                        let reason =
                            format!("tensor `{name}` should be (n ≥ 1, {COLUMNS}), got {got:?}");
                        return Err(file.fail(reason));
                    }
                };
                let images = rows.chunks_exact(columns).map(|r| ImageStats {
                    max: r[0],
                    abs: r[1],
                    block: r[2],
                    top5: r[3],
                    nll: r[4..].iter().map(|&part| f64::from(part)).sum(),
                });
                categories.insert(category.clone(), images.collect());
            }
        }
        file.finish()?;
        Ok(Self { config, denoiser, ema, whitening, levels, prior, calibration })
    }
}

/// A number as the sum of three, each the nearest to what those before it leave: exact, as 3 · 24 bits hold 53.
fn parts(number: f64) -> [f32; 3] {
    let mut left = number;
    [(); 3].map(|()| {
        let part = left as f32;
        left -= f64::from(part);
        part
    })
}
