//! The features of a training set.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::backbones::{Loaded, Place, Workspace};
use crate::data::load_image;
use crate::device::overlapped;
use crate::error::Result;
use crate::tensor::{DType, Device, Tensor};

/// Images computed at once.
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
    let inputs = Mutex::new(Vec::new());
    // Each image is resized where it was decoded, so that no more are held than there are threads.
    let load = |paths| {
        let kept = inputs.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut inputs = kept.map_or_else(|| backbone.inputs(BATCH), Ok)?;
        let places = backbone.places(&mut inputs)?;
        let load = |(place, path): (Place, &PathBuf)| place.put(&load_image(path)?);
        let read: Vec<_> = places.into_par_iter().zip(paths).map(load).collect();
        Ok((paths, read, inputs))
    };
    overlapped(paths.chunks(BATCH), load, |(paths, read, mut of)| {
        let is_read: Vec<_> = read.iter().map(Result::is_ok).collect();
        paths.iter().zip(read).try_for_each(|(path, read)| each(path, read))?;
        if is_read.contains(&true) {
            let shape = spec.features().of(paths.len());
            let mut features = Tensor::zeros(&shape, DType::F32, backbone.device())?;
            backbone.features(&mut of, features.view_mut(), &mut space)?;
            let features = features.to_vec_f32();
            let rows = features.chunks_exact(image_len).zip(is_read);
            rows.filter(|(_, read)| *read).for_each(|(row, _)| all.extend_from_slice(row));
        }
        inputs.lock().unwrap_or_else(PoisonError::into_inner).push(of);
        Ok(())
    })?;
    let images = all.len() / image_len;
    Tensor::from_f32(all, &spec.features().of(images), Device::Cpu)
}
