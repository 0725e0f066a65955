//! From images to features: what a detector sees.

use image::RgbImage;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::efficientnet::{self, EfficientNet, LITE0_WEIGHTS};
use crate::cpu;
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

/// The memory [`Backbone::extract`] works in; kept between calls, images of the same sizes need no
/// more of it.
#[derive(Debug, Default)]
pub struct Workspace {
    images: Vec<Prepared>,
    inputs: Vec<f32>,
    network: efficientnet::Workspace,
    #[cfg(feature = "cuda")]
    on_gpu: Option<(usize, efficientnet::GpuWorkspace)>,
    #[cfg(feature = "cuda")]
    rgb: Vec<u8>,
}

#[derive(Debug, Default)]
struct Prepared {
    resize: cpu::Resize,
    rgb: Vec<u8>,
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
        const OP: &str = "Backbone::extract";
        let features = features.into();
        let (size, grid, channels) = (self.image_size(), self.grid(), self.channels());
        expect_shape(OP, "features", features.shape(), &[images.len(), grid, grid, channels])?;
        if let Some(i) = images.iter().position(|image| image.width() == 0 || image.height() == 0) {
            let got = format!("{}×{} at {i}", images[i].width(), images[i].height());
            return Err(Error::argument(OP, "images", "images of at least one pixel", got));
        }
        #[cfg(feature = "cuda")]
        if let (Some(network), Device::Cuda(_)) = (&self.on_gpu, features.device()) {
            return self.extract_on_gpu(network, images, features, workspace);
        }
        let features = features.into_f32s(OP, "features")?;
        // Groups that keep every thread busy without holding the inputs of a long list at once.
        let group = 4 * rayon::current_num_threads();
        let (x_len, y_len) = (size * size * 3, grid * grid * channels);
        let count = group.min(images.len());
        workspace.images.resize_with(count.max(workspace.images.len()), Prepared::default);
        workspace.inputs.resize((count * x_len).max(workspace.inputs.len()), 0.0);
        for (images, y) in images.chunks(group).zip(features.chunks_mut(group * y_len)) {
            let inputs = &mut workspace.inputs[..images.len() * x_len];
            let prepared = workspace.images.par_iter_mut().zip(inputs.par_chunks_exact_mut(x_len));
            prepared.zip(images).for_each(|((kept, x), image)| self.prepare(image, kept, x));
            self.network.forward(
                TensorView::from_slice(inputs, &[images.len(), size, size, 3])?,
                TensorViewMut::from_slice(y, &[images.len(), grid, grid, channels])?,
                &mut workspace.network,
            )?;
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn extract_on_gpu(
        &self,
        network: &efficientnet::EfficientNetOnGpu,
        images: &[RgbImage],
        mut features: TensorViewMut,
        workspace: &mut Workspace,
    ) -> Result<()> {
        /// Images whose widest layer is on the GPU at once, some 6 MB each.
        const GROUP: usize = 64;
        let (len, shape) =
            (self.image_size().pow(2) * 3, [self.grid(), self.grid(), self.channels()]);
        let Workspace { images: kept, rgb, on_gpu, .. } = workspace;
        for images in images.chunks(GROUP) {
            let count = images.len();
            kept.resize_with(count.max(kept.len()), Prepared::default);
            rgb.resize((count * len).max(rgb.len()), 0);
            let bytes = &mut rgb[..count * len];
            let prepared = kept.par_iter_mut().zip(bytes.par_chunks_exact_mut(len));
            prepared.zip(images).for_each(|((kept, bytes), image)| self.resize(image, kept, bytes));
            let space = match &mut *on_gpu {
                Some((size, space)) if *size == count => space,
                other => &mut other.insert((count, network.workspace(count)?)).1,
            };
            let (part, rest) = features.split(&[count, shape[0], shape[1], shape[2]])?;
            network.forward(bytes, part, space)?;
            features = rest;
        }
        Ok(())
    }

    fn resize(&self, image: &RgbImage, kept: &mut Prepared, rgb: &mut [u8]) {
        let from = [image.height() as usize, image.width() as usize];
        let to = [self.image_size(); 2];
        let pixels = &image.as_raw()[..3 * from[0] * from[1]];
        cpu::resize_antialias(pixels, from, rgb, to, &mut kept.resize);
    }

    fn prepare(&self, image: &RgbImage, kept: &mut Prepared, x: &mut [f32]) {
        let mut rgb = std::mem::take(&mut kept.rgb);
        rgb.resize(x.len(), 0);
        self.resize(image, kept, &mut rgb);
        cpu::normalise(&self.normalise, &rgb, x);
        kept.rgb = rgb;
    }
}
