//! A backbone on a device, and images on their way to it.

use std::fmt;
use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;

use super::{Backbone, BackboneSpec, Extractor, Filter, Packed};
use crate::cpu;
use crate::device::Upload;
use crate::error::{Error, Result};
use crate::ops::expect_shape;
use crate::tensor::{Device, TensorView, TensorViewMut};
use crate::types::Precision;

/// A backbone ready on a device. It can be shared between threads, each with a [`Workspace`] of its own.
#[derive(Clone, Debug)]
pub struct Loaded {
    backbone: Arc<dyn Backbone>,
    /// Asked for once: all that follows relies on it.
    spec: BackboneSpec,
    packed: Arc<dyn Packed>,
    device: Device,
}

/// The memory [`Loaded::extract`] works in; kept between calls, as many images of the same sizes need no more of it.
#[derive(Default)]
pub struct Workspace {
    /// Whose it is.
    of: Option<Arc<dyn Packed>>,
    inputs: Option<Inputs>,
    /// For how many images.
    extractor: Option<(usize, Box<dyn Extractor>)>,
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let images = self.extractor.as_ref().map(|(images, _)| images);
        f.debug_struct("Workspace").field("images", &images).finish_non_exhaustive()
    }
}

/// Images of the size that a backbone takes, in bytes.
#[derive(Debug)]
pub(crate) struct Inputs {
    rgb: Upload,
    kept: Vec<cpu::Resize>,
}

/// Where an image goes among [`Inputs`].
pub(crate) struct Place<'a> {
    side: usize,
    filter: Filter,
    rgb: &'a mut [u8],
    kept: &'a mut cpu::Resize,
}

impl Place<'_> {
    /// Resizes an image to its place.
    pub fn put(self, image: &RgbImage) -> Result<()> {
        if is_empty(image) {
            return Err(empty(size(image)));
        }
        let from = [image.height() as usize, image.width() as usize];
        let pixels = &image.as_raw()[..3 * from[0] * from[1]];
        match self.filter {
            Filter::Bilinear => {
                cpu::resize_antialias(pixels, from, self.rgb, [self.side; 2], self.kept);
            }
        }
        Ok(())
    }
}

const OP: &str = "extract";

fn is_empty(image: &RgbImage) -> bool {
    image.width() == 0 || image.height() == 0
}

fn size(image: &RgbImage) -> String {
    format!("{}×{}", image.width(), image.height())
}

fn empty(got: String) -> Error {
    Error::argument(OP, "images", "images of at least one pixel", got)
}

impl Loaded {
    /// Packs a backbone for a device, with the precision that it has all operations for ([`Precision::of`]).
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used; [`Error::OutOfMemory`] if it has not enough memory;
    /// [`Error::Argument`] if the backbone takes or makes nothing, or more than could be addressed.
    pub fn new(backbone: Arc<dyn Backbone>, device: Device) -> Result<Self> {
        let spec = backbone.spec().clone();
        let BackboneSpec { image_size, channels, grid, .. } = spec;
        // A map stands out from its mean, which one of a single cell cannot.
        for (arg, got, least) in
            [("image size", image_size, 1), ("channels", channels, 1), ("grid", grid, 2)]
        {
            if !(least..=1 << 14).contains(&got) {
                let expected = format!("in {least}..=16384");
                return Err(Error::argument("backbone", arg, expected, got));
            }
        }
        device.require()?;
        let packed = backbone.pack(device, Precision::of(device))?;
        Ok(Self { backbone, spec, packed, device })
    }

    /// What the backbone is, what it takes and what it makes of it.
    pub fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The same backbone on another device.
    ///
    /// # Errors
    /// Those of [`Loaded::new`].
    pub fn to_device(&self, device: Device) -> Result<Self> {
        if device == self.device {
            return Ok(self.clone());
        }
        Self::new(self.backbone.clone(), device)
    }

    /// The features of `images`: each resized to the [spec](Self::spec)'s size (without regard to its proportions,
    /// antialiased) and passed through the backbone.
    ///
    /// `features`: (B, G, G, C) with B the number of images, written; f32, on a GPU f16 or f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if `features` has another shape; [`Error::Argument`] if an image is empty;
    /// [`Error::Device`] if `features` is on another device than the backbone.
    pub fn extract<'a>(
        &self,
        images: &[RgbImage],
        features: impl Into<TensorViewMut<'a>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        /// Images that are held at once: on a GPU some 6 MB each.
        const GROUP: usize = 64;
        let mut features = features.into();
        let spec = self.spec();
        expect_shape(OP, "features", features.shape(), &spec.features().of(images.len()))?;
        if let Some(i) = images.iter().position(is_empty) {
            return Err(empty(format!("{} at {i}", size(&images[i]))));
        }
        let (expected, got) = (self.device, features.device());
        if expected != got {
            return Err(Error::Device { op: OP, arg: "features", expected, got });
        }
        for images in images.chunks(GROUP) {
            workspace.be_of(&self.packed);
            let mut inputs = match workspace.inputs.take() {
                Some(inputs) if images.len() <= inputs.kept.len() => inputs,
                _ => self.inputs(images.len())?,
            };
            let places = self.places(&mut inputs)?;
            places.into_par_iter().zip(images).try_for_each(|(place, image)| place.put(image))?;
            let (part, rest) = features.split(&spec.features().of(images.len()))?;
            self.features(&mut inputs, part, workspace)?;
            workspace.inputs = Some(inputs);
            features = rest;
        }
        Ok(())
    }

    /// Room for so many images on their way to the device.
    pub(crate) fn inputs(&self, images: usize) -> Result<Inputs> {
        let rgb = Upload::new(images * self.input_len(), self.device)?;
        let kept = std::iter::repeat_with(Default::default).take(images).collect();
        Ok(Inputs { rgb, kept })
    }

    /// Where images go, in order; they may be put there by several threads.
    pub(crate) fn places<'a>(&self, inputs: &'a mut Inputs) -> Result<Vec<Place<'a>>> {
        let Inputs { rgb, kept } = inputs;
        let (side, filter) = (self.spec().image_size, self.spec().filter);
        let places = rgb.bytes()?.chunks_exact_mut(self.input_len()).zip(kept);
        Ok(places.map(|(rgb, kept)| Place { side, filter, rgb, kept }).collect())
    }

    /// The features of the first images of `inputs`. On a GPU the work is queued: inputs can be
    /// replaced and features be used in further work at once.
    ///
    /// `features`: (B, G, G, C), on the device of `inputs`, written.
    pub(crate) fn features(
        &self,
        inputs: &mut Inputs,
        features: TensorViewMut,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.read(inputs, features.shape()[0], |rgb| self.features_of(rgb, features, workspace))
    }

    /// Has `read` read the first `images` of `inputs`, (B, H, W, 3) bytes on the device; on a GPU it queues the work that
    /// does.
    pub(crate) fn read<T>(
        &self,
        inputs: &mut Inputs,
        images: usize,
        read: impl FnOnce(TensorView) -> Result<T>,
    ) -> Result<T> {
        inputs.rgb.send(images * self.input_len())?;
        inputs.rgb.read(&self.spec().rgb(images), read)
    }

    /// The features of images that are on the device; does the same work at every call with the same addresses.
    ///
    /// `rgb`: (B, H, W, 3) bytes; `features`: (B, G, G, C), written.
    pub(crate) fn features_of(
        &self,
        rgb: TensorView,
        features: TensorViewMut,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let images = features.shape()[0];
        workspace.be_of(&self.packed);
        let extractor = match &mut workspace.extractor {
            Some((size, extractor)) if *size == images => extractor,
            other => {
                let new = self.packed.clone().extractor(images, &mut { self.device })?;
                &mut other.insert((images, new)).1
            }
        };
        extractor.extract(rgb, features)
    }

    /// Bytes of an image that the backbone takes.
    fn input_len(&self) -> usize {
        self.spec().image_size.pow(2) * 3
    }
}

impl Workspace {
    /// Forgets what was made for another backbone or device.
    fn be_of(&mut self, packed: &Arc<dyn Packed>) {
        let same = |of: &Arc<dyn Packed>| std::ptr::addr_eq(Arc::as_ptr(of), Arc::as_ptr(packed));
        if !self.of.as_ref().is_some_and(same) {
            *self = Self { of: Some(packed.clone()), ..Self::default() };
        }
    }
}
