//! The features of a training set.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::backbones::{Loaded, Workspace};
use crate::data::load_image;
use crate::error::Result;
use crate::tensor::{DType, Device, Tensor};

/// Images decoded at once.
const BATCH: usize = 16;

/// The features of image files, computed once: (n, G, G, C), n the number of files that could be
/// read, in order, on the host in f32. `each` gets every file in order, with what is wrong with it, and ends the work
/// with an error of its own.
///
/// # Errors
/// Those of the backbone; that of `each`.
pub fn extract_features(
    backbone: &Loaded,
    paths: &[PathBuf],
    mut each: impl FnMut(&Path, Result<()>) -> Result<()>,
) -> Result<Tensor> {
    let spec = backbone.spec();
    let image_len = spec.features().of(1).iter().product::<usize>();
    let mut space = Workspace::default();
    let mut all = Vec::with_capacity(paths.len() * image_len);
    let load = |paths: &[PathBuf]| -> Vec<_> { paths.par_iter().map(load_image).collect() };
    let mut batches = paths.chunks(BATCH);
    let mut batch = batches.next().unwrap_or_default();
    let mut loaded = load(batch);
    while !batch.is_empty() {
        let mut images = Vec::with_capacity(batch.len());
        for (path, read) in batch.iter().zip(loaded) {
            each(path, read.map(|image| images.push(image)))?;
        }
        let mut features =
            Tensor::zeros(&spec.features().of(images.len()), DType::F32, backbone.device())?;
        batch = batches.next().unwrap_or_default();
        let (next, done) =
            rayon::join(|| load(batch), || backbone.extract(&images, &mut features, &mut space));
        done?;
        loaded = next;
        all.extend(features.to_vec_f32());
    }
    let images = all.len() / image_len;
    Tensor::from_f32(all, &spec.features().of(images), Device::Cpu)
}
