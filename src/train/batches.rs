//! The batches of a training, drawn from its features and brought to its device.

use crate::device::Ahead;
use crate::error::{Error, Result};
use crate::gaussian::Whitening;
use crate::ops::{Random, Stream};
use crate::tensor::{DType, Device, Tensor};
use crate::types::Precision;

/// Images whitened at once.
const CHUNK: usize = 64;

/// The features of all images as the network sees them, drawn from in the order of a permutation of
/// each epoch. They stay in the host's memory, of the type that the device stores.
pub(super) struct Batches {
    order: Order,
    image_len: usize,
    features: Tensor,
    ahead: Ahead,
}

/// Which images a step's batch consists of.
struct Order {
    seed: u64,
    images: usize,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Batches {
    /// Batches of `batch` images of `features`, (n, G, G, C) as the backbone leaves them.
    pub fn new(
        features: Tensor,
        whitening: Option<&Whitening>,
        seed: u64,
        batch: usize,
        device: Device,
        precision: Precision,
    ) -> Result<Self> {
        let dtype = precision.dtype();
        let images = features.shape()[0];
        let image_len = features.len() / images;
        let mut kept = Tensor::zeros(features.shape(), dtype, Device::Cpu)?;
        let mut first = 0;
        whitened(&features, whitening, |part| {
            // What was not finite before, the loss will tell.
            let too_large = part.iter().find(|x| x.is_finite() && x.abs() >= 65520.0);
            if let Some(x) = too_large.filter(|_| dtype == DType::F16) {
                let expected = "within ±65504, as f16 holds them on a GPU";
                return Err(Error::argument("Trainer", "features", expected, x));
            }
            kept.view_mut().part(first, &[part.len()])?.copy_from_slice(part)?;
            first += part.len();
            Ok(())
        })?;
        let ahead = Ahead::new(batch * image_len * dtype.size(), device)?;
        let order = Order { seed, images, epoch: None };
        Ok(Self { order, image_len, features: kept, ahead })
    }

    /// The bytes that are taken on a device for batches of `elements` numbers.
    pub fn bytes_on(device: Device, precision: Precision, elements: usize) -> usize {
        Ahead::bytes_on(device, elements * precision.dtype().size())
    }

    /// The number of images.
    pub fn images(&self) -> usize {
        self.order.images
    }

    /// Writes the batch of a step to `x0`, (B, G, G, C).
    pub fn load(&mut self, step: u64, x0: &mut Tensor) -> Result<()> {
        let batch = x0.shape()[0];
        let Self { order, features, image_len, ahead } = self;
        let from = features.view().bytes("Trainer", "features")?;
        let bytes = features.dtype().size() * *image_len;
        ahead.fill(step, x0.view_mut(), |to| order.write(step, batch, from, bytes, to))
    }

    /// Has the batch of a step brought to the device while it computes.
    pub fn send(&mut self, step: u64, batch: usize) -> Result<()> {
        let Self { order, features, image_len, ahead } = self;
        let from = features.view().bytes("Trainer", "features")?;
        let bytes = features.dtype().size() * *image_len;
        ahead.send(step, batch * bytes, |to| order.write(step, batch, from, bytes, to))
    }
}

impl Order {
    /// Writes images of `bytes` bytes each of a step's batch.
    fn write(&mut self, step: u64, batch: usize, from: &[u8], bytes: usize, to: &mut [u8]) {
        for (image, to) in self.batch(step, batch).zip(to.chunks_exact_mut(bytes)) {
            to.copy_from_slice(&from[image * bytes..][..bytes]);
        }
    }

    fn batch(&mut self, step: u64, batch: usize) -> impl Iterator<Item = usize> {
        let (first, all) = (step * batch as u64, self.images as u64);
        (first..first + batch as u64).map(move |position| {
            let epoch = position / all;
            if self.epoch.as_ref().is_none_or(|(e, _)| *e != epoch) {
                let random = Random { seed: self.seed, stream: Stream::Order, step: epoch };
                self.epoch = Some((epoch, random.permutation(self.images)));
            }
            let (_, order) = self.epoch.as_ref().expect("set above");
            order[(position % all) as usize]
        })
    }
}

/// Calls `each` with the features of some images after the other, whitened.
fn whitened(
    features: &Tensor,
    whitening: Option<&Whitening>,
    mut each: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let &[images, g, w, c] = features.shape() else { unreachable!("features have four axes") };
    let mut z = Tensor::zeros(&[CHUNK.min(images), g, w, c], DType::F32, Device::Cpu)?;
    for first in (0..images).step_by(CHUNK) {
        let shape = [CHUNK.min(images - first), g, w, c];
        let x = features.view().part(first * g * w * c, &shape)?;
        match whitening {
            Some(whitening) => {
                whitening.apply(x, z.view_mut().part(0, &shape)?)?;
                each(z.view().part(0, &shape)?.f32s("Trainer", "features")?)?;
            }
            None => each(x.f32s("Trainer", "features")?)?,
        }
    }
    Ok(())
}
