//! The memory of a training on its device: described here for planning it and for taking it.

use super::{Average, Resources};
use crate::denoisers::{Denoiser, Recompute, Trainable, Training};
use crate::device::{Allocate, Purpose};
use crate::error::Result;
use crate::ops::{self, AdamW};
use crate::tensor::{DType, Tensor, TensorView};

/// What the optimiser moves.
pub(super) struct Moved {
    pub parameters: Tensor,
    /// In the precision's type, where that is not f32.
    pub half: Option<Tensor>,
    pub m: Tensor,
    pub v: Tensor,
    /// The average, unless it is on the host.
    pub average: Option<Tensor>,
}

impl Moved {
    pub fn new(
        a: &mut dyn Allocate,
        denoiser: &dyn Denoiser,
        resources: &Resources,
    ) -> Result<Self> {
        let all = [denoiser.len()];
        let half = resources.precision_used().dtype();
        let on_device = resources.average == Average::Device;
        let mut take = |purpose, dtype| a.zeros(purpose, &all, dtype);
        Ok(Self {
            parameters: take(Purpose::Parameters, DType::F32)?,
            half: (half != DType::F32).then(|| take(Purpose::Half, half)).transpose()?,
            m: take(Purpose::Moments, resources.moments)?,
            v: take(Purpose::Moments, resources.moments)?,
            average: on_device.then(|| take(Purpose::Average, DType::F32)).transpose()?,
        })
    }
}

/// The numbers that each image of a batch has.
#[derive(Clone, Copy)]
pub(super) enum Column {
    Timestep,
    Signal,
    Noise,
    TargetSignal,
    TargetNoise,
    Weight,
    Slope,
}

impl Column {
    pub const COUNT: usize = 7;
}

/// The buffers of a step.
pub(super) struct Space {
    pub batch: usize,
    /// Images computed at once.
    pub micro: usize,
    pub network: Box<dyn Trainable>,
    /// Of the parameters.
    pub gradients: Tensor,
    /// Of the whole batch, like the noise.
    pub x0: Tensor,
    pub noise: Tensor,
    /// Of the images computed at once, like the output and its gradient.
    pub x: Tensor,
    pub output: Tensor,
    pub doutput: Tensor,
    /// [`Column`] by [`Column`], those of all images.
    pub columns: Tensor,
    pub loss: Tensor,
    /// [`AdamW::numbers`].
    pub numbers: Tensor,
    pub norm: Tensor,
}

impl Space {
    pub fn new(
        a: &mut dyn Allocate,
        denoiser: &dyn Denoiser,
        batch: usize,
        resources: &Resources,
        recompute: Recompute,
    ) -> Result<Self> {
        let (micro, precision) = (resources.images_at_once(batch), resources.precision_used());
        let (half, len) = (precision.dtype(), denoiser.len());
        let network = denoiser.trainable(micro, Training { precision, recompute }, a)?;
        a.scratch(ops::kernels::global_norm_scratch(len))?;
        let gradients = a.zeros(Purpose::Gradients, &[len], DType::F32)?;
        let mut take = |shape: &[usize], dtype| a.zeros(Purpose::Batch, shape, dtype);
        let grid = |images| denoiser.features().of(images);
        Ok(Self {
            batch,
            micro,
            network,
            gradients,
            x0: take(&grid(batch), half)?,
            noise: take(&grid(batch), DType::F32)?,
            x: take(&grid(micro), DType::F32)?,
            output: take(&grid(micro), half)?,
            doutput: take(&grid(micro), half)?,
            columns: take(&[Column::COUNT, batch], DType::F32)?,
            loss: take(&[batch], DType::F32)?,
            numbers: take(&[AdamW::NUMBERS], DType::F32)?,
            norm: take(&[2], DType::F32)?,
        })
    }
}

/// A column's numbers of images `first..first + images`.
pub(super) fn column(
    columns: &Tensor,
    column: Column,
    first: usize,
    images: usize,
) -> Result<TensorView<'_>> {
    let batch = columns.shape()[1];
    columns.view().part(column as usize * batch + first, &[images])
}

/// Images `first..first + images` of a batch.
pub(super) fn images(batch: &Tensor, first: usize, images: usize) -> Result<TensorView<'_>> {
    let &[_, g, w, c] = batch.shape() else { unreachable!("a batch has four axes") };
    batch.view().part(first * g * w * c, &[images, g, w, c])
}
