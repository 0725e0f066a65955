//! Copies between host and GPU that the host does not wait for: through pinned memory, each with an
//! event that says when the host may touch it again.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream, result};

use super::context::{Context, context};
use super::memory::{Memory, Slice, SliceMut};
use crate::error::Result;
use crate::types::DType;

/// Bytes on their way to a GPU. They are copied on a stream of their own, while the GPU computes.
pub(crate) struct Upload {
    host: Pinned<u8>,
    device: Memory,
    copies: Arc<CudaStream>,
    /// The work that reads the bytes on the GPU has been done.
    read: CudaEvent,
}

/// Numbers on their way from a GPU.
pub(crate) struct Download(Pinned<f32>);

/// Host memory that a GPU copies from and to by itself.
struct Pinned<T> {
    context: &'static Context,
    memory: NonNull<T>,
    len: usize,
    /// The copy has been made.
    copied: CudaEvent,
}

// SAFETY: it owns its memory.
unsafe impl<T: Send> Send for Pinned<T> {}

/// Numbers for which all bytes zero is a value.
trait Zeroed: Copy {}
impl Zeroed for u8 {}
impl Zeroed for f32 {}

impl<T: Zeroed> Pinned<T> {
    /// Memory for `len` numbers, which are zero.
    fn new(ordinal: usize, len: usize) -> Result<Self> {
        let context = context(ordinal)?;
        // Who waits sleeps and leaves the core to the threads that decode images.
        let copied = event(context, CUevent_flags::CU_EVENT_BLOCKING_SYNC)?;
        // The driver cannot allocate nothing.
        let bytes = (len * size_of::<T>()).max(1);
        // SAFETY: the memory is freed when the value is dropped.
        let memory = unsafe { result::malloc_host(bytes, 0) };
        let memory = context.check("allocating pinned memory", memory)?.cast::<T>();
        let memory = NonNull::new(memory)
            .ok_or_else(|| context.error("allocating pinned memory", "there is none"))?;
        // SAFETY: there is memory for as many numbers, for which zero is a value.
        unsafe { memory.write_bytes(0, len) };
        Ok(Self { context, memory, len, copied })
    }

    /// The numbers, once the last copy has been made.
    fn get(&mut self) -> Result<&mut [T]> {
        self.context.check("waiting for a copy", self.copied.synchronize())?;
        // SAFETY: there are as many numbers, and no copy is under way.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) })
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // A GPU that fails copies nothing any longer.
        self.copied.synchronize().ok();
        // SAFETY: the memory is its own, and no copy is under way.
        unsafe { result::free_host(self.memory.as_ptr().cast()) }.ok();
    }
}

fn event(context: &Context, flags: CUevent_flags) -> Result<CudaEvent> {
    context.check("making an event", context.main_stream().context().new_event(Some(flags)))
}

impl Upload {
    /// For `len` bytes, which are zero on the host.
    pub fn new(ordinal: usize, len: usize) -> Result<Self> {
        let context = context(ordinal)?;
        let device = Memory::zeros(ordinal, DType::U8, len)?;
        let copies = context.main_stream().context().new_stream();
        let read = event(context, CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        // The memory is there when the main stream has come to its allocation and set it.
        context.check("recording an event", read.record(context.main_stream()))?;
        Ok(Self {
            host: Pinned::new(ordinal, len)?,
            device,
            copies: context.check("making a stream", copies)?,
            read,
        })
    }

    /// The bytes on the host, once they have been copied if they were sent.
    pub fn bytes(&mut self) -> Result<&mut [u8]> {
        self.host.get()
    }

    /// Queues the copy of the first `len` bytes.
    pub fn send(&mut self, len: usize) -> Result<()> {
        let context = self.host.context;
        if context.is_recording() {
            return Err(context.error("writing", "numbers on the host cannot be recorded"));
        }
        let to = self.device.slice().address();
        let bytes = &self.host.get()?[..len];
        context.check("waiting on the GPU", self.copies.wait(&self.read))?;
        // SAFETY: there is room on the GPU, where nothing reads any longer; `get` waits for the copy.
        let copy = unsafe { result::memcpy_htod_async(to, bytes, self.copies.cu_stream()) };
        let recorded = self.host.copied.record(&self.copies);
        context.check("copying to the GPU", copy.and(recorded))
    }

    /// Has `queue` queue the work that reads what was sent last.
    pub fn read<T>(&mut self, queue: impl FnOnce(Slice) -> Result<T>) -> Result<T> {
        let (context, stream) = (self.host.context, self.host.context.main_stream());
        context.check("waiting on the GPU", stream.wait(&self.host.copied))?;
        let queued = queue(self.device.slice());
        context.check("recording an event", self.read.record(stream))?;
        queued
    }
}

impl Upload {
    /// Queues a copy of what was sent last to memory of its GPU, all of it.
    pub fn copy_to(&mut self, to: &mut SliceMut) -> Result<()> {
        let context = self.host.context;
        let (len, dtype, device) =
            (to.as_slice().len(), to.as_slice().dtype(), to.as_slice().device());
        assert!(device == context.device() && len * dtype.size() <= self.host.len);
        self.read(|bytes| to.copy_from(bytes.part(0, len * dtype.size())))
    }
}

impl Download {
    /// For `len` numbers.
    pub fn new(ordinal: usize, len: usize) -> Result<Self> {
        Pinned::new(ordinal, len).map(Self)
    }

    /// Queues the copy of parts in f32, one behind the other, after the work so far.
    pub fn start(&mut self, parts: &[Slice]) -> Result<()> {
        let context = self.0.context;
        if context.is_recording() {
            return Err(context.error("reading", "work that is recorded has no results yet"));
        }
        let mut rest = self.0.get()?;
        let copies = parts.iter().try_for_each(|part| {
            assert!(part.dtype() == DType::F32 && part.device() == context.device());
            let (to, after) = std::mem::take(&mut rest).split_at_mut(part.len());
            rest = after;
            // SAFETY: both places have as many numbers; `get` waits for the copy.
            unsafe { result::memcpy_dtoh_async(to, part.address(), context.stream()) }
        });
        let recorded = self.0.copied.record(context.main_stream());
        context.check("copying from the GPU", copies.and(recorded))
    }

    /// The numbers, once they are there.
    pub fn wait(&mut self) -> Result<&[f32]> {
        self.0.get().map(|numbers| &*numbers)
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes on their way to {}", self.host.len, self.host.context.device())
    }
}
