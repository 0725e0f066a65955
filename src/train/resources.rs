//! What a training may use, and how its memory is planned.

use super::batches::Batches;
use super::space::{Moved, Space};
use crate::denoisers::{Denoiser, Recompute};
use crate::device::{Plan, Purpose, free_memory, workspace_bytes};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device};
use crate::types::Precision;

/// Where a training computes, and how it fits there.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Resources {
    /// The device.
    pub device: Device,
    /// What the network computes with; `None`: what the device has all operations for.
    pub precision: Option<Precision>,
    /// Images that are computed at once, a divisor of the batch; `None`: the whole batch. Gradients
    /// of the parts are added up, which rounds otherwise than the whole.
    pub micro_batch: Option<usize>,
    /// What the backward pass computes again.
    pub memory: Memory,
    /// The type of AdamW's moments, on a GPU: f32, or bf16 rounded at random.
    pub moments: DType,
    /// Where the average of the parameters is.
    pub average: Average,
    /// The first factor of the loss on a GPU, a power of two; see
    /// [`LossScale`](crate::checkpoint::LossScale).
    pub loss_scale: f64,
}

setters!(Resources {
    device: Device,
    precision: Option<Precision>,
    micro_batch: Option<usize>,
    memory: Memory,
    moments: DType,
    average: Average,
    loss_scale: f64,
});

/// How a training's memory is kept small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The fastest way that fits into what the device has free.
    Free,
    /// The fastest way that fits into so many bytes.
    Limit(usize),
    /// This way.
    Recompute(Recompute),
}

/// Where the average of the parameters is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// On the device, up to date after each step.
    Device,
    /// On the host, brought up to date after so many steps by the product of their decays.
    Host {
        /// Steps.
        every: u64,
    },
}

impl Default for Resources {
    /// The CPU, the whole batch at once, nothing computed again, moments in f32, the average on the
    /// device, a loss scale of 2¹⁶.
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            precision: None,
            micro_batch: None,
            memory: Memory::Free,
            moments: DType::F32,
            average: Average::Device,
            loss_scale: 65536.0,
        }
    }
}

impl From<Device> for Resources {
    fn from(device: Device) -> Self {
        Self { device, ..Self::default() }
    }
}

impl Resources {
    /// What the network computes with.
    pub(crate) fn precision_used(&self) -> Precision {
        self.precision.unwrap_or(Precision::of(self.device))
    }

    /// Images computed at once of a batch of `batch`.
    pub(super) fn images_at_once(&self, batch: usize) -> usize {
        self.micro_batch.unwrap_or(batch)
    }

    /// Whether it can be for batches of `batch` images.
    pub(crate) fn check(&self, batch: usize) -> Result<()> {
        const OP: &str = "Resources";
        let micro = self.images_at_once(batch);
        if micro == 0 || !batch.is_multiple_of(micro) {
            let expected = format!("a divisor of the batch of {batch}");
            return Err(Error::argument(OP, "micro_batch", expected, micro));
        }
        let types = match self.device {
            Device::Cpu => &[DType::F32][..],
            Device::Cuda(_) => &[DType::F32, DType::BF16],
        };
        if !types.contains(&self.moments) {
            let expected = format!("one of {types:?} on {}", self.device);
            return Err(Error::argument(OP, "moments", expected, format!("{:?}", self.moments)));
        }
        if self.average == (Average::Host { every: 0 }) {
            return Err(Error::argument(OP, "average", "every step or more seldom", "every 0"));
        }
        let scale = self.loss_scale;
        if !(1.0..=(1 << 24) as f64).contains(&scale) || scale.log2().fract() != 0.0 {
            let expected = "a power of two in 1..=2^24";
            return Err(Error::argument(OP, "loss_scale", expected, scale));
        }
        Ok(())
    }

    /// The memory of training a denoiser on batches of `batch` images, if this is computed again:
    /// every byte that the training takes on its device, and none else.
    ///
    /// # Errors
    /// [`Error::Argument`] if the sizes or the resources are out of range.
    pub fn plan(
        &self,
        denoiser: &dyn Denoiser,
        batch: usize,
        recompute: Recompute,
    ) -> Result<Plan> {
        self.check(batch)?;
        let ways = denoiser.recompute();
        if !ways.contains(&recompute) {
            let names: Vec<_> = ways.iter().map(|way| way.name()).collect();
            let (expected, got) = (names.join(" or "), recompute.name());
            return Err(Error::argument("Resources", "recompute", expected, got));
        }
        let mut plan = Plan::new(self.device);
        Moved::new(&mut plan, denoiser, self)?;
        Space::new(&mut plan, denoiser, batch, self, recompute)?;
        let elements = denoiser.features().of(batch).iter().product();
        plan.add(Purpose::Batch, Batches::bytes_on(self.device, self.precision_used(), elements));
        plan.add(Purpose::Workspace, workspace_bytes(self.device));
        Ok(plan)
    }

    /// What is to be computed again, and the memory that is needed then.
    pub(super) fn choose(
        &self,
        denoiser: &dyn Denoiser,
        batch: usize,
    ) -> Result<(Recompute, Plan)> {
        let free = free_memory(self.device)?;
        let (limit, ways) = match &self.memory {
            Memory::Free => (free, denoiser.recompute()),
            Memory::Limit(bytes) => (free.min(*bytes), denoiser.recompute()),
            Memory::Recompute(way) => (free, std::slice::from_ref(way)),
        };
        let mut last = None;
        for &way in ways {
            let plan = self.plan(denoiser, batch, way)?;
            if plan.total() <= limit {
                return Ok((way, plan));
            }
            last = Some((way, plan));
        }
        let (way, plan) = last.expect("there is a way");
        Err(self.too_large(&plan, ways.last() != Some(&way), batch, limit))
    }

    /// What to say where a plan does not fit into `available` bytes; whether more can be computed again.
    pub(super) fn too_large(
        &self,
        plan: &Plan,
        can_recompute: bool,
        batch: usize,
        available: usize,
    ) -> Error {
        let (purpose, largest) = plan.largest().unwrap_or((Purpose::Workspace, 0));
        let shrinks = |purpose| match purpose {
            Purpose::Moments if self.moments == DType::F32 && self.device != Device::Cpu => {
                Some("moments in bf16")
            }
            Purpose::Average if self.average == Average::Device => Some("the average on the host"),
            Purpose::Activations | Purpose::Recomputed | Purpose::ActivationGradients => {
                if can_recompute && purpose == Purpose::Activations {
                    Some("computing blocks again (recompute)")
                } else if self.images_at_once(batch) > 1 {
                    Some("a smaller micro-batch")
                } else {
                    None
                }
            }
            _ => None,
        };
        // Of what no setting shrinks, the largest that one does.
        let mut items: Vec<_> = plan.bytes().collect();
        items.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        let setting = shrinks(purpose)
            .or_else(|| items.iter().find_map(|&(purpose, _)| shrinks(purpose)))
            .unwrap_or("a smaller denoiser");
        Error::TooLarge {
            device: self.device,
            needed: plan.total(),
            available,
            largest,
            purpose: purpose.to_string(),
            setting: setting.into(),
        }
    }
}
