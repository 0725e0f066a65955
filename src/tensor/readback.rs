//! Numbers on their way to the host.

use super::view::Data;
use super::{Device, TensorView};
use crate::cuda;
use crate::error::Result;

/// A place on the host for numbers of a device, which computes on while they are copied.
pub(crate) enum Readback {
    Host(Vec<f32>),
    Gpu(cuda::Download),
}

impl Readback {
    /// A place for `len` numbers of a device.
    pub fn new(len: usize, device: Device) -> Result<Self> {
        Ok(match device {
            Device::Cpu => Self::Host(vec![0.0; len]),
            Device::Cuda(ordinal) => Self::Gpu(cuda::Download::new(ordinal, len)?),
        })
    }

    /// Has the numbers of tensors in f32 on the device copied, one tensor behind the other.
    pub fn start(&mut self, parts: &[TensorView]) -> Result<()> {
        match self {
            Self::Host(numbers) => {
                let mut rest = &mut numbers[..];
                for part in parts {
                    let (to, after) = rest.split_at_mut(part.len());
                    part.copy_to_slice(to)?;
                    rest = after;
                }
                Ok(())
            }
            Self::Gpu(download) => {
                let slices = parts.iter().map(|part| match part.data {
                    Data::Cuda(slice) => slice,
                    _ => unreachable!("the numbers are on the device"),
                });
                download.start(&slices.collect::<Vec<_>>())
            }
        }
    }

    /// The numbers, once they have been copied.
    pub fn wait(&mut self) -> Result<&[f32]> {
        match self {
            Self::Host(numbers) => Ok(numbers),
            Self::Gpu(download) => download.wait(),
        }
    }
}
