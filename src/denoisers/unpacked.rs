//! Evaluations by a network's forward pass.

use std::fmt;
use std::sync::Arc;

use super::{Denoiser, Evaluator, Packed, Parameters, Recompute, Trainable, Training, Use};
use crate::device::{Allocate, Purpose};
use crate::error::{Error, Result};
use crate::ops::expect_shape;
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;

/// A network that evaluates as it is trained: what [`Denoiser::pack`] of a network that has nothing to prepare for
/// evaluations can return.
///
/// # Errors
/// Those of [`Denoiser::pack`].
pub fn unpacked(
    denoiser: Arc<dyn Denoiser>,
    parameters: &Tensor,
    timesteps: &[usize],
    device: Device,
    precision: Precision,
) -> Result<Arc<dyn Packed>> {
    expect_shape("denoiser", "parameters", parameters.shape(), &[denoiser.len()])?;
    denoiser.require(device, Use::Inference, precision)?;
    let on_device = |dtype| parameters.view().copied_to(device, dtype);
    let half = (precision.dtype() != DType::F32).then(|| on_device(precision.dtype()));
    Ok(Arc::new(Unpacked {
        denoiser,
        full: on_device(DType::F32)?,
        half: half.transpose()?,
        timesteps: timesteps.to_vec(),
        precision,
    }))
}

struct Unpacked {
    denoiser: Arc<dyn Denoiser>,
    full: Tensor,
    half: Option<Tensor>,
    timesteps: Vec<usize>,
    precision: Precision,
}

impl fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacked")
            .field("denoiser", &self.denoiser)
            .field("timesteps", &self.timesteps)
            .finish_non_exhaustive()
    }
}

impl Packed for Unpacked {
    fn evaluator(
        self: Arc<Self>,
        batch: usize,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Evaluator>> {
        let how = Training { precision: self.precision, recompute: Recompute::Nothing };
        let network = self.denoiser.trainable(batch, how, a)?;
        let t = a.zeros(Purpose::Batch, &[batch], DType::F32)?;
        Ok(Box::new(InUse { packed: self, network, t }))
    }
}

struct InUse {
    packed: Arc<Unpacked>,
    network: Box<dyn Trainable>,
    /// (B).
    t: Tensor,
}

impl Evaluator for InUse {
    fn evaluate(
        &mut self,
        timestep: usize,
        x: TensorView<'_>,
        out: TensorViewMut<'_>,
    ) -> Result<()> {
        let Self { packed, network, t } = self;
        let Some(&at) = packed.timesteps.get(timestep) else {
            let expected = format!("below {}", packed.timesteps.len());
            return Err(Error::argument("denoiser", "timestep", expected, timestep));
        };
        t.view_mut().fill(at as f32)?;
        let parameters = Parameters { full: &packed.full, half: packed.half.as_ref() };
        network.forward(parameters, x, t.view(), out)
    }
}
