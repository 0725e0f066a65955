//! Numbers on their way between the host and a device, which computes on while they are copied.

use crate::cuda;
use crate::error::Result;
use crate::tensor::{Device, Shape, TensorView, TensorViewMut};

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

    /// Has `read` read the first bytes of what was sent last, where they are, as a tensor of bytes; on a GPU it
    /// queues the work that does.
    pub fn read<T>(
        &mut self,
        shape: &[usize],
        read: impl FnOnce(TensorView) -> Result<T>,
    ) -> Result<T> {
        let shape = Shape::new("Upload", shape)?;
        let len = shape.elements();
        match &mut self.0 {
            Staging::Host(bytes) => read(TensorView::from_bytes(&bytes[..len], &shape)?),
            Staging::Pinned(upload) => {
                upload.read(|bytes| read(TensorView::cuda(shape, bytes.part(0, len))))
            }
        }
    }
}

/// What a tensor of a device is filled with next: on a GPU it is brought there while that computes on what the
/// tensor holds, on the host there is no way to go.
#[derive(Debug)]
pub(crate) struct Ahead {
    upload: Option<cuda::Upload>,
    /// Which filling is on its way.
    sent: Option<u64>,
}

impl Ahead {
    /// A way for `len` bytes to a device.
    pub fn new(len: usize, device: Device) -> Result<Self> {
        let upload = match device {
            Device::Cpu => None,
            Device::Cuda(ordinal) => Some(cuda::Upload::new(ordinal, len)?),
        };
        Ok(Self { upload, sent: None })
    }

    /// Bytes that are taken on a device for `len` bytes on their way.
    pub fn bytes_on(device: Device, len: usize) -> usize {
        if device == Device::Cpu { 0 } else { len }
    }

    /// Has filling `which`, `len` bytes that `write` writes, brought to a GPU, if it is not on its way.
    pub fn send(&mut self, which: u64, len: usize, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let Some(upload) = self.upload.as_mut().filter(|_| self.sent != Some(which)) else {
            return Ok(());
        };
        write(&mut upload.bytes()?[..len]);
        upload.send(len)?;
        self.sent = Some(which);
        Ok(())
    }

    /// Fills a tensor with filling `which`, as numbers that it holds.
    pub fn fill(
        &mut self,
        which: u64,
        to: TensorViewMut,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        if to.device() == Device::Cpu {
            write(to.into_bytes("fill", "to")?);
            return Ok(());
        }
        self.send(which, to.len() * to.dtype().size(), write)?;
        let upload = self.upload.as_mut().expect("there is one for a GPU");
        upload.copy_to(&mut to.into_cuda().expect("it is on the device"))
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
