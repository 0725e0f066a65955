//! A detector in one setting after another.

use std::collections::BTreeMap;

use image::RgbImage;

use super::engine::Event;
use super::measure::{self, Measurement};
use super::reconstruct::Reconstruction;
use super::setting::{Method, Setting};
use super::unreadable::Unreadable;
use crate::backbones::{Loaded, Remembered};
use crate::data::Dataset;
use crate::denoisers;
use crate::detect::Detector;
use crate::error::Result;
use crate::fit::{self, Control, calibrate};

/// A detector that is measured in one way after another.
pub(super) struct Measuring<'a> {
    pub detector: Detector,
    /// On the CPU.
    pub backbone: &'a Loaded,
    pub remembered: &'a Remembered,
    pub dataset: &'a Dataset,
    pub batch: usize,
    /// Images that the training left out.
    pub unreadable: Vec<Unreadable>,
}

impl Measuring<'_> {
    pub fn measure(
        &mut self,
        setting: &Setting,
        observe: &mut dyn FnMut(Event) -> Control,
    ) -> Result<Measurement> {
        match setting.method {
            Method::Inversion => {
                if self.detector.config().recipe.inversion_steps != setting.evaluations {
                    self.detector.set_evaluations(setting.evaluations)?;
                    let observe = |event: fit::Event| observe(Event::Fit(event));
                    calibrate(&mut self.detector, self.dataset, observe)?.go_on()?;
                }
                self.inversion(setting, observe)
            }
            Method::Reconstruction { noise_step } => {
                self.reconstruction(setting, noise_step, observe)
            }
        }
    }

    fn inversion(
        &self,
        setting: &Setting,
        observe: &mut dyn FnMut(Event) -> Control,
    ) -> Result<Measurement> {
        let tests = self.dataset.categories().iter().map(|category| category.test().len());
        let mut unreadable = self.unreadable.clone();
        let mut each = self.counted(setting, tests.sum(), &mut unreadable, observe);
        let mut categories = BTreeMap::new();
        for category in self.dataset.categories() {
            let measured = measure::category(&self.detector, self.dataset, category, &mut each)?;
            categories.insert(category.name.clone(), measured);
        }
        drop(each);
        let score = |images: &[RgbImage]| self.detector.score(images).map(drop);
        let images_per_second = self.images_per_second(setting, score, observe)?;
        let parameters = self.parameters()?;
        Ok(Measurement { images_per_second, parameters, categories, unreadable })
    }

    fn reconstruction(
        &self,
        setting: &Setting,
        noise_step: usize,
        observe: &mut dyn FnMut(Event) -> Control,
    ) -> Result<Measurement> {
        let steps = (setting.evaluations, noise_step);
        let device = self.detector.device();
        let checkpoint = self.detector.checkpoint();
        let mut of = Reconstruction::new(checkpoint, self.backbone, steps, device, self.batch)?;
        let total = self
            .dataset
            .categories()
            .iter()
            .enumerate()
            .map(|(i, category)| category.test().len() + of.held_out(category, i).len());
        let mut unreadable = self.unreadable.clone();
        let mut each = self.counted(setting, total.sum(), &mut unreadable, observe);
        let mut categories = BTreeMap::new();
        for (i, category) in self.dataset.categories().iter().enumerate() {
            let measured = of.category(self.dataset, i, &mut each)?;
            categories.insert(category.name.clone(), measured);
        }
        drop(each);
        let noise = of.noise(0)?;
        let score = |images: &[RgbImage]| of.errors(images, &noise).map(drop);
        let images_per_second = self.images_per_second(setting, score, observe)?;
        let parameters = self.parameters()?;
        Ok(Measurement { images_per_second, parameters, categories, unreadable })
    }

    /// Of the first images, with all their features computed.
    fn images_per_second(
        &self,
        setting: &Setting,
        mut score: impl FnMut(&[RgbImage]) -> Result<()>,
        observe: &mut dyn FnMut(Event) -> Control,
    ) -> Result<f64> {
        let images = measure::images(self.dataset, self.batch);
        self.remembered.without(|| {
            measure::images_per_second(&images, |images| {
                score(images)?;
                observe(Event::Timing { setting }).go_on()
            })
        })
    }

    fn parameters(&self) -> Result<usize> {
        Ok(denoisers::read(&self.detector.config().denoiser)?.len())
    }

    /// Counts images for `observe`, which may stop, and gathers those that cannot be read.
    fn counted<'c>(
        &'c self,
        setting: &'c Setting,
        total: usize,
        unreadable: &'c mut Vec<Unreadable>,
        observe: &'c mut dyn FnMut(Event) -> Control,
    ) -> impl FnMut(Result<()>) -> Result<()> + 'c {
        let mut done = 0;
        move |read| {
            if let Err(error) = read {
                let of = Unreadable::of(&error, self.dataset);
                if !unreadable.contains(&of) {
                    unreadable.push(of);
                }
                observe(Event::Unreadable(&error)).go_on()?;
            }
            done += 1;
            observe(Event::Measuring { setting, done, total }).go_on()
        }
    }
}
