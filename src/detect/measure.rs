//! Images → features → inversion → statistics and maps, in batches: while some are computed, the next are loaded.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::iter;
use std::sync::{Mutex, PoisonError};

use image::RgbImage;
use rayon::prelude::*;

use super::AnomalyMap;
use crate::backbones::{self, Inputs, Loaded};
use crate::checkpoint::{Checkpoint, CheckpointConfig, ImageStats, Levels};
use crate::denoisers::{self, Use};
use crate::device::{Key, Readback, Replay, overlapped};
use crate::diffusion::{self, Inverter};
use crate::error::{Error, Result};
use crate::gaussian::{Prior, Whitening};
use crate::ops;
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;

/// The order of the norm of blocks that an image's score is, where there is a prior.
const ORDER: f64 = 4.0;

/// What a detector computes with. It can be shared between threads.
pub(super) struct Measurer {
    pub backbone: Loaded,
    whitening: Option<Whitening>,
    inverter: Inverter,
    /// What maps are levelled by.
    levels: Option<Levels>,
    /// What latents are held against.
    prior: Option<DevicePrior>,
    /// Images that are computed at once.
    pub batch_size: usize,
    slots: Pool<Slot>,
    spaces: Pool<Space>,
}

/// A prior on the device.
struct DevicePrior {
    prior: Prior,
    /// Of each category.
    log_determinants: BTreeMap<String, Vec<f32>>,
}

impl DevicePrior {
    fn new(prior: &Prior, device: Device) -> Result<Self> {
        let names = prior.categories().keys();
        let logs = names.map(|name| Ok((name.clone(), prior.log_determinants(name)?)));
        Ok(Self { prior: prior.on(device)?, log_determinants: logs.collect::<Result<_>>()? })
    }

    /// Which of the categories explains most cells best, given the distances to those of each.
    fn likeliest(&self, categories: &[&str], maps: &[&[f32]]) -> usize {
        let unlikely = |i: usize| {
            let logs = &self.log_determinants[categories[i]];
            let cells = maps[i].iter().zip(logs).map(|(d, log)| d * d + log);
            median(&cells.collect::<Vec<f32>>())
        };
        let all = (0..categories.len()).map(|i| (i, unlikely(i)));
        all.min_by(|(_, a), (_, b)| a.total_cmp(b)).expect("there is a category").0
    }
}

/// Slots in use for each of the batches that are begun at once: of one a batch is loaded, of the other one is computed.
const SLOTS: usize = 2;

/// What goes to the device and comes from it for a batch.
struct Slot {
    inputs: Inputs,
    /// The statistics, then the maps: one of each image, or of each image for each category.
    results: Readback,
}

/// What a batch is computed in. One is enough for a GPU, which computes batches in their order.
struct Space {
    buffers: Buffers,
    /// All of a batch's work, which is of the [`Slot`] that it reads and of the categories.
    recorded: Replay<Vec<String>>,
}

/// The device's memory for a batch.
struct Buffers {
    features: Tensor,
    whitened: Option<Tensor>,
    backbone: backbones::Workspace,
    inverter: diffusion::Workspace,
    held: Option<Held>,
}

/// The device's memory for what is held against a prior.
struct Held {
    /// Latents as the prior turns them.
    turned: Tensor,
    stats: Tensor,
    norms: Tensor,
    /// For each category.
    maps: Tensor,
}

/// An image's latent (G², C), and what it amounts to.
pub(super) struct Latent {
    pub z: Vec<f32>,
    pub stats: OfLatent,
}

/// What is of a latent alone, whatever it is held against.
#[derive(Clone, Copy)]
pub(super) struct OfLatent {
    abs: f32,
    nll: f64,
}

impl OfLatent {
    /// From the statistics of [`ops::score`] of a latent of so many numbers.
    fn new(stats: &[f32], numbers: usize) -> Self {
        let &[_, _, abs, _, half_squares] = stats else {
            unreachable!("there are five statistics")
        };
        Self { abs, nll: ops::negative_log_likelihood(half_squares, numbers) }
    }
}

/// What an image amounts to.
pub(super) struct Measured {
    pub stats: ImageStats,
    pub map: AnomalyMap,
    /// Which of the categories it was held against, where there is a prior.
    pub category: usize,
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
        backbone: &Loaded,
        device: Device,
        batch_size: usize,
    ) -> Result<Self> {
        let denoiser = denoisers::read(&checkpoint.config.denoiser)?;
        let precision = Precision::of(device).with_products(checkpoint.config.products);
        denoiser.require(device, Use::Inference, precision)?;
        Ok(Self {
            backbone: backbone.to_device(device)?,
            inverter: inverter(checkpoint, device)?,
            whitening: checkpoint.whitening.as_ref().map(|w| w.on(device)).transpose()?,
            levels: checkpoint.levels.clone(),
            prior: checkpoint
                .prior
                .as_ref()
                .map(|prior| DevicePrior::new(prior, device))
                .transpose()?,
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

    /// Inverts as the checkpoint says from now on, and holds latents against nothing.
    pub fn invert_by(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.inverter = inverter(checkpoint, self.device())?;
        (self.prior, self.levels) = (None, None);
        self.slots = Pool::new();
        self.spaces = Pool::new();
        Ok(())
    }

    /// Holds latents against a prior from now on.
    pub fn hold_against(&mut self, prior: &Prior) -> Result<()> {
        self.prior = Some(DevicePrior::new(prior, self.device())?);
        self.levels = None;
        self.slots = Pool::new();
        self.spaces = Pool::new();
        Ok(())
    }

    /// Measures what `load` makes of items. Where there is a prior, latents are held against it as those of
    /// `categories`, of which there is one or more; an image is of the category under which its cells are
    /// likeliest. `each` gets every item in order, with what was loaded and measured or with what is wrong
    /// with it, and ends the measuring with an error of its own.
    pub fn measure<'a, I: Sync, B: Borrow<RgbImage> + Send, T: Send>(
        &self,
        items: &'a [I],
        categories: &[&str],
        load: impl Fn(&'a I) -> Result<(B, T)> + Sync,
        mut each: impl FnMut(&'a I, Result<((B, T), Measured)>) -> Result<()>,
    ) -> Result<()> {
        let all: Vec<_> = batches(items, self.batch_size).collect();
        overlapped(
            all.chunks(self.at_once()),
            |some| self.begin(some, categories, &load),
            |begun| {
                for batch in begun {
                    for (item, result) in self.finish(batch, categories)? {
                        each(item, result)?;
                    }
                }
                Ok(())
            },
        )
    }

    /// Loads a batch.
    fn load<'a, I: Sync, B: Borrow<RgbImage> + Send, T: Send>(
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
        Ok(Batch { items, loaded: loaded.collect(), slot })
    }

    /// Batches that are begun at once: on a GPU so many that all of the host's threads have an image to load.
    fn at_once(&self) -> usize {
        match self.device() {
            Device::Cpu => 1,
            Device::Cuda(_) => rayon::current_num_threads().div_ceil(self.batch_size),
        }
    }

    /// Loads batches; has a GPU begin to compute them.
    fn begin<'a, I: Sync, B: Borrow<RgbImage> + Send, T: Send>(
        &self,
        batches: &[&'a [I]],
        categories: &[&str],
        load: impl Fn(&'a I) -> Result<(B, T)> + Sync,
    ) -> Result<Vec<Batch<'a, I, (B, T)>>> {
        let loaded = batches.par_iter().map(|items| self.load(items, &load));
        let mut loaded = loaded.collect::<Result<Vec<_>>>()?;
        if self.device() != Device::Cpu {
            loaded.iter_mut().try_for_each(|batch| self.compute(batch, categories))?;
        }
        Ok(loaded)
    }

    fn slot(&self, images: usize) -> Result<Slot> {
        let maps = self.maps() * self.backbone.spec().grid.pow(2);
        Ok(Slot {
            inputs: self.backbone.inputs(images)?,
            results: Readback::new(images * (ops::SCORE_STATS + maps), self.device())?,
        })
    }

    /// The most maps of an image.
    fn maps(&self) -> usize {
        self.prior.as_ref().map_or(1, |held| held.log_determinants.len())
    }

    fn space(&self, images: usize) -> Result<Space> {
        let (grid, channels) = (self.backbone.spec().grid, self.backbone.spec().channels);
        let zeros = |dtype| Tensor::zeros(&[images, grid, grid, channels], dtype, self.device());
        let (features, whitened) = match self.whitening {
            Some(_) => (zeros(self.inverter.precision().dtype())?, Some(zeros(DType::F32)?)),
            None => (zeros(DType::F32)?, None),
        };
        let held = self.prior.as_ref().map(|_| {
            let numbers = |shape: &[usize]| Tensor::zeros(shape, DType::F32, self.device());
            let cells = grid * grid;
            Ok(Held {
                turned: numbers(&[images, cells, channels])?,
                stats: numbers(&[images, ops::SCORE_STATS])?,
                norms: numbers(&[images, cells])?,
                maps: numbers(&[self.maps(), images, cells])?,
            })
        });
        let buffers = Buffers {
            features,
            whitened,
            held: held.transpose()?,
            backbone: backbones::Workspace::default(),
            inverter: self.inverter.workspace(images)?,
        };
        Ok(Space { buffers, recorded: Replay::of(SLOTS * self.at_once()) })
    }

    fn compute<I, L>(&self, batch: &mut Batch<I, L>, categories: &[&str]) -> Result<()> {
        if batch.loaded.iter().all(Result::is_err) {
            return Ok(());
        }
        let (images, slot) = (batch.items.len(), &mut batch.slot);
        let mut space = self.spaces.take(images, || self.space(images))?;
        let Space { buffers, recorded } = &mut space;
        let names = categories.iter().map(|name| name.to_string()).collect();
        self.backbone.read(&mut slot.inputs, images, |rgb| {
            let key = Key::new(names, rgb)?;
            recorded.run(self.device(), key, || self.results(rgb, buffers, categories))
        })?;
        let (maps, stats) = match &buffers.held {
            Some(Held { stats, norms, maps, .. }) => {
                (maps.view().part(0, &[categories.len(), norms.len()])?, stats.view())
            }
            None => buffers.inverter.scores(),
        };
        slot.results.start(&[stats, maps])?;
        self.spaces.put(images, space);
        Ok(())
    }

    /// From bytes (B, H, W, 3) to the statistics and maps of their latents: the same work at every call with the same
    /// addresses.
    fn results(&self, rgb: TensorView, buffers: &mut Buffers, categories: &[&str]) -> Result<()> {
        let Buffers { features, whitened, backbone, inverter, held } = buffers;
        let x =
            self.features(features, whitened, |y| self.backbone.features_of(rgb, y, backbone))?;
        let (Some(DevicePrior { prior, .. }), Some(held)) = (&self.prior, held) else {
            return self.inverter.queue(x.view_mut(), inverter, true);
        };
        let Held { turned, stats, norms, maps } = held;
        self.inverter.queue(x.view_mut(), inverter, false)?;
        let z = x.view().part(0, turned.shape())?;
        ops::score(z, &mut *norms, &mut *stats)?;
        prior.turn(z, &mut *turned)?;
        for (i, category) in categories.iter().enumerate() {
            let map = maps.view_mut().part(i * norms.len(), norms.shape())?;
            prior.map(category, &*turned, map)?;
        }
        Ok(())
    }

    /// Features as the denoiser takes them, once `extract` has written the backbone's.
    fn features<'s>(
        &self,
        features: &'s mut Tensor,
        whitened: &'s mut Option<Tensor>,
        extract: impl FnOnce(TensorViewMut) -> Result<()>,
    ) -> Result<&'s mut Tensor> {
        extract(features.view_mut())?;
        match (&self.whitening, whitened) {
            (Some(whitening), Some(whitened)) => {
                whitening.apply(&*features, &mut *whitened)?;
                Ok(whitened)
            }
            _ => Ok(features),
        }
    }

    /// The latents (G², C) of items, with their [`ops::score`]; `None` where one cannot be loaded. `each` as
    /// in [`Measurer::measure`].
    pub fn latents<'a, I: Sync>(
        &self,
        items: &'a [I],
        load: impl Fn(&'a I) -> Result<RgbImage> + Sync,
        mut each: impl FnMut(&'a I, Result<()>) -> Result<()>,
    ) -> Result<Vec<Option<Latent>>> {
        let (cells, channels) = (self.backbone.spec().grid.pow(2), self.backbone.spec().channels);
        let mut all = Vec::with_capacity(items.len());
        let load = |items| self.load(items, |item| load(item).map(|image| (image, ())));
        overlapped(batches(items, self.batch_size), load, |batch| {
            let Batch { items, loaded, mut slot } = batch;
            let images = items.len();
            let mut space = self.spaces.take(images, || self.space(images))?;
            let Buffers { features, whitened, backbone, inverter, .. } = &mut space.buffers;
            let x = self.features(features, whitened, |y| {
                self.backbone.features(&mut slot.inputs, y, backbone)
            })?;
            self.inverter.invert(&mut *x, inverter)?;
            let z = x.view().part(0, &[images, cells, channels])?;
            let numbers = |shape: &[usize]| Tensor::zeros(shape, DType::F32, self.device());
            let mut stats = numbers(&[images, ops::SCORE_STATS])?;
            ops::score(z, &mut numbers(&[images, cells])?, &mut stats)?;
            let (z, stats) = (z.to_vec_f32(), stats.to_vec_f32());
            let rows = z.chunks_exact(cells * channels).zip(stats.chunks_exact(ops::SCORE_STATS));
            for ((item, loaded), (z, stats)) in items.iter().zip(loaded).zip(rows) {
                let stats = OfLatent::new(stats, cells * channels);
                let latent = loaded.map(|_| Latent { z: z.to_vec(), stats });
                let (latent, wrong) = match latent {
                    Ok(latent) => (Some(latent), Ok(())),
                    Err(e) => (None, Err(e)),
                };
                all.push(latent);
                each(item, wrong)?;
            }
            self.spaces.put(images, space);
            self.slots.put(images, slot);
            Ok(())
        })?;
        Ok(all)
    }

    /// Computes a batch, or waits for a GPU to do it.
    #[allow(clippy::type_complexity)]
    fn finish<'a, I, L>(
        &self,
        mut batch: Batch<'a, I, L>,
        categories: &[&str],
    ) -> Result<Vec<(&'a I, Result<(L, Measured)>)>> {
        if self.device() == Device::Cpu {
            self.compute(&mut batch, categories)?;
        }
        let Batch { items, loaded, mut slot } = batch;
        let side = self.backbone.spec().grid;
        let (images, cells) = (items.len(), side * side);
        let (stats, maps) = slot.results.wait()?.split_at(images * ops::SCORE_STATS);
        let results = items.iter().zip(loaded).enumerate().map(|(i, (item, loaded))| {
            let row = &stats[i * ops::SCORE_STATS..][..ops::SCORE_STATS];
            let latent = OfLatent::new(row, cells * self.backbone.spec().channels);
            let map = |category: usize| &maps[(category * images + i) * cells..][..cells];
            let measured = || match &self.prior {
                Some(prior) => {
                    let maps: Vec<_> = (0..categories.len()).map(map).collect();
                    let category = prior.likeliest(categories, &maps);
                    standing_out(side, maps[category], latent, category)
                }
                None => plain(side, map(0), latent, self.levels.as_ref()),
            };
            let result = match loaded {
                Ok(loaded) => Ok((loaded, measured()?)),
                Err(e) => Err(e),
            };
            Ok((item, result))
        });
        let results = results.collect::<Result<_>>()?;
        self.slots.put(images, slot);
        Ok(results)
    }
}

fn inverter(checkpoint: &Checkpoint, device: Device) -> Result<Inverter> {
    let CheckpointConfig { recipe, denoiser, products, .. } = &checkpoint.config;
    Inverter::in_precision(
        &*denoisers::read(denoiser)?,
        &checkpoint.ema,
        recipe.process(),
        (recipe.inversion_steps, recipe.single_timestep),
        device,
        Precision::of(device).with_products(*products),
    )
}

/// What a latent amounts to without a prior: its map is of its norms.
fn plain(side: usize, map: &[f32], latent: OfLatent, levels: Option<&Levels>) -> Result<Measured> {
    let mut map = map.to_vec();
    if let Some(levels) = levels {
        levels.apply(&mut map)?;
    }
    measured(AnomalyMap::new(side, map)?, f64::INFINITY, latent, 0)
}

/// What a latent amounts to by its distances to the latents of other images: the map is what stands out
/// of the image itself, whose light may be unlike that of all others.
pub(super) fn standing_out(
    side: usize,
    map: &[f32],
    latent: OfLatent,
    category: usize,
) -> Result<Measured> {
    let mean = map.iter().map(|&m| f64::from(m)).sum::<f64>() / map.len() as f64;
    let map = AnomalyMap::new(side, map.iter().map(|m| m - mean as f32).collect())?;
    measured(map, ORDER, latent, category)
}

fn measured(map: AnomalyMap, order: f64, latent: OfLatent, category: usize) -> Result<Measured> {
    let OfLatent { abs, nll } = latent;
    let [max, block, top5] = [map.top(1), map.block(order), map.top(5)];
    let stats = ImageStats { max, abs, block, top5, nll };
    if !(map.values().iter().all(|v| v.is_finite()) && abs.is_finite() && nll.is_finite()) {
        let expected = "one whose features and latents are finite: train again, or mend the backbone if it is one of your own";
        return Err(Error::argument("score", "detector", expected, format!("{stats:?}")));
    }
    Ok(Measured { stats, map, category })
}

/// The middle of some numbers, of two the mean.
fn median(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let n = sorted.len();
    0.5 * (sorted[(n - 1) / 2] + sorted[n / 2])
}
