//! The features of a training set.

use std::path::PathBuf;

use rayon::prelude::*;

use crate::backbones::{Loaded, Workspace};
use crate::data::load_image;
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor};

/// Images decoded at once.
const BATCH: usize = 16;

/// The features of image files, computed once: (n, G, G, C), n the number of files that could be
/// read, in order, on the host in f32. What is wrong with each other file goes to `unreadable`; `each` is called for
/// every file.
///
/// # Errors
/// Those of the backbone.
pub fn extract_features(
    backbone: &Loaded,
    paths: &[PathBuf],
    mut unreadable: impl FnMut(Error),
    mut each: impl FnMut(),
) -> Result<Tensor> {
    let spec = backbone.spec();
    let image_len = spec.features().of(1).iter().product::<usize>();
    let mut space = Workspace::default();
    let mut all = Vec::with_capacity(paths.len() * image_len);
    let load = |paths: &[PathBuf]| -> Vec<_> { paths.par_iter().map(load_image).collect() };
    let mut batches = paths.chunks(BATCH);
    let mut loaded = load(batches.next().unwrap_or_default());
    while !loaded.is_empty() {
        let mut images = Vec::with_capacity(loaded.len());
        for result in std::mem::take(&mut loaded) {
            match result {
                Ok(image) => images.push(image),
                Err(e) => unreadable(e),
            }
            each();
        }
        let mut features =
            Tensor::zeros(&spec.features().of(images.len()), DType::F32, backbone.device())?;
        let next = batches.next().unwrap_or_default();
        let (next, done) =
            rayon::join(|| load(next), || backbone.extract(&images, &mut features, &mut space));
        done?;
        loaded = next;
        all.extend(features.to_vec_f32());
    }
    let images = all.len() / image_len;
    Tensor::from_f32(all, &spec.features().of(images), Device::Cpu)
}
