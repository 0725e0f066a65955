//! [`Tensor`]: a shape, an element type and memory on a [`Device`].
//!
//! Tensors are contiguous and row-major. Operations take borrowed views ([`TensorView`],
//! [`TensorViewMut`]), into which references to tensors convert, so that one flat tensor can hold
//! all parameters of a model and still be used part by part.

use std::fmt;

mod device;
mod shape;
mod view;

pub use crate::types::{DType, Device};
pub use shape::{MAX_RANK, Shape};
pub use view::{TensorView, TensorViewMut};

use half::{bf16, f16};

use crate::cuda;
use crate::error::{Error, Result};

const PLANNED: &str = "a tensor of a Plan has no memory, and can only be asked for its shape";

#[derive(Debug)]
enum Storage {
    CpuF32(Vec<f32>),
    CpuF16(Vec<f16>),
    CpuBf16(Vec<bf16>),
    CpuU8(Vec<u8>),
    Cuda(cuda::Memory),
    /// Of a tensor that is planned.
    None(Device, DType),
}

/// An array of numbers: contiguous, row-major, on one device.
pub struct Tensor {
    shape: Shape,
    storage: Storage,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} on {}", self.dtype(), self.shape(), self.device())
    }
}

/// Zeros on the host, or that it has not the memory.
fn zeroed<T: bytemuck::Zeroable>(n: usize) -> Result<Vec<T>> {
    bytemuck::try_zeroed_vec(n)
        .map_err(|()| Error::HostMemory { asked: n.saturating_mul(size_of::<T>()) })
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more axes or elements than a tensor can have;
    /// [`Error::Unavailable`] if the device cannot be used; [`Error::OutOfMemory`], or on the host
    /// [`Error::HostMemory`], if it has not enough memory.
    pub fn zeros(shape: &[usize], dtype: DType, device: Device) -> Result<Self> {
        let shape = Shape::new("zeros", shape)?;
        let n = shape.elements();
        let storage = match (device, dtype) {
            (Device::Cpu, DType::F32) => Storage::CpuF32(zeroed(n)?),
            (Device::Cpu, DType::F16) => Storage::CpuF16(zeroed(n)?),
            (Device::Cpu, DType::BF16) => Storage::CpuBf16(zeroed(n)?),
            (Device::Cpu, DType::U8) => Storage::CpuU8(zeroed(n)?),
            (Device::Cuda(ordinal), _) => Storage::Cuda(cuda::Memory::zeros(ordinal, dtype, n)?),
        };
        Ok(Self { shape, storage })
    }

    /// A tensor with the numbers of `data`, in row-major order, stored as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` has not as many elements as `shape`;
    /// [`Error::Unavailable`] if the device cannot be used; [`Error::OutOfMemory`] if it has not
    /// enough memory.
    pub fn from_f32(data: Vec<f32>, shape: &[usize], device: Device) -> Result<Self> {
        let shape = Shape::new("from_f32", shape)?;
        if data.len() != shape.elements() {
            return Err(Error::shape("from_f32", "data", format!("{shape:?}"), &[data.len()]));
        }
        let storage = match device {
            Device::Cpu => Storage::CpuF32(data),
            Device::Cuda(ordinal) => Storage::Cuda(cuda::Memory::from_f32(ordinal, &data)?),
        };
        Ok(Self { shape, storage })
    }

    /// A tensor that is only counted: nothing can be done with it.
    pub(crate) fn without_memory(shape: &[usize], dtype: DType, device: Device) -> Result<Self> {
        let shape = Shape::new("zeros", shape)?;
        Ok(Self { shape, storage: Storage::None(device, dtype) })
    }

    /// A copy in memory of its own, on the same device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device has not enough memory.
    pub fn try_clone(&self) -> Result<Self> {
        let storage = match &self.storage {
            Storage::CpuF32(v) => Storage::CpuF32(v.clone()),
            Storage::CpuF16(v) => Storage::CpuF16(v.clone()),
            Storage::CpuBf16(v) => Storage::CpuBf16(v.clone()),
            Storage::CpuU8(v) => Storage::CpuU8(v.clone()),
            Storage::Cuda(memory) => Storage::Cuda(memory.try_clone()?),
            Storage::None(device, dtype) => Storage::None(*device, *dtype),
        };
        Ok(Self { shape: self.shape, storage })
    }

    /// The lengths of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.elements()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        match self.storage {
            Storage::None(_, dtype) => dtype,
            _ => self.view().dtype(),
        }
    }

    /// Where the elements are.
    pub fn device(&self) -> Device {
        match self.storage {
            Storage::None(device, _) => device,
            _ => self.view().device(),
        }
    }

    /// All of the tensor, to read.
    pub fn view(&self) -> TensorView<'_> {
        match &self.storage {
            Storage::CpuF32(v) => TensorView::cpu_f32(self.shape, v),
            Storage::CpuF16(v) => TensorView::cpu_f16(self.shape, v),
            Storage::CpuBf16(v) => TensorView::cpu_bf16(self.shape, v),
            Storage::CpuU8(v) => TensorView::cpu_u8(self.shape, v),
            Storage::Cuda(memory) => TensorView::cuda(self.shape, memory.slice()),
            Storage::None(..) => panic!("{PLANNED}"),
        }
    }

    /// All of the tensor, to write.
    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        match &mut self.storage {
            Storage::CpuF32(v) => TensorViewMut::cpu_f32(self.shape, v),
            Storage::CpuF16(v) => TensorViewMut::cpu_f16(self.shape, v),
            Storage::CpuBf16(v) => TensorViewMut::cpu_bf16(self.shape, v),
            Storage::CpuU8(v) => TensorViewMut::cpu_u8(self.shape, v),
            Storage::Cuda(memory) => TensorViewMut::cuda(self.shape, memory.slice_mut()),
            Storage::None(..) => panic!("{PLANNED}"),
        }
    }

    /// The numbers as f32 on the host, in row-major order.
    ///
    /// # Panics
    /// If a GPU fails; [`TensorView::copy_to_slice`] returns the error.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        self.view().to_vec_f32()
    }

    /// The same numbers with another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements differs.
    pub fn reshape(mut self, shape: &[usize]) -> Result<Self> {
        let shape = Shape::new("reshape", shape)?;
        if self.len() != shape.elements() {
            return Err(Error::shape("reshape", "self", format!("{shape:?}"), self.shape()));
        }
        self.shape = shape;
        Ok(self)
    }
}

impl Clone for Tensor {
    /// # Panics
    /// If a GPU has not enough memory; [`Tensor::try_clone`] returns the error.
    fn clone(&self) -> Self {
        self.try_clone().unwrap_or_else(|e| panic!("{e}"))
    }
}
