//! Borrowed parts of tensors.

use std::fmt;

use half::{bf16, f16};
use rayon::prelude::*;

use super::{DType, Device, Shape, Tensor};
use crate::cuda;
use crate::error::{Error, Result};
use crate::types::to_u8;

#[derive(Clone, Copy, Debug)]
pub(super) enum Data<'a> {
    CpuF32(&'a [f32]),
    CpuF16(&'a [f16]),
    CpuBf16(&'a [bf16]),
    CpuU8(&'a [u8]),
    Cuda(cuda::Slice<'a>),
}

#[derive(Debug)]
enum DataMut<'a> {
    CpuF32(&'a mut [f32]),
    CpuF16(&'a mut [f16]),
    CpuBf16(&'a mut [bf16]),
    CpuU8(&'a mut [u8]),
    Cuda(cuda::SliceMut<'a>),
}

/// A contiguous part of a tensor, to read.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    shape: Shape,
    pub(super) data: Data<'a>,
}

impl fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} on {}", self.dtype(), self.shape(), self.device())
    }
}

/// A contiguous part of a tensor, to write.
pub struct TensorViewMut<'a> {
    shape: Shape,
    data: DataMut<'a>,
}

impl fmt::Debug for TensorViewMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

impl<'a> TensorView<'a> {
    pub(super) fn cpu_f32(shape: Shape, data: &'a [f32]) -> Self {
        Self { shape, data: Data::CpuF32(data) }
    }

    pub(super) fn cpu_f16(shape: Shape, data: &'a [f16]) -> Self {
        Self { shape, data: Data::CpuF16(data) }
    }

    pub(super) fn cpu_bf16(shape: Shape, data: &'a [bf16]) -> Self {
        Self { shape, data: Data::CpuBf16(data) }
    }

    pub(super) fn cpu_u8(shape: Shape, data: &'a [u8]) -> Self {
        Self { shape, data: Data::CpuU8(data) }
    }

    pub(crate) fn cuda(shape: Shape, data: cuda::Slice<'a>) -> Self {
        Self { shape, data: Data::Cuda(data) }
    }

    /// A view of numbers on the host.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` has not as many elements as `shape`.
    pub fn from_slice(data: &'a [f32], shape: &[usize]) -> Result<Self> {
        let shape = Shape::new("from_slice", shape)?;
        if data.len() != shape.elements() {
            return Err(Error::shape("from_slice", "data", format!("{shape:?}"), &[data.len()]));
        }
        Ok(Self::cpu_f32(shape, data))
    }

    /// A view of bytes on the host, as those of an image.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` has not as many elements as `shape`.
    pub fn from_bytes(data: &'a [u8], shape: &[usize]) -> Result<Self> {
        let shape = Shape::new("from_bytes", shape)?;
        if data.len() != shape.elements() {
            return Err(Error::shape("from_bytes", "data", format!("{shape:?}"), &[data.len()]));
        }
        Ok(Self::cpu_u8(shape, data))
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
        match self.data {
            Data::CpuF32(_) => DType::F32,
            Data::CpuF16(_) => DType::F16,
            Data::CpuBf16(_) => DType::BF16,
            Data::CpuU8(_) => DType::U8,
            Data::Cuda(v) => v.dtype(),
        }
    }

    /// Where the elements are.
    pub fn device(&self) -> Device {
        match self.data {
            Data::Cuda(v) => v.device(),
            _ => Device::Cpu,
        }
    }

    /// The elements from `start`, as many as `shape` has.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not lie within the view.
    pub fn part(&self, start: usize, shape: &[usize]) -> Result<TensorView<'a>> {
        let shape = Shape::new("part", shape)?;
        let end = start.saturating_add(shape.elements());
        if end > self.len() {
            return Err(Error::shape(
                "part",
                "self",
                format!("at least {end} elements"),
                self.shape(),
            ));
        }
        Ok(match self.data {
            Data::CpuF32(v) => Self::cpu_f32(shape, &v[start..end]),
            Data::CpuF16(v) => Self::cpu_f16(shape, &v[start..end]),
            Data::CpuBf16(v) => Self::cpu_bf16(shape, &v[start..end]),
            Data::CpuU8(v) => Self::cpu_u8(shape, &v[start..end]),
            Data::Cuda(v) => Self::cuda(shape, v.part(start, shape.elements())),
        })
    }

    /// The numbers as f32 on the host, in row-major order.
    ///
    /// # Panics
    /// If a GPU fails; [`TensorView::copy_to_slice`] returns the error.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.len()];
        self.copy_to_slice(&mut numbers).unwrap_or_else(|e| panic!("{e}"));
        numbers
    }

    /// Copies the numbers to the host as f32, in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] if `out` has another number of elements; [`Error::Cuda`] if a GPU fails,
    /// in this or in earlier work.
    pub fn copy_to_slice(&self, out: &mut [f32]) -> Result<()> {
        if out.len() != self.len() {
            let expected = format!("{:?}", self.shape());
            return Err(Error::shape("copy_to_slice", "out", expected, &[out.len()]));
        }
        match self.data {
            Data::CpuF32(v) => out.copy_from_slice(v),
            Data::CpuF16(v) => out.iter_mut().zip(v).for_each(|(o, x)| *o = x.to_f32()),
            Data::CpuBf16(v) => out.iter_mut().zip(v).for_each(|(o, x)| *o = x.to_f32()),
            Data::CpuU8(v) => out.iter_mut().zip(v).for_each(|(o, &x)| *o = x.into()),
            Data::Cuda(v) => v.read(out)?,
        }
        Ok(())
    }

    /// A copy on a device, with elements of a type.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used; [`Error::OutOfMemory`] if it has not
    /// enough memory; [`Error::Cuda`] if a GPU fails.
    pub fn copied_to(&self, device: Device, dtype: DType) -> Result<Tensor> {
        let mut copy = Tensor::zeros(self.shape(), dtype, device)?;
        match self.data {
            Data::CpuF32(v) => copy.view_mut().copy_from_slice(v)?,
            _ => {
                let mut numbers = vec![0.0; self.len()];
                self.copy_to_slice(&mut numbers)?;
                copy.view_mut().copy_from_slice(&numbers)?;
            }
        }
        Ok(copy)
    }

    /// The elements on the host, for the CPU's implementation of `op`.
    pub(crate) fn f32s(&self, op: &'static str, arg: &'static str) -> Result<&'a [f32]> {
        match self.data {
            Data::CpuF32(v) => Ok(v),
            Data::Cuda(v) => Err(not_on_the_host(op, arg, v.device())),
            _ => Err(Error::DType { op, arg, expected: DType::F32, got: self.dtype() }),
        }
    }

    /// The elements on the host where they are bytes, for the CPU's implementation of `op`.
    pub(crate) fn u8s(&self, op: &'static str, arg: &'static str) -> Result<&'a [u8]> {
        match self.data {
            Data::CpuU8(v) => Ok(v),
            Data::Cuda(v) => Err(not_on_the_host(op, arg, v.device())),
            _ => Err(Error::DType { op, arg, expected: DType::U8, got: self.dtype() }),
        }
    }

    /// The bytes of the elements on the host.
    pub(crate) fn bytes(&self, op: &'static str, arg: &'static str) -> Result<&'a [u8]> {
        match self.data {
            Data::CpuF32(v) => Ok(bytemuck::cast_slice(v)),
            Data::CpuF16(v) => Ok(bytemuck::cast_slice(v)),
            Data::CpuBf16(v) => Ok(bytemuck::cast_slice(v)),
            Data::CpuU8(v) => Ok(v),
            Data::Cuda(v) => Err(not_on_the_host(op, arg, v.device())),
        }
    }

    /// The elements on a GPU, if they are there.
    pub(crate) fn on_cuda(&self) -> Option<cuda::Slice<'a>> {
        match self.data {
            Data::Cuda(v) => Some(v),
            _ => None,
        }
    }
}

impl<'a> TensorViewMut<'a> {
    pub(super) fn cpu_f32(shape: Shape, data: &'a mut [f32]) -> Self {
        Self { shape, data: DataMut::CpuF32(data) }
    }

    pub(super) fn cpu_f16(shape: Shape, data: &'a mut [f16]) -> Self {
        Self { shape, data: DataMut::CpuF16(data) }
    }

    pub(super) fn cpu_bf16(shape: Shape, data: &'a mut [bf16]) -> Self {
        Self { shape, data: DataMut::CpuBf16(data) }
    }

    pub(super) fn cpu_u8(shape: Shape, data: &'a mut [u8]) -> Self {
        Self { shape, data: DataMut::CpuU8(data) }
    }

    pub(crate) fn cuda(shape: Shape, data: cuda::SliceMut<'a>) -> Self {
        Self { shape, data: DataMut::Cuda(data) }
    }

    /// A view of numbers on the host.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` has not as many elements as `shape`.
    pub fn from_slice(data: &'a mut [f32], shape: &[usize]) -> Result<Self> {
        let shape = Shape::new("from_slice", shape)?;
        if data.len() != shape.elements() {
            return Err(Error::shape("from_slice", "data", format!("{shape:?}"), &[data.len()]));
        }
        Ok(Self::cpu_f32(shape, data))
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

    /// The same part, to read.
    pub fn view(&self) -> TensorView<'_> {
        match &self.data {
            DataMut::CpuF32(v) => TensorView::cpu_f32(self.shape, v),
            DataMut::CpuF16(v) => TensorView::cpu_f16(self.shape, v),
            DataMut::CpuBf16(v) => TensorView::cpu_bf16(self.shape, v),
            DataMut::CpuU8(v) => TensorView::cpu_u8(self.shape, v),
            DataMut::Cuda(v) => TensorView::cuda(self.shape, v.as_slice()),
        }
    }

    /// The same part, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> TensorViewMut<'_> {
        match &mut self.data {
            DataMut::CpuF32(v) => TensorViewMut::cpu_f32(self.shape, v),
            DataMut::CpuF16(v) => TensorViewMut::cpu_f16(self.shape, v),
            DataMut::CpuBf16(v) => TensorViewMut::cpu_bf16(self.shape, v),
            DataMut::CpuU8(v) => TensorViewMut::cpu_u8(self.shape, v),
            DataMut::Cuda(v) => TensorViewMut::cuda(self.shape, v.reborrow()),
        }
    }

    /// The elements from `start`, as many as `shape` has.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not lie within the view.
    pub fn part(self, start: usize, shape: &[usize]) -> Result<TensorViewMut<'a>> {
        let (_, rest) = self.split(&[start])?;
        Ok(rest.split(shape)?.0)
    }

    /// The first elements, as many as `shape` has, and the rest as one axis.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not that many.
    pub fn split(self, shape: &[usize]) -> Result<(TensorViewMut<'a>, TensorViewMut<'a>)> {
        let (shape, len) = (Shape::new("split", shape)?, self.len());
        let n = shape.elements();
        if n > len {
            return Err(Error::shape(
                "split",
                "self",
                format!("at least {n} elements"),
                self.shape(),
            ));
        }
        let rest = Shape::line(len - n);
        Ok(match self.data {
            DataMut::CpuF32(v) => {
                let (a, b) = v.split_at_mut(n);
                (Self::cpu_f32(shape, a), Self::cpu_f32(rest, b))
            }
            DataMut::CpuF16(v) => {
                let (a, b) = v.split_at_mut(n);
                (Self::cpu_f16(shape, a), Self::cpu_f16(rest, b))
            }
            DataMut::CpuBf16(v) => {
                let (a, b) = v.split_at_mut(n);
                (Self::cpu_bf16(shape, a), Self::cpu_bf16(rest, b))
            }
            DataMut::CpuU8(v) => {
                let (a, b) = v.split_at_mut(n);
                (Self::cpu_u8(shape, a), Self::cpu_u8(rest, b))
            }
            DataMut::Cuda(v) => {
                let (a, b) = v.split(n);
                (Self::cuda(shape, a), Self::cuda(rest, b))
            }
        })
    }

    /// Copies from numbers on the host, rounding where the elements are of a smaller type; those that bytes
    /// cannot hold become the nearest that they can, and NaN 0.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` has another number of elements; [`Error::Cuda`] if a GPU fails.
    pub fn copy_from_slice(&mut self, data: &[f32]) -> Result<()> {
        if data.len() != self.len() {
            return Err(Error::shape(
                "copy_from_slice",
                "data",
                format!("{:?}", self.shape()),
                &[data.len()],
            ));
        }
        match &mut self.data {
            DataMut::CpuF32(v) => v.copy_from_slice(data),
            DataMut::CpuF16(v) => v.iter_mut().zip(data).for_each(|(v, &x)| *v = f16::from_f32(x)),
            DataMut::CpuBf16(v) => {
                v.iter_mut().zip(data).for_each(|(v, &x)| *v = bf16::from_f32(x));
            }
            DataMut::CpuU8(v) => v.iter_mut().zip(data).for_each(|(v, &x)| *v = to_u8(x)),
            DataMut::Cuda(v) => v.write(data)?,
        }
        Ok(())
    }

    /// Sets every element, rounding as [`copy_from_slice`](Self::copy_from_slice) does.
    ///
    /// # Errors
    /// [`Error::Cuda`] if a GPU fails.
    pub fn fill(&mut self, value: f32) -> Result<()> {
        /// Elements that are not worth splitting over threads.
        const PART: usize = 1 << 14;
        match &mut self.data {
            DataMut::CpuF32(v) => v.par_chunks_mut(PART).for_each(|part| part.fill(value)),
            DataMut::CpuF16(v) => v.fill(f16::from_f32(value)),
            DataMut::CpuBf16(v) => v.fill(bf16::from_f32(value)),
            DataMut::CpuU8(v) => v.fill(to_u8(value)),
            DataMut::Cuda(v) => v.fill(value)?,
        }
        Ok(())
    }

    /// The elements on the host, for the CPU's implementation of `op`.
    pub(crate) fn into_f32s(self, op: &'static str, arg: &'static str) -> Result<&'a mut [f32]> {
        let got = self.dtype();
        match self.data {
            DataMut::CpuF32(v) => Ok(v),
            DataMut::Cuda(v) => Err(not_on_the_host(op, arg, v.as_slice().device())),
            _ => Err(Error::DType { op, arg, expected: DType::F32, got }),
        }
    }

    /// The bytes of images, or codes, on the host.
    pub(crate) fn into_u8s(self, op: &'static str, arg: &'static str) -> Result<&'a mut [u8]> {
        let got = self.dtype();
        match self.data {
            DataMut::CpuU8(v) => Ok(v),
            DataMut::Cuda(v) => Err(not_on_the_host(op, arg, v.as_slice().device())),
            _ => Err(Error::DType { op, arg, expected: DType::U8, got }),
        }
    }

    /// The bytes of the elements on the host.
    pub(crate) fn into_bytes(self, op: &'static str, arg: &'static str) -> Result<&'a mut [u8]> {
        match self.data {
            DataMut::CpuF32(v) => Ok(bytemuck::cast_slice_mut(v)),
            DataMut::CpuF16(v) => Ok(bytemuck::cast_slice_mut(v)),
            DataMut::CpuBf16(v) => Ok(bytemuck::cast_slice_mut(v)),
            DataMut::CpuU8(v) => Ok(v),
            DataMut::Cuda(v) => Err(not_on_the_host(op, arg, v.as_slice().device())),
        }
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.view().dtype()
    }

    /// Where the elements are.
    pub fn device(&self) -> Device {
        self.view().device()
    }

    /// The elements on a GPU, if they are there.
    pub(crate) fn into_cuda(self) -> Option<cuda::SliceMut<'a>> {
        match self.data {
            DataMut::Cuda(v) => Some(v),
            _ => None,
        }
    }
}

fn not_on_the_host(op: &'static str, arg: &'static str, got: Device) -> Error {
    Error::Device { op, arg, expected: Device::Cpu, got }
}

impl<'a> From<&'a Tensor> for TensorView<'a> {
    fn from(t: &'a Tensor) -> Self {
        t.view()
    }
}

impl<'a> From<&'a mut Tensor> for TensorViewMut<'a> {
    fn from(t: &'a mut Tensor) -> Self {
        t.view_mut()
    }
}
