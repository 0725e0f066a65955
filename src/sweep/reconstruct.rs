//! The reconstruction baseline on test images.

use image::RgbImage;
use rayon::prelude::*;

use super::measure::CategoryMeasured;
use super::setting::Score;
use crate::backbones::{self, Loaded};
use crate::checkpoint::Checkpoint;
use crate::data::{Category, Dataset, Sample, load_sample};
use crate::denoisers;
use crate::detect::{AnomalyMap, Compared, DEVIATIONS, Moments, PIXELS, require_tests, unreadable};
use crate::diffusion::{
    Inverter, ReconstructionErrors, Reconstructor, Workspace, reconstruction_errors,
};
use crate::error::{Error, Result};
use crate::ops::{self, Random, Stream};
use crate::tensor::{DType, Device, Tensor};
use crate::train::divide;

/// A detector's network that reconstructs.
pub(super) struct Reconstruction<'a> {
    checkpoint: &'a Checkpoint,
    /// On the CPU.
    backbone: &'a Loaded,
    reconstructor: Reconstructor,
    device: Device,
    batch: usize,
    features: backbones::Workspace,
    /// For how many images.
    space: Option<(usize, Workspace)>,
}

impl<'a> Reconstruction<'a> {
    /// From step `noise_step` of `steps`.
    pub fn new(
        checkpoint: &'a Checkpoint,
        backbone: &'a Loaded,
        (steps, noise_step): (usize, usize),
        device: Device,
        batch: usize,
    ) -> Result<Self> {
        let denoiser = denoisers::read(&checkpoint.config.denoiser)?;
        let process = checkpoint.config.recipe.process();
        let inverter = Inverter::new(&*denoiser, &checkpoint.ema, process, steps, 0, device)?;
        let reconstructor = Reconstructor::new(inverter, noise_step)?;
        let features = backbones::Workspace::default();
        Ok(Self { checkpoint, backbone, reconstructor, device, batch, features, space: None })
    }

    /// (1, G, G, C): the noise of all images of a category, the `number`-th of the detector's.
    pub fn noise(&self, number: usize) -> Result<Tensor> {
        let shape = self.backbone.spec().features().of(1);
        let mut noise = Tensor::zeros(&shape, DType::F32, Device::Cpu)?;
        let (seed, stream) = (self.checkpoint.config.seed, Stream::Reconstruction);
        ops::normal(Random { seed, stream, step: number as u64 }, &mut noise)?;
        Ok(noise)
    }

    /// How far images are from their reconstructions.
    pub fn errors(&mut self, images: &[RgbImage], noise: &Tensor) -> Result<ReconstructionErrors> {
        let shape = self.backbone.spec().features().of(images.len());
        let zeros = || Tensor::zeros(&shape, DType::F32, Device::Cpu);
        let mut features = zeros()?;
        self.backbone.extract(images, &mut features, &mut self.features)?;
        if let Some(whitening) = &self.checkpoint.whitening {
            let mut whitened = zeros()?;
            whitening.apply(&features, &mut whitened)?;
            features = whitened;
        }
        let noised = self.reconstructor.noised(&features, noise)?;
        let mut x = noised.view().copied_to(self.device, DType::F32)?;
        let space = match &mut self.space {
            Some((size, space)) if *size == images.len() => space,
            other => {
                &mut other.insert((images.len(), self.reconstructor.workspace(images.len())?)).1
            }
        };
        self.reconstructor.reconstruct(&mut x, space)?;
        let errors = reconstruction_errors(&features, &x)?;
        if let Some(mean) = errors.means.iter().find(|mean| !mean.is_finite()) {
            let expected = "one whose features and reconstructions are finite: train again";
            return Err(Error::argument("reconstruct", "detector", expected, mean));
        }
        Ok(errors)
    }

    /// Measures the test images of category `number` of a data set. `each` gets every image, and the held-out ones before.
    pub fn category(
        &mut self,
        dataset: &Dataset,
        number: usize,
        mut each: impl FnMut(Result<()>) -> Result<()>,
    ) -> Result<CategoryMeasured> {
        let category = &dataset.categories()[number];
        require_tests(dataset, category)?;
        let noise = self.noise(number)?;
        let side = self.backbone.spec().grid;
        let mut held_out = Vec::new();
        let of_held_out: Vec<_> = self.held_out(category, number);
        self.all(&of_held_out, &noise, &mut each, |_, _, error, _| {
            held_out.push(error);
            Ok(())
        })?;
        let moments = Moments::of(held_out.iter().copied());
        let (mut errors, mut cubic, mut bilinear) =
            (Vec::new(), Compared::default(), Compared::default());
        let tests: Vec<&Sample> = category.test().iter().collect();
        self.all(&tests, &noise, &mut each, |test, mask, error, map| {
            errors.push(error);
            let (map, defective) = (AnomalyMap::new(side, map)?, test.defect.is_some());
            cubic.add(defective, mask, || map.resize(PIXELS, PIXELS))?;
            bilinear.add(defective, mask, || map.resize_bilinear(PIXELS, PIXELS))
        })?;
        if errors.is_empty() {
            return Err(unreadable(dataset, category));
        }
        let mut measured =
            CategoryMeasured { defective: cubic.labels().into(), ..Default::default() };
        let scores: Vec<f64> = errors.iter().map(|error| moments.standardise(*error)).collect();
        let threshold = moments.standardise(moments.bound(DEVIATIONS));
        measured.calibrated.insert(Score::Error, cubic.metrics(&scores, Some(threshold))?);
        // Scaled to a range they would be in the same order.
        measured.paper.insert(Score::Error, bilinear.metrics(&errors, None)?);
        measured.scores.insert(Score::Error, errors);
        Ok(measured)
    }

    pub fn held_out<'c>(&self, category: &'c Category, number: usize) -> Vec<&'c Sample> {
        let split = divide(category, number as u64, self.checkpoint.config.seed);
        split.held_out.iter().map(|&i| &category.good()[i]).collect()
    }

    /// Reconstructs samples, a batch at a time.
    fn all<'s>(
        &mut self,
        samples: &[&'s Sample],
        noise: &Tensor,
        each: &mut impl FnMut(Result<()>) -> Result<()>,
        mut judged: impl FnMut(&'s Sample, Option<&crate::data::Mask>, f64, Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        for samples in samples.chunks(self.batch) {
            let loaded: Vec<_> = samples.par_iter().map(|sample| load_sample(sample)).collect();
            let (mut images, mut known) = (Vec::new(), Vec::new());
            for (sample, loaded) in samples.iter().zip(loaded) {
                each(loaded.map(|(image, mask)| {
                    images.push(image);
                    known.push((*sample, mask));
                }))?;
            }
            if images.is_empty() {
                continue;
            }
            let ReconstructionErrors { maps, means } = self.errors(&images, noise)?;
            for ((sample, mask), (mean, map)) in known.into_iter().zip(means.into_iter().zip(maps))
            {
                judged(sample, mask.as_ref(), mean, map)?;
            }
        }
        Ok(())
    }
}
