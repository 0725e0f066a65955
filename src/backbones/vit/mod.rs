//! Vision Transformers as frozen feature extractors: the tokens of chosen blocks.
//!
//! Dosovitskiy et al., "An Image is Worth 16×16 Words", 2021, and with the same structure DINO (Caron et al., 2021) and
//! DINOv2 (Oquab et al., 2023), which has a gain for each channel of a branch and may have registers.
//!
//! A block's normalisation, residual and gain are one AdaLN-Zero operation, whose vectors are the same for all images.

mod config;
mod network;
mod positions;
mod read;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Backbone, BackboneSpec, Packed};
use crate::error::Result;
use crate::tensor::Device;
use crate::types::Precision;
use crate::weights::{Weights, hexadecimal};
use read::Reader;

pub use config::VitConfig;
pub use network::Vit;
pub use positions::Resampling;

/// A Vision Transformer with the weights of a file, to be given to [`register`](super::register).
///
/// The file's names are those of facebookresearch's DINO and DINOv2 (`blocks.0.attn.qkv.weight`), of timm or of
/// transformers, of any version, also after `module.`, `backbone.`, `vit.` or `dinov2.`; what the network does not have,
/// as a classifier, is not read. The [`hash`](BackboneSpec::hash) tells apart files, and also what is made of them.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) if sizes do not fit together, as an image size that is no multiple of the patch;
/// [`Error::File`](crate::Error::File) if the file lacks a tensor, which is named as facebookresearch does; [`Error::Io`](crate::Error::Io) if it cannot be
/// read.
pub fn vit(
    name: impl Into<String>,
    config: VitConfig,
    weights: Weights,
) -> Result<Arc<dyn Backbone>> {
    let size = config.image_size;
    let [grid, _] = config.grid([size; 2])?;
    let reader = Reader::new(weights, &config)?;
    let VitConfig { resampling, ref blocks, norm, mean, std, .. } = config;
    let made = format!("{} {resampling:?} {blocks:?} {norm} {:?}", reader.hash()?, reader.eps()?);
    let hash = hexadecimal(Sha256::digest(made));
    let spec =
        BackboneSpec::new(name, hash, size, config.channels(), grid).with_file(reader.path());
    Ok(Arc::new(Frozen { spec: spec.with_normalisation(mean, std), reader, config }))
}

/// A network and where its weights are.
struct Frozen {
    spec: BackboneSpec,
    config: VitConfig,
    reader: Reader,
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vit").field("spec", &self.spec).field("config", &self.config).finish()
    }
}

impl Backbone for Frozen {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn pack(&self, device: Device, precision: Precision) -> Result<Arc<dyn Packed>> {
        precision.require("backbone", device)?;
        let image = [self.spec.image_size; 2];
        Ok(Arc::new(Vit::of(&self.config, &self.reader, image, device)?))
    }
}

impl VitConfig {
    /// Writes what the network is read from to a file of safetensors, in f32 and under the names of facebookresearch, with ε
    /// as a text beside the tensors; returns the names of those that it does not need. Weights that a library has split or
    /// named otherwise become the same file.
    ///
    /// # Errors
    /// As [`vit`]; [`Error::Io`](crate::Error::Io) if the file cannot be written.
    pub fn convert(&self, weights: Weights, to: impl AsRef<Path>) -> Result<Vec<String>> {
        Reader::new(weights, self)?.convert(to.as_ref())
    }
}
