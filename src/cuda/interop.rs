//! Operations on memory and a stream of the caller's: the one place whose signatures name cudarc.

use std::sync::Arc;

pub use cudarc;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use half::{bf16, f16};

use super::context::Context;
use super::memory::{Slice, SliceMut};
use super::probe::probe;
use crate::error::{Error, Result};
use crate::tensor::{DType, Shape, TensorView, TensorViewMut};

/// A caller's stream of a GPU, on which any operation can run: hand it views of the caller's memory.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use invad::cuda::interop::{Queue, cudarc::driver::CudaContext};
/// use invad::ops;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stream = CudaContext::new(0)?.new_stream()?;
/// // 64 images of 256 tokens, 8 heads of size 128.
/// let qkv = stream.alloc_zeros::<half::f16>(64 * 256 * 3 * 8 * 128)?;
/// let mut out = stream.alloc_zeros::<half::f16>(64 * 256 * 8 * 128)?;
///
/// let queue = Queue::new(&stream)?;
/// let qkv = queue.view(&qkv, &[64, 256, 3, 8, 128])?;
/// ops::attention(qkv, queue.view_mut(&mut out, &[64, 256, 8 * 128])?, None)?;
/// # Ok(())
/// # }
/// ```
///
/// Work is queued and not waited for. What other streams do with the memory, the caller puts in
/// order.
#[derive(Debug)]
pub struct Queue {
    context: Context,
}

/// A type of numbers that operations know.
pub trait Element: sealed::Sealed {
    /// Its name.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}

impl Element for u8 {
    const DTYPE: DType = DType::U8;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for u8 {}
}

impl Queue {
    /// A queue for a stream. It keeps the kernels that it loads, so that it is worth keeping.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the GPU is too old, or NVRTC or cuBLASLt is missing.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        probe().require(stream.context().ordinal())?;
        Ok(Self { context: Context::on(stream.clone())? })
    }

    /// Memory of the stream's GPU, to read.
    ///
    /// # Errors
    /// [`Error::Shape`] if `memory` has not as many elements as `shape`.
    pub fn view<'a, T: Element>(
        &'a self,
        memory: &'a impl DevicePtr<T>,
        shape: &[usize],
    ) -> Result<TensorView<'a>> {
        let shape = check("view", shape, memory.len())?;
        let (address, _) = memory.device_ptr(self.context.main_stream());
        Ok(TensorView::cuda(shape, self.slice(T::DTYPE, address, memory.len())))
    }

    /// Memory of the stream's GPU, to write.
    ///
    /// # Errors
    /// [`Error::Shape`] if `memory` has not as many elements as `shape`.
    pub fn view_mut<'a, T: Element>(
        &'a self,
        memory: &'a mut impl DevicePtrMut<T>,
        shape: &[usize],
    ) -> Result<TensorViewMut<'a>> {
        let len = memory.len();
        let shape = check("view_mut", shape, len)?;
        let (address, _) = memory.device_ptr_mut(self.context.main_stream());
        Ok(TensorViewMut::cuda(shape, SliceMut::new(self.slice(T::DTYPE, address, len))))
    }

    fn slice(&self, dtype: DType, address: u64, len: usize) -> Slice<'_> {
        Slice::foreign(&self.context, dtype, address, len)
    }
}

fn check(op: &'static str, shape: &[usize], len: usize) -> Result<Shape> {
    let shape = Shape::new(op, shape)?;
    match shape.elements() {
        n if n == len => Ok(shape),
        _ => Err(Error::shape(op, "memory", format!("{shape:?}"), &[len])),
    }
}
