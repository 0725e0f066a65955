//! The methods' scores and maps against a data set's labels and masks.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Baseline, NearestNeighbour, Padim};
use crate::backbones::{Loaded, Workspace};
use crate::checkpoint::CheckpointConfig;
use crate::data::{Dataset, Mask, Sample, load_sample};
use crate::detect::{Compared, Evaluated, PIXELS, backbone_of};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::tensor::{DType, Device, Tensor};
use crate::train::{divide, extract_features};

/// Test images that are judged at once.
const BATCH: usize = 32;

/// The metrics of the simpler methods on a data set, in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// [`Padim`].
    pub padim: Evaluated,
    /// [`NearestNeighbour`].
    pub nearest_neighbour: Evaluated,
}

/// Fits the methods to good images of each category, and compares what they say of its test
/// images with labels and masks as [`detect::evaluate`](crate::detect::evaluate) does.
///
/// `detector` is that of the detector that they are put beside: they are fitted to the images that it was
/// trained on and get their thresholds from those that were held out, if the data set is the one it was trained
/// with. A category that it does not know is divided in the same way.
///
/// `each` gets every image, the good ones of a category before those to test with, with what is wrong with
/// it, and ends the evaluation with an error of its own. A category's only good image comes twice, as it serves
/// for both.
///
/// # Errors
/// [`Error::Dataset`] if a category has no readable images to fit to, to take a threshold from or to test with;
/// [`Error::Argument`] if there is no backbone of the detector's; that of `each`.
pub fn evaluate(
    dataset: &Dataset,
    detector: &CheckpointConfig,
    mut each: impl FnMut(Result<()>) -> Result<()>,
) -> Result<Baselines> {
    let backbone = Loaded::new(backbone_of(detector)?, Device::Cpu)?;
    let (mut padim, mut nearest_neighbour) = (BTreeMap::new(), BTreeMap::new());
    for (i, category) in dataset.categories().iter().enumerate() {
        let known = detector.categories.iter().position(|name| *name == category.name);
        let split = divide(category, known.unwrap_or(i) as u64, detector.seed);
        let mut features = |indices: &[usize]| {
            let paths: Vec<_> = indices.iter().map(|&i| category.good()[i].path.clone()).collect();
            extract_features(&backbone, &paths, |_, read| each(read))
        };
        let (normal, held_out) = (features(&split.train)?, features(&split.held_out)?);
        let lacks = |what: &str| {
            let reason = format!("category `{}` has no readable {what}", category.name);
            Err(Error::dataset(dataset.root(), reason))
        };
        if normal.is_empty() || held_out.is_empty() {
            return lacks("good images in train/good, which baselines are fitted to");
        }
        let mut of_padim = Judged::<Padim>::new(&normal, &held_out)?;
        let mut of_nearest = Judged::<NearestNeighbour>::new(&normal, &held_out)?;
        test(&backbone, category.test(), &mut each, |features, known| {
            of_padim.add(features, known)?;
            of_nearest.add(features, known)
        })?;
        if of_padim.scores.is_empty() {
            return lacks("test images");
        }
        padim.insert(category.name.clone(), of_padim.metrics()?);
        nearest_neighbour.insert(category.name.clone(), of_nearest.metrics()?);
    }
    Ok(Baselines {
        padim: Evaluated::new(padim),
        nearest_neighbour: Evaluated::new(nearest_neighbour),
    })
}

/// What is known of a test image: its label and its mask, where there is one.
type Known<'a> = (&'a Sample, Option<Mask>);

/// Has `judge` the features of test images, a batch at a time, with what is known of them.
fn test(
    backbone: &Loaded,
    tests: &[Sample],
    each: &mut impl FnMut(Result<()>) -> Result<()>,
    mut judge: impl FnMut(&Tensor, &[Known]) -> Result<()>,
) -> Result<()> {
    let mut space = Workspace::default();
    for tests in tests.chunks(BATCH) {
        let mut known = Vec::new();
        let mut images = Vec::new();
        let loaded: Vec<_> = tests.par_iter().map(load_sample).collect();
        for (test, loaded) in tests.iter().zip(loaded) {
            each(loaded.map(|(image, mask)| {
                images.push(image);
                known.push((test, mask));
            }))?;
        }
        let shape = backbone.spec().features().of(images.len());
        let mut features = Tensor::zeros(&shape, DType::F32, Device::Cpu)?;
        backbone.extract(&images, &mut features, &mut space)?;
        judge(&features, &known)?;
    }
    Ok(())
}

/// A method, and what it says of test images.
struct Judged<M> {
    method: M,
    threshold: f64,
    scores: Vec<f64>,
    compared: Compared,
}

impl<M: Baseline + Sync> Judged<M> {
    fn new(normal: &Tensor, held_out: &Tensor) -> Result<Self> {
        let method = M::fit(normal)?;
        let threshold = method.threshold(held_out)?;
        Ok(Self { method, threshold, scores: Vec::new(), compared: Compared::default() })
    }

    fn add(&mut self, features: &Tensor, known: &[Known]) -> Result<()> {
        let maps = self.method.maps(features)?;
        let judged = maps.par_iter().map(|map| (M::score(map), map.resize(PIXELS, PIXELS)));
        let judged: Vec<_> = judged.collect();
        for ((score, map), (test, mask)) in judged.into_iter().zip(known) {
            self.scores.push(score);
            self.compared.add(test.defect.is_some(), mask.as_ref(), || map)?;
        }
        Ok(())
    }

    fn metrics(&self) -> Result<Metrics> {
        self.compared.metrics(&self.scores, Some(self.threshold))
    }
}
