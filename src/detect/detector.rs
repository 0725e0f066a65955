//! A trained detector.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;

use super::measure::{Measured, Measurer, OfLatent, standing_out};
use super::scale::Scales;
use super::{AnomalyMap, ScoreOptions, drift};
use crate::backbones::{self, Backbone, BackboneSpec, Loaded};
use crate::checkpoint::{BackboneId, Calibration, Checkpoint, CheckpointConfig, ImageStats};
use crate::data::{Mask, load_image};
use crate::denoisers;
use crate::error::{Error, Result};
use crate::gaussian::Prior;
use crate::tensor::{Device, Tensor};
use crate::types::{Precision, Products};

/// Images that are computed at once by default.
const BATCH_SIZE: usize = 8;
/// The most images that can be computed at once.
const LARGEST_BATCH: usize = 1024;

/// What a detector says of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The calibrated score, in standard deviations above the mean of held-out normal images.
    pub score: f64,
    /// The score from which on an image counts as anomalous.
    pub threshold: f64,
    /// Whether the score reaches the threshold.
    pub is_anomalous: bool,
    /// Whether the whole image is unlike all normal ones: no such part, another view, no light. With a [`Prior`]
    /// the score is of what stands out within the image, and says little of such a one. Its latent's negative
    /// log-likelihood lies more than 5 standard deviations above the mean of held-out images, each of at least
    /// 3 % of it. Never without a prior, and not for being of another category that the network was trained on.
    pub is_unfamiliar: bool,
    /// The category whose normal images it was held against: that of the options, or the one that it
    /// likeliest is of. `None` of a detector without a [`Prior`].
    pub category: Option<String>,
    /// The uncalibrated numbers.
    pub stats: ImageStats,
    /// Where it differs from normal.
    pub map: AnomalyMap,
    /// From which value on a cell of the map of an anomalous image counts as anomalous: the threshold of
    /// [`ScoreKind::Top5`](super::ScoreKind::Top5) with a [`Prior`], or of [`ScoreKind::Block`](super::ScoreKind::Block).
    pub map_threshold: f32,
    /// The values to show as the lowest and the highest colour: what is common in normal images, and
    /// as far beyond 3 of their standard deviations. The same for all images.
    pub map_range: (f32, f32),
}

impl Scored {
    /// Which pixels of an image of `width` × `height` are anomalous: none of an image that is not. Of an
    /// anomalous one those whose map exceeds [`map_threshold`](Self::map_threshold) or, where none does, half of
    /// the way from what is common to the largest value, so that there is always a place to look at.
    ///
    /// `map`: [`map`](Self::map) as [`AnomalyMap::resize`] makes it for the image.
    ///
    /// # Errors
    /// [`Error::Shape`] if it has not as many values.
    pub fn region(&self, map: &[f32], width: usize, height: usize) -> Result<Mask> {
        let largest = map.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let half = 0.5 * (self.map_range.0.min(largest) + largest);
        let threshold = if largest > self.map_threshold { self.map_threshold } else { half };
        // Of an even map every value is the largest.
        let inside = |&v: &f32| self.is_anomalous && (v > threshold || v == largest);
        Mask::new(width, height, map.iter().map(inside).collect())
    }
}

/// A trained detector, ready to score. It can be shared between threads.
///
/// ```no_run
/// # fn main() -> invad::Result<()> {
/// let detector = invad::Detector::load("detector.safetensors")?;
/// let images = [invad::data::load_image("part.png")?];
/// for scored in detector.score(&images)? {
///     println!("{:.1} standard deviations, anomalous: {}", scored.score, scored.is_anomalous);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Detector {
    checkpoint: Checkpoint,
    measurer: Measurer,
}

impl fmt::Debug for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detector")
            .field("config", &self.checkpoint.config)
            .field("device", &self.device())
            .finish_non_exhaustive()
    }
}

/// The backbone that a detector was trained with.
pub(crate) fn backbone_of(config: &CheckpointConfig) -> Result<Arc<dyn Backbone>> {
    let backbone = backbones::named(&config.backbone.name)?;
    require_backbone(config, backbone.spec())?;
    Ok(backbone)
}

/// Whether a backbone is the one that a detector was trained with.
fn require_backbone(config: &CheckpointConfig, spec: &BackboneSpec) -> Result<()> {
    let wanted = &config.backbone;
    let got = BackboneId::from(spec);
    let refused = |arg, wanted, got: String| {
        let expected = format!("{wanted}, which the detector was trained with");
        Err(Error::argument("Detector", arg, expected, got))
    };
    if wanted.name != got.name {
        return refused("backbone", wanted.name.clone(), got.name);
    }
    if wanted.hash != got.hash {
        let of = spec.file.as_ref().map(|file| format!(" of {}", file.display()));
        let got = format!(
            "{}{}: have INVAD_WEIGHTS name the folder with the file that it was trained with; what `convert` makes of a \
             file counts as another than the file",
            got.hash,
            of.unwrap_or_default()
        );
        return refused(
            "backbone weights",
            format!("those of {} with hash {}", wanted.name, wanted.hash),
            got,
        );
    }
    if wanted.image_size != got.image_size {
        return refused("image size", wanted.image_size.to_string(), got.image_size.to_string());
    }
    Ok(())
}

impl Detector {
    /// Reads a detector file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`] if it is damaged, of another version, or
    /// made with a backbone or a kind of denoiser that is not registered.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let checkpoint = Checkpoint::load(path)?;
        Self::new(checkpoint).map_err(|e| Error::file(path, e.to_string()))
    }

    /// A detector from its parts.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no backbone of the name ([`backbones::named`]) or no such kind of denoisers, or
    /// the backbone is not the one that the denoiser was trained with.
    pub fn new(checkpoint: Checkpoint) -> Result<Self> {
        let backbone = backbone_of(&checkpoint.config)?;
        Self::on(checkpoint, &Loaded::new(backbone, Device::Cpu)?)
    }

    /// The same with a backbone that is loaded already, on the device that it is on.
    ///
    /// # Errors
    /// As [`Detector::new`] and [`Detector::to_device`].
    pub fn on(checkpoint: Checkpoint, backbone: &Loaded) -> Result<Self> {
        let spec = backbone.spec();
        require_backbone(&checkpoint.config, spec)?;
        let denoiser = denoisers::read(&checkpoint.config.denoiser)?.features();
        if denoiser != spec.features() {
            let expected = format!(
                "one of {} channels on a grid of {}, the features of `{}` (--backbone names another; docs/backbones.md \
                 has what each makes)",
                spec.channels, spec.grid, spec.name
            );
            let got = format!("{} on {}", denoiser.channels, denoiser.grid);
            return Err(Error::argument("Detector", "denoiser", expected, got));
        }
        let measurer = Measurer::new(&checkpoint, backbone, backbone.device(), BATCH_SIZE)?;
        Ok(Self { checkpoint, measurer })
    }

    /// The same detector, computing on a device; images are decoded and resized on the CPU.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device has not enough memory; those of
    /// [`Denoiser::require`](crate::denoisers::Denoiser::require).
    pub fn to_device(self, device: Device) -> Result<Self> {
        if device == self.device() {
            return Ok(self);
        }
        let Self { checkpoint, measurer: Measurer { backbone, batch_size, .. } } = self;
        let measurer = Measurer::new(&checkpoint, &backbone, device, batch_size)?;
        Ok(Self { checkpoint, measurer })
    }

    /// Where the detector computes.
    pub fn device(&self) -> Device {
        self.measurer.device()
    }

    /// What the network computes with.
    pub fn precision(&self) -> Precision {
        Precision::of(self.device()).with_products(self.config().products)
    }

    /// The same detector, computing so many images at once; 8 unless it is set. On the CPU an image's
    /// score and map are the same bits for any number. Memory grows with it, and a GPU is the faster the
    /// more images it has at once.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ `images` ≤ 1024.
    pub fn with_batch_size(self, images: usize) -> Result<Self> {
        if !(1..=LARGEST_BATCH).contains(&images) {
            let expected = format!("in 1..={LARGEST_BATCH}");
            return Err(Error::argument("Detector", "batch size", expected, images));
        }
        let measurer = self.measurer.with_batch_size(images);
        Ok(Self { measurer, ..self })
    }

    /// How many images the detector computes at once.
    pub fn batch_size(&self) -> usize {
        self.measurer.batch_size
    }

    /// How the detector was trained.
    pub fn config(&self) -> &CheckpointConfig {
        &self.checkpoint.config
    }

    /// All that its file has.
    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The statistics of normal images.
    pub fn calibration(&self) -> &Calibration {
        &self.checkpoint.calibration
    }

    /// What the user should know of the thresholds that images are judged by where
    /// [`ScoreOptions::category`] is `category`: that one cannot be relied on ([`Calibration::doubt`]), or that
    /// with a prior it is higher, since scores drift along the order of the held-out files ([`drift`]).
    pub fn doubts(&self, category: Option<&str>) -> Vec<String> {
        let calibration = self.calibration();
        if self.prior().is_none() {
            return calibration.doubt(category).into_iter().collect();
        }
        let drifting = |name: &str, held_out: &[ImageStats]| {
            let scores: Vec<_> = held_out.iter().map(|s| f64::from(s.block)).collect();
            (drift(&scores) > 0.0).then(|| {
                format!(
                    "the held-out images of `{name}` drift: along the order of the files their scores change by \
                     more than chance, so the threshold is higher; did the light, the camera or the parts change?"
                )
            })
        };
        let judged = calibration.categories.iter();
        let judged = judged.filter(|(name, _)| category.is_none_or(|c| c == *name));
        judged
            .filter_map(|(name, of)| calibration.doubt(Some(name)).or_else(|| drifting(name, of)))
            .collect()
    }

    /// What latents are held against, if they are.
    pub fn prior(&self) -> Option<&Prior> {
        self.checkpoint.prior.as_ref()
    }

    /// Evaluates the network once for an image, at `timestep`, from then on. What was learnt of normal images is
    /// forgotten, and [`Detector::learn_prior`] and a calibration are to follow.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `timestep` is one of the recipe's schedule; those of [`Detector::to_device`].
    pub fn set_timestep(&mut self, timestep: usize) -> Result<()> {
        let timesteps = self.config().recipe.schedule.timesteps();
        if timestep >= timesteps {
            let expected = format!("below {timesteps}");
            return Err(Error::argument("set_timestep", "timestep", expected, timestep));
        }
        self.invert_by(1, timestep)
    }

    /// Evaluates the network so many times for an image from then on, over all timesteps
    /// ([`Schedule::respaced`](crate::diffusion::Schedule::respaced)), or once at the recipe's
    /// [`single_timestep`](crate::checkpoint::Recipe::single_timestep). What was learnt of normal images is forgotten, and
    /// [`calibrate`](crate::calibrate) is to follow.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ `evaluations` ≤ T of the recipe's schedule; those of [`Detector::to_device`].
    pub fn set_evaluations(&mut self, evaluations: usize) -> Result<()> {
        let timesteps = self.config().recipe.schedule.timesteps();
        if !(1..=timesteps).contains(&evaluations) {
            let expected = format!("in 1..={timesteps}");
            return Err(Error::argument("set_evaluations", "evaluations", expected, evaluations));
        }
        self.invert_by(evaluations, self.config().recipe.single_timestep)
    }

    /// Has the network's linear layers multiply such numbers from then on, or with `None` those that the device has
    /// operations for. What was learnt of normal images is forgotten, and [`calibrate`](crate::calibrate) is to follow.
    ///
    /// # Errors
    /// Those of [`Detector::to_device`].
    pub fn set_products(&mut self, products: Option<Products>) -> Result<()> {
        let precision = Precision::of(self.device()).with_products(products);
        precision.require("Detector::set_products", self.device())?;
        self.checkpoint.config.products = products;
        self.forget()
    }

    fn invert_by(&mut self, evaluations: usize, timestep: usize) -> Result<()> {
        let recipe = &mut self.checkpoint.config.recipe;
        (recipe.inversion_steps, recipe.single_timestep) = (evaluations, timestep);
        self.forget()
    }

    /// Inverts as the checkpoint says, and forgets what was learnt by another inversion.
    fn forget(&mut self) -> Result<()> {
        (self.checkpoint.prior, self.checkpoint.levels) = (None, None);
        self.checkpoint.calibration = Calibration::default();
        self.measurer.invert_by(&self.checkpoint)
    }

    /// Learns from files of good images, by category, what their latents are like at each position,
    /// and holds all latents against that from then on ([`Prior`]): an image's map is how far each cell
    /// is from it, less the mean of its cells. Where the recipe has no prior, as the paper's has none
    /// ([`Recipe::prior`]), maps are the latents' norms. Calibrations made before are forgotten.
    ///
    /// Returns the statistics of each image for [`Detector::calibrate_files`], `None` where it cannot be
    /// read: those of an image held against the others of its category. `each` gets every file in order, with
    /// what is wrong with it, and ends the learning with an error of its own.
    ///
    /// # Errors
    /// [`Error::Argument`] if the detector was not trained on a category, none of its files can be read, or
    /// the network overflows; that of `each`.
    ///
    /// [`Recipe::prior`]: crate::checkpoint::Recipe::prior
    pub fn learn_prior<P: AsRef<Path> + Sync>(
        &mut self,
        trained: &[(String, Vec<P>)],
        mut each: impl FnMut(&P, Result<()>) -> Result<()>,
    ) -> Result<Vec<Vec<Option<ImageStats>>>> {
        let known = |name: &String| self.checkpoint.config.categories.contains(name);
        if let Some((name, _)) = trained.iter().find(|(name, _)| !known(name)) {
            let expected = format!("one of {}", self.checkpoint.config.categories.join(", "));
            return Err(Error::argument("learn_prior", "category", expected, name));
        }
        self.checkpoint.calibration = Calibration::default();
        if !self.config().recipe.prior {
            let stats = trained.iter().map(|(_, paths)| self.measure_files(paths, &[], &mut each));
            return stats.collect();
        }
        let side = self.measurer.backbone.spec().grid;
        let (mut latents, mut numbers) = (Vec::new(), Vec::new());
        for (name, paths) in trained {
            let measured = self.measurer.latents(paths, load_image, &mut each)?;
            let mut all = Vec::new();
            let mut stats = Vec::new();
            for latent in measured {
                stats.push(latent.map(|latent| {
                    all.extend_from_slice(&latent.z);
                    latent.stats
                }));
            }
            let count = stats.iter().flatten().count();
            let shape = [count, side * side, self.measurer.backbone.spec().channels];
            latents.push((name.clone(), Tensor::from_f32(all, &shape, Device::Cpu)?));
            numbers.push(stats);
        }
        let (prior, maps) = Prior::fit(&latents)?;
        let measured = numbers.into_iter().zip(maps).map(|(stats, maps)| {
            let maps = maps.to_vec_f32();
            let mut maps = maps.chunks_exact(side * side);
            let image = |latent: Option<OfLatent>| -> Result<_> {
                let Some(latent) = latent else { return Ok(None) };
                let map = maps.next().expect("a map of each image");
                Ok(Some(standing_out(side, map, latent, 0)?.stats))
            };
            stats.into_iter().map(image).collect()
        });
        let measured = measured.collect::<Result<_>>()?;
        self.measurer.hold_against(&prior)?;
        self.checkpoint.levels = None;
        self.checkpoint.prior = Some(prior);
        Ok(measured)
    }

    /// Calibrates a category with normal images that took no part in training, `held_out`, and with
    /// those `trained` on, if any are at hand: how much scores vary is taken from both. Held against a
    /// prior that was learnt from them, images trained on vary too little: then leave them out, or see
    /// [`Detector::calibrate_files`]. Copies of an image count once.
    ///
    /// # Errors
    /// [`Error::Argument`] if no images are held out, or the detector was not trained on the category.
    pub fn calibrate(
        &mut self,
        category: &str,
        held_out: &[RgbImage],
        trained: &[RgbImage],
    ) -> Result<()> {
        let stats = |images| -> Result<_> {
            let mut all = Vec::new();
            self.measure(images, &[category], |measured| all.push(measured.stats))?;
            Ok(all)
        };
        let (held_out, trained) = (stats(held_out)?, stats(trained)?);
        self.set_calibration(category, held_out, trained)
    }

    /// Calibrates a category as [`Detector::calibrate`] does, with image files, of which a few are held
    /// at a time, and with the statistics of images trained on: those that [`Detector::learn_prior`]
    /// returned, or those of an earlier calibration, [`Calibration::trained`]. `each` gets every file in
    /// order, with what is wrong with it, and ends the calibration with an error of its own.
    ///
    /// # Errors
    /// As [`Detector::calibrate`], if no held-out file can be read; that of `each`.
    pub fn calibrate_files<P: AsRef<Path> + Sync>(
        &mut self,
        category: &str,
        held_out: &[P],
        trained: Vec<ImageStats>,
        each: impl FnMut(&P, Result<()>) -> Result<()>,
    ) -> Result<()> {
        let held_out = self.measure_files(held_out, &[category], each)?;
        let held_out = held_out.into_iter().flatten().collect();
        self.set_calibration(category, held_out, trained)
    }

    /// The statistics of each image file, `None` where it cannot be read.
    fn measure_files<P: AsRef<Path> + Sync>(
        &self,
        paths: &[P],
        categories: &[&str],
        mut each: impl FnMut(&P, Result<()>) -> Result<()>,
    ) -> Result<Vec<Option<ImageStats>>> {
        let mut all = Vec::with_capacity(paths.len());
        let load = |path: &P| Ok((load_image(path)?, ()));
        self.measurer.measure(paths, categories, load, |path, result| {
            let (stats, wrong) = match result {
                Ok((_, measured)) => (Some(measured.stats), Ok(())),
                Err(e) => (None, Err(e)),
            };
            all.push(stats);
            each(path, wrong)
        })?;
        Ok(all)
    }

    /// Calibrates a category with the statistics of held-out images and of those trained on. Copies of an image
    /// count once, and as trained on if one was: they say nothing of how much images vary.
    pub(crate) fn set_calibration(
        &mut self,
        category: &str,
        held_out: Vec<ImageStats>,
        trained: Vec<ImageStats>,
    ) -> Result<()> {
        let categories = &self.checkpoint.config.categories;
        if !categories.iter().any(|c| c == category) {
            let expected = format!("one of {}", categories.join(", "));
            return Err(Error::argument("calibrate", "category", expected, category));
        }
        if held_out.is_empty() {
            return Err(Error::argument("calibrate", "held_out", "at least one image", 0));
        }
        let [held_out, trained] = [held_out, trained].map(|images| distinct(images, &[]));
        // What was trained on in another file was not held out; where it all was, `Calibration::doubt` says so.
        let others = distinct(held_out.clone(), &trained);
        let held_out = if others.is_empty() { held_out } else { others };
        let calibration = &mut self.checkpoint.calibration;
        calibration.categories.insert(category.into(), held_out);
        calibration.trained.remove(category);
        if !trained.is_empty() {
            calibration.trained.insert(category.into(), trained);
        }
        Ok(())
    }

    /// Writes the detector's file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.checkpoint.save(path)
    }

    /// The scores of images of these statistics, and the threshold, as [`Detector::score_with`] has them.
    pub(crate) fn scores(
        &self,
        images: &[ImageStats],
        options: &ScoreOptions,
    ) -> Result<(Vec<f64>, f64)> {
        Ok(Scales::new(&self.checkpoint, options)?.scores(images))
    }

    /// Scores images with the default options.
    ///
    /// # Errors
    /// As [`Detector::score_with`].
    pub fn score(&self, images: &[RgbImage]) -> Result<Vec<Scored>> {
        self.score_with(images, &ScoreOptions::default())
    }

    /// Scores images. An image's score does not depend on the images beside it.
    ///
    /// # Errors
    /// [`Error::Argument`] if the detector has no calibration for the category, an option is out
    /// of range, an image is empty, or the network overflows.
    pub fn score_with(&self, images: &[RgbImage], options: &ScoreOptions) -> Result<Vec<Scored>> {
        let scales = Scales::new(&self.checkpoint, options)?;
        let mut all = Vec::with_capacity(images.len());
        self.measure(images, &scales.names, |measured| all.push(scales.judge(measured)))?;
        Ok(all)
    }

    /// Scores image files, decoding the next ones while these are computed and `each` looks at them; holds two batches of
    /// images at a time, on a GPU as many as give each of the host's threads one to decode. `each` gets every file in order,
    /// with its image and score or with what is wrong with it, and ends the scoring with an error of its own.
    ///
    /// # Errors
    /// As [`Detector::score_with`]; that of `each`. What is wrong with a file only reaches `each`.
    pub fn score_files<P: AsRef<Path> + Sync>(
        &self,
        paths: &[P],
        options: &ScoreOptions,
        mut each: impl FnMut(&P, Result<(RgbImage, Scored)>) -> Result<()>,
    ) -> Result<()> {
        let load = |path: &P| Ok((load_image(path)?, ()));
        self.score_items(paths, options, load, |path, result| {
            each(path, result.map(|(image, (), scored)| (image, scored)))
        })
    }

    pub(super) fn score_items<'i, I: Sync, T: Send>(
        &self,
        items: &'i [I],
        options: &ScoreOptions,
        load: impl Fn(&I) -> Result<(RgbImage, T)> + Sync,
        mut each: impl FnMut(&'i I, Result<(RgbImage, T, Scored)>) -> Result<()>,
    ) -> Result<()> {
        let scales = Scales::new(&self.checkpoint, options)?;
        self.measurer.measure(items, &scales.names, load, |item, result| {
            each(
                item,
                result.map(|((image, extra), measured)| (image, extra, scales.judge(measured))),
            )
        })
    }

    /// What each image amounts to, to `each` in order.
    fn measure(
        &self,
        images: &[RgbImage],
        categories: &[&str],
        mut each: impl FnMut(Measured),
    ) -> Result<()> {
        let load = |image| Ok((image, ()));
        self.measurer.measure(images, categories, load, |_: &RgbImage, result| {
            each(result?.1);
            Ok(())
        })
    }
}

/// Those of images that differ from each other and from `others`, as they come.
fn distinct(mut images: Vec<ImageStats>, others: &[ImageStats]) -> Vec<ImageStats> {
    let mut seen: HashSet<_> = others.iter().map(ImageStats::latent).collect();
    images.retain(|of| seen.insert(of.latent()));
    images
}
