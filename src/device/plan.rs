//! Memory that is counted by the same code that takes it.

use std::collections::BTreeMap;
use std::fmt;

use super::memory::reserve_scratch;
use crate::error::Result;
use crate::tensor::{DType, Device, Tensor};

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// The parameters in f32.
    Parameters,
    /// The parameters in f16, as a GPU's matrix products read them.
    Half,
    /// The parameters' gradients.
    Gradients,
    /// AdamW's moments.
    Moments,
    /// The average of the parameters.
    Average,
    /// Activations that the backward pass reads.
    Activations,
    /// Activations that the backward pass computes again.
    Recomputed,
    /// Gradients of activations.
    ActivationGradients,
    /// From timesteps to modulation vectors, and their gradients.
    Modulation,
    /// A batch: features, noise, what the network sees and returns, losses.
    Batch,
    /// What libraries and kernels need beside their operands.
    Workspace,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Purpose::Parameters => "parameters",
            Purpose::Half => "parameters in f16",
            Purpose::Gradients => "gradients",
            Purpose::Moments => "moments",
            Purpose::Average => "average",
            Purpose::Activations => "activations",
            Purpose::Recomputed => "recomputed activations",
            Purpose::ActivationGradients => "gradients of activations",
            Purpose::Modulation => "modulation",
            Purpose::Batch => "batch",
            Purpose::Workspace => "workspace",
        })
    }
}

/// Takes memory, or counts what would be taken.
pub trait Allocate {
    /// Where the memory is.
    fn device(&self) -> Device;

    /// A tensor of zeros, or one that has no memory and can only be asked for its shape: what else it is to hold is
    /// written in the first pass, since its views panic.
    ///
    /// # Errors
    /// Those of [`Tensor::zeros`].
    fn zeros(&mut self, purpose: Purpose, shape: &[usize], dtype: DType) -> Result<Tensor>;

    /// Memory for what kernels leave to each other, so that it is not made little by little: all share the
    /// largest. On the host there is none.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) if the device has not enough memory.
    fn scratch(&mut self, bytes: usize) -> Result<()>;

    /// As many of them.
    ///
    /// # Errors
    /// Those of [`Tensor::zeros`].
    fn many(
        &mut self,
        count: usize,
        purpose: Purpose,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Vec<Tensor>> {
        (0..count).map(|_| self.zeros(purpose, shape, dtype)).collect()
    }
}

impl Allocate for Device {
    fn device(&self) -> Device {
        *self
    }

    fn zeros(&mut self, _: Purpose, shape: &[usize], dtype: DType) -> Result<Tensor> {
        Tensor::zeros(shape, dtype, *self)
    }

    fn scratch(&mut self, bytes: usize) -> Result<()> {
        reserve_scratch(*self, bytes)
    }
}

/// The memory of a training on its device, by purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    device: Device,
    bytes: BTreeMap<Purpose, usize>,
    scratch: usize,
}

impl Plan {
    /// Nothing is planned.
    pub fn new(device: Device) -> Self {
        Self { device, bytes: BTreeMap::new(), scratch: 0 }
    }

    pub(crate) fn add(&mut self, purpose: Purpose, bytes: usize) {
        let all = self.bytes.entry(purpose).or_default();
        *all = all.saturating_add(bytes);
    }

    /// Bytes for each purpose that needs any.
    pub fn bytes(&self) -> impl Iterator<Item = (Purpose, usize)> {
        self.bytes.iter().map(|(&purpose, &bytes)| (purpose, bytes)).filter(|(_, bytes)| *bytes > 0)
    }

    /// Bytes in all.
    pub fn total(&self) -> usize {
        self.bytes.values().fold(0, |all, bytes| all.saturating_add(*bytes))
    }

    /// What takes most.
    pub fn largest(&self) -> Option<(Purpose, usize)> {
        self.bytes().max_by_key(|(_, bytes)| *bytes)
    }
}

impl Allocate for Plan {
    fn device(&self) -> Device {
        self.device
    }

    fn zeros(&mut self, purpose: Purpose, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let tensor = Tensor::without_memory(shape, dtype, self.device)?;
        self.add(purpose, tensor.len().saturating_mul(dtype.size()));
        Ok(tensor)
    }

    fn scratch(&mut self, bytes: usize) -> Result<()> {
        if self.device != Device::Cpu && bytes > self.scratch {
            self.add(Purpose::Workspace, bytes - self.scratch);
            self.scratch = bytes;
        }
        Ok(())
    }
}
