//! From images to features: what a detector sees.

use std::fmt;

use image::RgbImage;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::efficientnet::{self, EfficientNet, LITE0_WEIGHTS};
use crate::cpu;
use crate::device::Upload;
use crate::error::{Error, Result};
use crate::ops::expect_shape;
use crate::tensor::{Device, TensorView, TensorViewMut};

/// ImageNet's mean and standard deviation of red, green and blue.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// A frozen network that turns images into features, and the preparation of images that it was
/// trained with. It can be shared between threads, each with a [`Workspace`] of its own.
pub struct Backbone {
    name: &'static str,
    hash: String,
    network: EfficientNet,
    normalise: Box<[[f32; 256]; 3]>,
    /// The network where it runs on a GPU.
    #[cfg(feature = "cuda")]
    on_gpu: Option<efficientnet::EfficientNetOnGpu>,
}

impl fmt::Debug for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backbone")
            .field("name", &self.name)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// The memory [`Backbone::extract`] works in; kept between calls, images of the same sizes need no
/// more of it.
#[derive(Debug, Default)]
pub struct Workspace {
    inputs: Option<Inputs>,
    normalised: Vec<f32>,
    network: efficientnet::Workspace,
    #[cfg(feature = "cuda")]
    on_gpu: Option<(usize, efficientnet::GpuWorkspace)>,
}

/// Images of the size that the network takes, in bytes: what it computes features of.
#[derive(Debug)]
pub(crate) struct Inputs {
    rgb: Upload,
    kept: Vec<cpu::Resize>,
}

/// Where an image goes among [`Inputs`].
pub(crate) struct Place<'a> {
    side: usize,
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
        cpu::resize_antialias(pixels, from, self.rgb, [self.side; 2], self.kept);
        Ok(())
    }
}

const EXTRACT: &str = "Backbone::extract";

fn is_empty(image: &RgbImage) -> bool {
    image.width() == 0 || image.height() == 0
}

fn size(image: &RgbImage) -> String {
    format!("{}×{}", image.width(), image.height())
}

fn empty(got: String) -> Error {
    Error::argument(EXTRACT, "images", "images of at least one pixel", got)
}

impl Backbone {
    /// EfficientNet-Lite0 with ImageNet weights, which are part of this crate.
    pub fn lite0() -> Self {
        let hash = Sha256::digest(LITE0_WEIGHTS).iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            name: "efficientnet-lite0",
            hash,
            network: EfficientNet::lite0(),
            normalise: Box::new(cpu::normalise_table(MEAN, STD)),
            #[cfg(feature = "cuda")]
            on_gpu: None,
        }
    }

    /// The same network, also ready to compute on a device: features that are asked for there are
    /// computed there, in f16.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used; [`Error::OutOfMemory`] if it has not
    /// enough memory.
    pub fn to_device(self, device: Device) -> Result<Self> {
        device.require()?;
        #[cfg(feature = "cuda")]
        if let Device::Cuda(ordinal) = device {
            let network = efficientnet::EfficientNetOnGpu::lite0(ordinal, MEAN, STD)?;
            return Ok(Self { on_gpu: Some(network), ..self });
        }
        Ok(self)
    }

    /// The network's name, as in `efficientnet-lite0`.
    pub fn name(&self) -> &str {
        self.name
    }

    /// SHA-256 of the file of its weights, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// C, the number of channels of the features.
    pub fn channels(&self) -> usize {
        self.network.channels()
    }

    /// G, the height and width of the grid of features.
    pub fn grid(&self) -> usize {
        self.network.grid()
    }

    /// The height and width to which images are resized.
    pub fn image_size(&self) -> usize {
        self.network.image_size()
    }

    /// The features of `images`: each resized to [`image_size`](Self::image_size) (without regard to its
    /// proportions, antialiased), scaled to [0, 1], normalised and passed through the network.
    ///
    /// `features`: (B, G, G, C) with B the number of images, written; f16 or f32 on a GPU.
    ///
    /// # Errors
    /// [`Error::Shape`] if `features` has another shape; [`Error::Argument`] if an image is empty;
    /// [`Error::Device`] if `features` is on a GPU and the network is not.
    pub fn extract<'a>(
        &self,
        images: &[RgbImage],
        features: impl Into<TensorViewMut<'a>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        /// Images that are held at once: on a GPU some 6 MB each.
        const GROUP: usize = 64;
        let mut features = features.into();
        let [grid, channels] = [self.grid(), self.channels()];
        expect_shape(EXTRACT, "features", features.shape(), &[images.len(), grid, grid, channels])?;
        if let Some(i) = images.iter().position(is_empty) {
            return Err(empty(format!("{} at {i}", size(&images[i]))));
        }
        let device = features.device();
        self.require(device)?;
        for images in images.chunks(GROUP) {
            let mut inputs = match workspace.inputs.take() {
                Some(inputs) if inputs.fit(images.len(), device) => inputs,
                _ => self.inputs(images.len(), device)?,
            };
            let places = self.places(&mut inputs)?;
            places.into_par_iter().zip(images).try_for_each(|(place, image)| place.put(image))?;
            let (part, rest) = features.split(&[images.len(), grid, grid, channels])?;
            self.features(&mut inputs, part, workspace)?;
            workspace.inputs = Some(inputs);
            features = rest;
        }
        Ok(())
    }

    fn require(&self, device: Device) -> Result<()> {
        #[cfg(feature = "cuda")]
        let ready = device == Device::Cpu || self.on_gpu.is_some();
        #[cfg(not(feature = "cuda"))]
        let ready = device == Device::Cpu;
        match ready {
            true => Ok(()),
            false => {
                let expected = Device::Cpu;
                Err(Error::Device { op: EXTRACT, arg: "features", expected, got: device })
            }
        }
    }

    /// Room for so many images on their way to a device.
    pub(crate) fn inputs(&self, images: usize, device: Device) -> Result<Inputs> {
        let rgb = Upload::new(images * self.input_len(), device)?;
        let kept = std::iter::repeat_with(Default::default).take(images).collect();
        Ok(Inputs { rgb, kept })
    }

    /// Where images go, in order; they may be put there by several threads.
    pub(crate) fn places<'a>(&self, inputs: &'a mut Inputs) -> Result<Vec<Place<'a>>> {
        let Inputs { rgb, kept } = inputs;
        let side = self.image_size();
        let places = rgb.bytes()?.chunks_exact_mut(self.input_len()).zip(kept);
        Ok(places.map(|(rgb, kept)| Place { side, rgb, kept }).collect())
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
        let (images, x_len) = (features.shape()[0], self.input_len());
        inputs.rgb.send(images * x_len)?;
        #[cfg(feature = "cuda")]
        if let (Some(rgb), Some(network)) = (inputs.rgb.pinned(), &self.on_gpu) {
            let space = match &mut workspace.on_gpu {
                Some((size, space)) if *size == images => space,
                other => &mut other.insert((images, network.workspace(images)?)).1,
            };
            return network.forward(rgb, features, space);
        }
        let rgb = &inputs.rgb.bytes()?[..images * x_len];
        let [side, grid, channels] = [self.image_size(), self.grid(), self.channels()];
        let y = features.into_f32s(EXTRACT, "features")?;
        // Groups that keep every thread busy without holding the inputs of a long list at once.
        let group = 4 * rayon::current_num_threads();
        let (y_len, most) = (grid * grid * channels, group.min(images) * x_len);
        workspace.normalised.resize(most.max(workspace.normalised.len()), 0.0);
        for (rgb, y) in rgb.chunks(group * x_len).zip(y.chunks_mut(group * y_len)) {
            let x = &mut workspace.normalised[..rgb.len()];
            let parts = x.par_chunks_exact_mut(x_len).zip(rgb.par_chunks_exact(x_len));
            parts.for_each(|(x, rgb)| cpu::normalise(&self.normalise, rgb, x));
            let images = rgb.len() / x_len;
            self.network.forward(
                TensorView::from_slice(x, &[images, side, side, 3])?,
                TensorViewMut::from_slice(y, &[images, grid, grid, channels])?,
                &mut workspace.network,
            )?;
        }
        Ok(())
    }

    /// Bytes of an image that the network takes.
    fn input_len(&self) -> usize {
        self.image_size().pow(2) * 3
    }
}

impl Inputs {
    /// Whether there is room for so many images on their way to a device.
    fn fit(&self, images: usize, device: Device) -> bool {
        self.rgb.device() == device && images <= self.kept.len()
    }
}
