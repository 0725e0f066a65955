//! Images → features → inversion → statistics and maps, a batch at a time: while one batch is computed,
//! the next is loaded.

use std::borrow::Borrow;
use std::iter;
use std::sync::{Mutex, PoisonError};

use image::RgbImage;
use rayon::prelude::*;

use super::AnomalyMap;
use crate::checkpoint::{Checkpoint, CheckpointConfig, ImageStats, Levels};
use crate::diffusion::{self, Inverter};
use crate::error::{Error, Result};
use crate::nn::features::{self, Inputs};
use crate::nn::{Backbone, Dit, Whitening, stored};
use crate::ops;
use crate::tensor::{DType, Device, Readback, Tensor};

/// What a detector computes with. It can be shared between threads.
pub(super) struct Measurer {
    pub backbone: Backbone,
    whitening: Option<Whitening>,
    inverter: Inverter,
    /// What maps are levelled by.
    pub levels: Option<Levels>,
    /// Images that are computed at once.
    pub batch_size: usize,
    slots: Pool<Slot>,
    spaces: Pool<Space>,
}

/// What goes to the device and comes from it for a batch. Two are in use, one loaded, one computed.
struct Slot {
    inputs: Inputs,
    /// The maps, then the statistics.
    results: Readback,
}

/// The device's memory for a batch. One is enough for a GPU, which computes batches in their order.
struct Space {
    features: Tensor,
    whitened: Option<Tensor>,
    backbone: features::Workspace,
    inverter: diffusion::Workspace,
}

/// Things made for a number of images, kept for the next batch of as many.
struct Pool<T>(Mutex<Vec<(usize, T)>>);

impl<T> Pool<T> {
    fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn take(&self, images: usize, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.iter().position(|(size, _)| *size == images) {
            Some(i) => Ok(kept.swap_remove(i).1),
            None => {
                drop(kept);
                make()
            }
        }
    }

    fn put(&self, images: usize, thing: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((images, thing));
    }
}

/// A batch on its way: what was loaded of each item, and where its results will be.
struct Batch<'a, I, L> {
    items: &'a [I],
    loaded: Vec<Result<L>>,
    slot: Slot,
}

/// Full batches, and the rest in powers of two: few sizes, since memory is kept for each.
fn batches<I>(mut items: &[I], size: usize) -> impl Iterator<Item = &[I]> {
    iter::from_fn(move || {
        let n = if items.len() >= size { size } else { 1 << items.len().checked_ilog2()? };
        let (batch, rest) = items.split_at(n);
        items = rest;
        Some(batch)
    })
}

impl Measurer {
    /// What the checkpoint of a detector describes, on a device.
    pub fn new(
        checkpoint: &Checkpoint,
        backbone: Backbone,
        device: Device,
        batch_size: usize,
    ) -> Result<Self> {
        let CheckpointConfig { recipe, denoiser, .. } = &checkpoint.config;
        denoiser.require(device)?;
        Ok(Self {
            backbone: backbone.to_device(device)?,
            inverter: Inverter::new(
                &Dit::new(*denoiser)?,
                &checkpoint.ema,
                recipe.parameterisation,
                recipe.inversion_steps,
                recipe.single_timestep,
                device,
            )?,
            whitening: checkpoint.whitening.as_ref().map(|w| w.on(device)).transpose()?,
            levels: checkpoint.levels.clone(),
            batch_size,
            slots: Pool::new(),
            spaces: Pool::new(),
        })
    }

    /// The same, computing so many images at once.
    pub fn with_batch_size(self, batch_size: usize) -> Self {
        Self { batch_size, slots: Pool::new(), spaces: Pool::new(), ..self }
    }

    pub fn device(&self) -> Device {
        self.inverter.device()
    }

    /// Measures what `load` makes of items. `each` gets every item in order, with what was loaded and
    /// measured or with what is wrong with it, and ends the measuring with an error of its own.
    pub fn measure<'a, I: Sync, B: Borrow<RgbImage> + Send, T: Send>(
        &self,
        items: &'a [I],
        load: impl Fn(&'a I) -> Result<(B, T)> + Sync,
        mut each: impl FnMut(&'a I, Result<((B, T), (ImageStats, AnomalyMap))>) -> Result<()>,
    ) -> Result<()> {
        let mut batch = None;
        for items in batches(items, self.batch_size).map(Some).chain([None]) {
            let loaded = batch.take();
            let begin = || items.map(|items| self.begin(items, &load)).transpose();
            let finish = || loaded.map(|batch| self.finish(batch)).transpose();
            let (next, done) = match self.device() {
                Device::Cpu => rayon::join(begin, finish),
                // All threads load while the GPU works.
                Device::Cuda(_) => (begin(), finish()),
            };
            for (item, result) in done?.into_iter().flatten() {
                each(item, result)?;
            }
            batch = next?;
        }
        Ok(())
    }

    /// Loads a batch; has a GPU begin to compute it.
    fn begin<'a, I: Sync, B: Borrow<RgbImage> + Send, T: Send>(
        &self,
        items: &'a [I],
        load: impl Fn(&'a I) -> Result<(B, T)> + Sync,
    ) -> Result<Batch<'a, I, (B, T)>> {
        let images = items.len();
        let mut slot = self.slots.take(images, || self.slot(images))?;
        let places = self.backbone.places(&mut slot.inputs)?;
        // Where an item cannot be loaded its place keeps an older image, whose results nobody reads.
        let loaded = places.into_par_iter().zip(items).map(|(place, item)| {
            let loaded = load(item)?;
            place.put(loaded.0.borrow())?;
            Ok(loaded)
        });
        let mut batch = Batch { items, loaded: loaded.collect(), slot };
        if self.device() != Device::Cpu {
            self.compute(&mut batch)?;
        }
        Ok(batch)
    }

    fn slot(&self, images: usize) -> Result<Slot> {
        let cells = self.backbone.grid().pow(2);
        Ok(Slot {
            inputs: self.backbone.inputs(images, self.device())?,
            results: Readback::new(images * (cells + ops::SCORE_STATS), self.device())?,
        })
    }

    fn space(&self, images: usize) -> Result<Space> {
        let (grid, channels) = (self.backbone.grid(), self.backbone.channels());
        let zeros = |dtype| Tensor::zeros(&[images, grid, grid, channels], dtype, self.device());
        let (features, whitened) = match self.whitening {
            Some(_) => (zeros(stored(self.device()))?, Some(zeros(DType::F32)?)),
            None => (zeros(DType::F32)?, None),
        };
        Ok(Space {
            features,
            whitened,
            backbone: features::Workspace::default(),
            inverter: self.inverter.workspace(images)?,
        })
    }

    fn compute<I, L>(&self, batch: &mut Batch<I, L>) -> Result<()> {
        if batch.loaded.iter().all(Result::is_err) {
            return Ok(());
        }
        let (images, slot) = (batch.items.len(), &mut batch.slot);
        let mut space = self.spaces.take(images, || self.space(images))?;
        let Space { features, whitened, backbone, inverter } = &mut space;
        self.backbone.features(&mut slot.inputs, features.view_mut(), backbone)?;
        let x = match (&self.whitening, whitened) {
            (Some(whitening), Some(whitened)) => {
                whitening.apply(&*features, &mut *whitened)?;
                whitened
            }
            _ => features,
        };
        let (maps, stats) = self.inverter.score(x, inverter)?;
        slot.results.start(&[maps, stats])?;
        self.spaces.put(images, space);
        Ok(())
    }

    /// Computes a batch, or waits for a GPU to do it.
    #[allow(clippy::type_complexity)]
    fn finish<'a, I, L>(
        &self,
        mut batch: Batch<'a, I, L>,
    ) -> Result<Vec<(&'a I, Result<(L, (ImageStats, AnomalyMap))>)>> {
        if self.device() == Device::Cpu {
            self.compute(&mut batch)?;
        }
        let Batch { items, loaded, mut slot } = batch;
        let side = self.backbone.grid();
        let (maps, stats) = slot.results.wait()?.split_at(items.len() * side * side);
        let rows = maps.chunks_exact(side * side).zip(stats.chunks_exact(ops::SCORE_STATS));
        let results = items.iter().zip(loaded).zip(rows).map(|((item, loaded), (map, row))| {
            let result = match loaded {
                Ok(loaded) => Ok((loaded, measured(side, map, row, self.levels.as_ref())?)),
                Err(e) => Err(e),
            };
            Ok((item, result))
        });
        let results = results.collect::<Result<_>>()?;
        self.slots.put(items.len(), slot);
        Ok(results)
    }
}

/// The statistics and the map of an image from the numbers of the device.
fn measured(
    side: usize,
    map: &[f32],
    row: &[f32],
    levels: Option<&Levels>,
) -> Result<(ImageStats, AnomalyMap)> {
    let &[max, _, abs, top5, nll] = row else { unreachable!("there are five statistics") };
    let map = AnomalyMap::new(side, map.to_vec())?;
    let stats = ImageStats { max, abs, block: map.block(), top5, nll };
    let (stats, map) = match levels {
        Some(levels) => levelled(levels, stats, &map)?,
        None => (stats, map),
    };
    if !map.values().iter().chain(&[stats.abs, stats.nll]).all(|v| v.is_finite()) {
        let expected = "one whose latents are finite; train again";
        return Err(Error::argument("score", "detector", expected, format!("{stats:?}")));
    }
    Ok((stats, map))
}

/// The levelled map, with the statistics that are of it.
pub(super) fn levelled(
    levels: &Levels,
    stats: ImageStats,
    map: &AnomalyMap,
) -> Result<(ImageStats, AnomalyMap)> {
    let mut values = map.values().to_vec();
    levels.apply(&mut values)?;
    let map = AnomalyMap::new(map.side(), values.clone())?;
    values.sort_unstable_by(|a, b| b.total_cmp(a));
    values.truncate(5);
    let top5 = values.iter().sum::<f32>() / values.len() as f32;
    Ok((ImageStats { max: values[0], block: map.block(), top5, ..stats }, map))
}
