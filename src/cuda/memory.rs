//! Memory of a GPU.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr, result};
use half::{bf16, f16};

use super::context::{Context, context};
use crate::error::Result;
use crate::types::{DType, Device, to_u8};

/// Numbers on a GPU, owned.
pub(crate) struct Memory {
    context: &'static Context,
    dtype: DType,
    len: usize,
    /// None where there are no elements, which the driver cannot allocate.
    data: Option<Allocation>,
}

/// Memory that is freed when neither its owner nor recorded work needs it any longer.
pub(super) type Allocation = Arc<CudaSlice<u8>>;

/// Numbers on a GPU, to read.
#[derive(Clone, Copy)]
pub(crate) struct Slice<'a> {
    context: &'a Context,
    dtype: DType,
    address: u64,
    len: usize,
    /// None where there are no elements, and where the memory is the caller's.
    owner: Option<&'a Allocation>,
}

/// Numbers on a GPU, to write: the only way to them while it lives.
pub(crate) struct SliceMut<'a>(Slice<'a>, PhantomData<&'a mut ()>);

impl Memory {
    /// Memory for `len` numbers, which are zero.
    pub fn zeros(ordinal: usize, dtype: DType, len: usize) -> Result<Self> {
        let context = context(ordinal)?;
        let data = allocate(context, len * dtype.size())?.map(Arc::new);
        let mut memory = Self { context, dtype, len, data };
        memory.slice_mut().fill(0.0)?;
        Ok(memory)
    }

    /// Memory with these numbers.
    pub fn from_f32(ordinal: usize, data: &[f32]) -> Result<Self> {
        let context = context(ordinal)?;
        let memory = allocate(context, size_of_val(data))?.map(Arc::new);
        let mut memory = Self { context, dtype: DType::F32, len: data.len(), data: memory };
        memory.slice_mut().write(data)?;
        Ok(memory)
    }

    /// A copy in memory of its own.
    pub fn try_clone(&self) -> Result<Self> {
        let bytes = self.len * self.dtype.size();
        let data = allocate(self.context, bytes)?.map(Arc::new);
        let mut copy = Self { context: self.context, dtype: self.dtype, len: self.len, data };
        copy.slice_mut().copy_from(self.slice())?;
        Ok(copy)
    }

    pub fn slice(&self) -> Slice<'_> {
        let Self { context, dtype, len, ref data } = *self;
        let address = data.as_ref().map_or(0, |data| address(context, data));
        Slice { context, dtype, address, len, owner: data.as_ref() }
    }

    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        SliceMut::new(self.slice())
    }
}

fn address(context: &Context, data: &Allocation) -> u64 {
    data.device_ptr(context.main_stream()).0
}

/// Memory whose content is undefined.
pub(super) fn allocate(context: &Context, bytes: usize) -> Result<Option<CudaSlice<u8>>> {
    if bytes == 0 {
        return Ok(None);
    }
    context.bind()?;
    // SAFETY: nobody reads the memory before something has been written to it.
    let data = unsafe { context.main_stream().alloc::<u8>(bytes) };
    context.check_memory(bytes, data).map(Some)
}

impl<'a> Slice<'a> {
    /// Memory of the caller's.
    pub fn foreign(context: &'a Context, dtype: DType, address: u64, len: usize) -> Self {
        Self { context, dtype, address, len, owner: None }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn device(&self) -> Device {
        self.context.device()
    }

    pub fn context(&self) -> &'a Context {
        self.context
    }

    /// Where the numbers are.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Where the numbers are, for work that is queued now. Where that is recorded, the recording keeps the memory
    /// as long as it lives.
    pub fn address_of_work(&self) -> Result<u64> {
        if self.len > 0 {
            self.context.take_part(self.owner)?;
        }
        Ok(self.address)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// `len` elements from `start`, which the caller knows to be there.
    pub fn part(&self, start: usize, len: usize) -> Self {
        debug_assert!(start + len <= self.len);
        Self { address: self.address + (start * self.dtype.size()) as u64, len, ..*self }
    }

    /// Copies the numbers to the host, where there is room for all of them.
    pub fn read(&self, out: &mut [f32]) -> Result<()> {
        match self.dtype {
            DType::F32 => self.read_raw(out),
            DType::F16 => {
                let halves = self.read_small::<f16>(out.len())?;
                out.iter_mut().zip(halves).for_each(|(o, h)| *o = h.to_f32());
                Ok(())
            }
            DType::BF16 => {
                let halves = self.read_small::<bf16>(out.len())?;
                out.iter_mut().zip(halves).for_each(|(o, h)| *o = h.to_f32());
                Ok(())
            }
            DType::U8 => {
                let bytes = self.read_small::<u8>(out.len())?;
                out.iter_mut().zip(bytes).for_each(|(o, byte)| *o = byte.into());
                Ok(())
            }
        }
    }

    fn read_small<T: Default + Clone>(&self, len: usize) -> Result<Vec<T>> {
        let mut numbers = vec![T::default(); len];
        self.read_raw(&mut numbers)?;
        Ok(numbers)
    }

    fn read_raw<T>(&self, out: &mut [T]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if self.context.is_recording() {
            return Err(self.context.error("reading", "work that is recorded has no results yet"));
        }
        self.context.bind()?;
        // SAFETY: the memory holds as many numbers of this type, and they are all there when the
        // stream is done.
        let copy = unsafe { result::memcpy_dtoh_async(out, self.address, self.context.stream()) };
        self.context.check("copying from the GPU", copy)?;
        self.context.synchronize()
    }
}

impl<'a> SliceMut<'a> {
    /// The only way to `slice` while it lives.
    pub fn new(slice: Slice<'a>) -> Self {
        Self(slice, PhantomData)
    }

    pub fn into_slice(self) -> Slice<'a> {
        self.0
    }

    pub fn as_slice(&self) -> Slice<'_> {
        self.0
    }

    pub fn reborrow(&mut self) -> SliceMut<'_> {
        SliceMut(self.0, PhantomData)
    }

    /// The first `n` elements and the rest, which the caller knows to be there.
    pub fn split(self, n: usize) -> (SliceMut<'a>, SliceMut<'a>) {
        let rest = self.0.part(n, self.0.len - n);
        (SliceMut(self.0.part(0, n), PhantomData), SliceMut(rest, PhantomData))
    }

    /// Copies as many numbers from the host.
    pub fn write(&mut self, data: &[f32]) -> Result<()> {
        match self.0.dtype {
            DType::F32 => self.write_raw(data),
            DType::F16 => {
                let halves: Vec<f16> = data.iter().map(|&x| f16::from_f32(x)).collect();
                self.write_raw(&halves)
            }
            DType::BF16 => {
                let halves: Vec<bf16> = data.iter().map(|&x| bf16::from_f32(x)).collect();
                self.write_raw(&halves)
            }
            DType::U8 => {
                let bytes: Vec<u8> = data.iter().map(|&x| to_u8(x)).collect();
                self.write_raw(&bytes)
            }
        }
    }

    fn write_raw<T>(&mut self, data: &[T]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let context = self.0.context;
        if context.is_recording() {
            // A recording would copy from this place in the host's memory each time it runs.
            return Err(context.error("writing", "numbers on the host cannot be recorded"));
        }
        context.bind()?;
        // SAFETY: there is memory for as many numbers of this type; from memory that is not pinned
        // the driver has copied when it returns.
        let copy = unsafe { result::memcpy_htod_async(self.0.address, data, context.stream()) };
        context.check("copying to the GPU", copy)
    }

    /// Copies as many numbers of the same type on the same GPU.
    pub fn copy_from(&mut self, from: Slice) -> Result<()> {
        let (context, bytes) = (self.0.context, self.0.len * self.0.dtype.size());
        if bytes == 0 {
            return Ok(());
        }
        context.bind()?;
        let (to, from) = (self.0.address_of_work()?, from.address_of_work()?);
        // SAFETY: both places have as many bytes.
        let copy = unsafe { result::memcpy_dtod_async(to, from, bytes, context.stream()) };
        context.check("copying on the GPU", copy)
    }

    /// Sets every element.
    pub fn fill(&mut self, value: f32) -> Result<()> {
        let Slice { context, dtype, len, .. } = self.0;
        if len == 0 {
            return Ok(());
        }
        context.bind()?;
        let address = self.0.address_of_work()?;
        use cudarc::driver::sys::{cuMemsetD8Async, cuMemsetD16Async, cuMemsetD32Async};
        // SAFETY: there are as many elements of this size, aligned to it.
        let set = unsafe {
            match dtype {
                DType::F32 => cuMemsetD32Async(address, value.to_bits(), len, context.stream()),
                DType::F16 => {
                    let bits = f16::from_f32(value).to_bits();
                    cuMemsetD16Async(address, bits, len, context.stream())
                }
                DType::BF16 => {
                    let bits = bf16::from_f32(value).to_bits();
                    cuMemsetD16Async(address, bits, len, context.stream())
                }
                DType::U8 => cuMemsetD8Async(address, to_u8(value), len, context.stream()),
            }
        };
        context.check("filling memory", set.result())
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} × {} on {}", self.dtype, self.len, self.context.device())
    }
}

impl std::fmt::Debug for Slice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} × {} on {}", self.dtype, self.len, self.context.device())
    }
}

impl std::fmt::Debug for SliceMut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
