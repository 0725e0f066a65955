//! Memory of devices.

use crate::cuda;
use crate::error::Result;
use crate::ops::kernels::TIMESTEP_TABLE_BYTES;
use crate::tensor::Device;

/// Bytes that are free on a GPU; as many as can be counted on the host, where the system tells.
pub(crate) fn free_memory(device: Device) -> Result<usize> {
    match device {
        Device::Cpu => Ok(usize::MAX),
        Device::Cuda(ordinal) => cuda::free_memory(ordinal),
    }
}

/// Takes memory for what kernels leave to each other, so that it is not made little by little.
pub(super) fn reserve_scratch(device: Device, bytes: usize) -> Result<()> {
    match device {
        Device::Cpu => Ok(()),
        Device::Cuda(ordinal) => cuda::reserve_scratch(ordinal, bytes),
    }
}

/// Bytes that are taken on a GPU once in a process, beside tensors and scratch memory.
pub(crate) fn workspace_bytes(device: Device) -> usize {
    match device {
        Device::Cpu => 0,
        Device::Cuda(ordinal) => cuda::workspace_bytes(ordinal) + TIMESTEP_TABLE_BYTES,
    }
}
