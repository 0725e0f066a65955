//! Numbers on their way between the host and a device, which computes on while they are copied.

use crate::cuda;
use crate::error::Result;
use crate::tensor::{Device, TensorView, TensorViewMut};

/// Where numbers are staged: in the host's memory, or in such as a GPU copies from and to by itself.
#[derive(Debug)]
enum Staging<T, P> {
    Host(Vec<T>),
    Pinned(P),
}

/// Bytes on their way to a device.
#[derive(Debug)]
pub(crate) struct Upload(Staging<u8, cuda::Upload>);

impl Upload {
    /// A place for `len` bytes on their way to a device; they are zero.
    pub fn new(len: usize, device: Device) -> Result<Self> {
        Ok(Self(match device {
            Device::Cpu => Staging::Host(vec![0; len]),
            Device::Cuda(ordinal) => Staging::Pinned(cuda::Upload::new(ordinal, len)?),
        }))
    }

    /// Bytes that are taken on a device for `len` bytes on their way.
    pub fn bytes_on(device: Device, len: usize) -> usize {
        if device == Device::Cpu { 0 } else { len }
    }

    /// Where they go.
    pub fn device(&self) -> Device {
        match &self.0 {
            Staging::Host(_) => Device::Cpu,
            Staging::Pinned(upload) => upload.device(),
        }
    }

    /// The bytes on the host, once they have been copied if they were sent.
    pub fn bytes(&mut self) -> Result<&mut [u8]> {
        match &mut self.0 {
            Staging::Host(bytes) => Ok(bytes),
            Staging::Pinned(upload) => upload.bytes(),
        }
    }

    /// Has the first `len` bytes copied to the device, if they are not there.
    pub fn send(&mut self, len: usize) -> Result<()> {
        match &mut self.0 {
            Staging::Host(_) => Ok(()),
            Staging::Pinned(upload) => upload.send(len),
        }
    }

    /// Has what was sent last copied to a tensor of the device, as the numbers that it holds.
    pub fn copy_to(&mut self, mut to: TensorViewMut) -> Result<()> {
        match &mut self.0 {
            Staging::Host(bytes) => to.copy_from_bytes(bytes),
            Staging::Pinned(upload) => {
                upload.copy_to(&mut to.into_cuda().expect("it is on the device"))
            }
        }
    }

    /// What was sent last, for a GPU's kernels.
    #[cfg(feature = "cuda")]
    pub fn pinned(&mut self) -> Option<&mut cuda::Upload> {
        match &mut self.0 {
            Staging::Host(_) => None,
            Staging::Pinned(upload) => Some(upload),
        }
    }
}

/// A place on the host for numbers of a device, which computes on while they are copied.
pub(crate) struct Readback(Staging<f32, cuda::Download>);

impl Readback {
    /// A place for `len` numbers of a device.
    pub fn new(len: usize, device: Device) -> Result<Self> {
        Ok(Self(match device {
            Device::Cpu => Staging::Host(vec![0.0; len]),
            Device::Cuda(ordinal) => Staging::Pinned(cuda::Download::new(ordinal, len)?),
        }))
    }

    /// Has the numbers of tensors in f32 on the device copied, one tensor behind the other.
    pub fn start(&mut self, parts: &[TensorView]) -> Result<()> {
        match &mut self.0 {
            Staging::Host(numbers) => {
                let mut rest = &mut numbers[..];
                for part in parts {
                    let (to, after) = rest.split_at_mut(part.len());
                    part.copy_to_slice(to)?;
                    rest = after;
                }
                Ok(())
            }
            Staging::Pinned(download) => {
                let slices = parts.iter().map(|p| p.on_cuda().expect("it is on the device"));
                download.start(&slices.collect::<Vec<_>>())
            }
        }
    }

    /// The numbers, once they have been copied.
    pub fn wait(&mut self) -> Result<&[f32]> {
        match &mut self.0 {
            Staging::Host(numbers) => Ok(numbers),
            Staging::Pinned(download) => download.wait(),
        }
    }
}
