//! A GPU ready to compute: context, stream, limits, and what was made for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::result::{DriverError, mem_get_info, memcpy_htod_async};
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUresult, CUstream};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};

use super::gemm::Gemm;
use super::launch::Kernels;
use super::memory::{Allocation, allocate};
use super::probe::probe;
use crate::error::{Error, Result};
use crate::types::Device;

/// A GPU, its stream, and what was made for it. All work is queued on the one stream, so that it
/// runs in the order of the calls.
pub(crate) struct Context {
    device: Device,
    stream: Arc<CudaStream>,
    pub limits: Limits,
    pub linear: Linear,
    pub kernels: Kernels,
    gemm: OnceLock<Gemm>,
    tables: Mutex<BTreeMap<(&'static str, usize), CudaSlice<u8>>>,
    queueing: Mutex<()>,
    /// The last is the largest; recorded work may use those before it.
    scratch: Mutex<Vec<CudaSlice<u8>>>,
}

/// What the GPU allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// N of sm_N.
    pub arch: u32,
    /// Bytes of shared memory a block can have.
    pub shared: u32,
    /// Multiprocessors.
    pub multiprocessors: usize,
}

/// What computes linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linear {
    /// cuBLASLt, which has other algorithms for other numbers of rows.
    CublasLt,
    /// `kernels/linear.cu`, in which no row depends on how many there are. Nor does then the choice of any other
    /// kernel, so that the bits of an image do not depend on its batch.
    Own,
}

impl Linear {
    /// What the environment variable asks for.
    fn asked() -> Result<Self> {
        const VARIABLE: &str = "INVAD_LINEAR";
        let asked = env::var_os(VARIABLE).unwrap_or_default();
        match &*asked.to_string_lossy() {
            "" | "cublaslt" => Ok(Self::CublasLt),
            "own" => Ok(Self::Own),
            other => Err(Error::argument("Device::require", VARIABLE, "cublaslt or own", other)),
        }
    }
}

/// The context of a GPU, made at the first call and kept until the process ends.
pub(crate) fn context(ordinal: usize) -> Result<&'static Context> {
    static CONTEXTS: Mutex<BTreeMap<usize, &Context>> = Mutex::new(BTreeMap::new());
    let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(context) = contexts.get(&ordinal) {
        return Ok(context);
    }
    probe().require(ordinal)?;
    let context = &*Box::leak(Box::new(Context::new(ordinal)?));
    contexts.insert(ordinal, context);
    Ok(context)
}

/// Bytes of a GPU's memory that are free.
pub(crate) fn free_memory(ordinal: usize) -> Result<usize> {
    let context = context(ordinal)?;
    // What has been freed is free once the stream is there.
    context.synchronize()?;
    context.bind()?;
    context.check("asking for free memory", mem_get_info()).map(|(free, _)| free)
}

/// Takes scratch memory, so that it is not made little by little.
pub(crate) fn reserve_scratch(ordinal: usize, bytes: usize) -> Result<()> {
    context(ordinal)?.scratch(bytes).map(drop)
}

/// Bytes that matrix products take on a GPU once in a process; those of an RTX 4090 where there is no such GPU.
pub(crate) fn workspace_bytes(ordinal: usize) -> usize {
    let arch = context(ordinal).map_or(89, |context| context.limits.arch);
    Gemm::workspace_bytes(arch)
}

thread_local! {
    /// What this thread's work is recorded by in place of being run.
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

struct Recording {
    /// Whose work it is: that of one stream, of one GPU.
    of: *const Context,
    device: Device,
    stream: CUstream,
    /// The memory that the work uses.
    kept: Vec<Allocation>,
}

impl Context {
    fn new(ordinal: usize) -> Result<Self> {
        let device = Device::Cuda(ordinal);
        let make = || {
            let context = CudaContext::new(ordinal)?;
            // SAFETY: everything that uses memory of this context is ordered on one stream.
            unsafe { context.disable_event_tracking() };
            context.new_stream()
        };
        let stream = make().map_err(|e| driver_error(device, "opening the GPU", e))?;
        Self::on(stream)
    }

    /// The context of a stream.
    pub fn on(stream: Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        let device = Device::Cuda(context.ordinal());
        let attribute = |attribute| {
            let value = context.attribute(attribute);
            let value = value.map_err(|e| driver_error(device, "asking for limits", e))?;
            Ok(value as u32)
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let limits = Limits {
            arch: 10 * major + minor,
            shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?
                as usize,
        };
        Ok(Self {
            device,
            stream,
            limits,
            linear: Linear::asked()?,
            kernels: Kernels::default(),
            gemm: OnceLock::new(),
            tables: Mutex::default(),
            queueing: Mutex::default(),
            scratch: Mutex::default(),
        })
    }

    /// The GPU.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The stream that owns memory and runs the work.
    pub fn main_stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The stream that takes this thread's work now: the context's, or the one that records it.
    pub fn stream(&self) -> CUstream {
        self.recorder().unwrap_or(self.stream.cu_stream())
    }

    /// Whether this thread's work of this context is being recorded and not run.
    pub fn is_recording(&self) -> bool {
        self.recorder().is_some()
    }

    fn recorder(&self) -> Option<CUstream> {
        RECORDING.with_borrow(|recording| {
            recording.as_ref().filter(|r| std::ptr::eq(r.of, self)).map(|r| r.stream)
        })
    }

    /// Has `stream` take the work of this context that `f` queues from this thread; returned with what `f` returns
    /// is the memory that the work uses.
    pub fn recording<T>(&self, stream: &CudaStream, f: impl FnOnce() -> T) -> (T, Vec<Allocation>) {
        struct Restore(Option<Recording>);
        impl Drop for Restore {
            fn drop(&mut self) {
                RECORDING.set(self.0.take());
            }
        }
        let (device, stream) = (self.device, stream.cu_stream());
        let recording = Recording { of: self, device, stream, kept: Vec::new() };
        let _restore = Restore(RECORDING.replace(Some(recording)));
        let done = f();
        (done, RECORDING.take().map_or(Vec::new(), |recording| recording.kept))
    }

    /// Has the recording of this thread's work, if there is one, keep memory that the work uses; none where it is
    /// the caller's. Refused is what the recording could not run again.
    pub fn take_part(&self, memory: Option<&Allocation>) -> Result<()> {
        RECORDING.with_borrow_mut(|recording| {
            let Some(Recording { of, device, kept, .. }) = recording else { return Ok(()) };
            let Some(memory) = memory else {
                let why = "memory of the caller's cannot be part of a recording";
                return Err(self.error("recording", why));
            };
            if !std::ptr::eq(*of, self) {
                let why = format!("work is being recorded for {device} alone; record this apart");
                return Err(self.error("recording", why));
            }
            if !kept.iter().any(|other| Arc::ptr_eq(other, memory)) {
                kept.push(memory.clone());
            }
            Ok(())
        })
    }

    /// Has the driver's next calls of this thread mean this GPU.
    pub fn bind(&self) -> Result<()> {
        self.check("binding a thread", self.stream.context().bind_to_thread())
    }

    /// Waits until all queued work is done.
    pub fn synchronize(&self) -> Result<()> {
        self.check("waiting for the GPU", self.stream.synchronize())
    }

    /// Matrix products.
    pub fn gemm(&self) -> Result<&Gemm> {
        if let Some(gemm) = self.gemm.get() {
            return Ok(gemm);
        }
        let gemm = Gemm::new(self)?;
        Ok(self.gemm.get_or_init(|| gemm))
    }

    /// The address of a table of constants, brought to the GPU at the first call for its name and length.
    pub fn table(&self, name: &'static str, numbers: &[f32]) -> Result<u64> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name, numbers.len());
        if !tables.contains_key(&key)
            && let Some(memory) = allocate(self, size_of_val(numbers))?
        {
            let address = memory.device_ptr(&self.stream).0;
            // SAFETY: the memory has room for all numbers; the driver has copied them on return.
            let copy = unsafe { memcpy_htod_async(address, numbers, self.stream.cu_stream()) };
            self.check("copying to the GPU", copy)?;
            tables.insert(key, memory);
        }
        Ok(tables.get(&key).map_or(0, |memory| memory.device_ptr(&self.stream).0))
    }

    /// Held while an operation is queued, so that what other threads queue comes before or after
    /// all of it.
    pub fn queueing(&self) -> MutexGuard<'_, ()> {
        self.queueing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of memory for what an operation's kernels leave to each other, of undefined
    /// content; the next operation may use the same.
    pub fn scratch(&self, bytes: usize) -> Result<u64> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if scratch.last().is_none_or(|largest| largest.len() < bytes) {
            scratch.extend(allocate(self, bytes)?);
        }
        Ok(scratch.last().map_or(0, |memory| memory.device_ptr(&self.stream).0))
    }

    /// The result of a driver call that was part of doing `call`.
    pub fn check<T>(&self, call: &str, result: Result<T, DriverError>) -> Result<T> {
        result.map_err(|e| driver_error(self.device, call, e))
    }

    /// The result of asking for `bytes` of memory.
    pub fn check_memory<T>(&self, bytes: usize, result: Result<T, DriverError>) -> Result<T> {
        match result {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = mem_get_info().unwrap_or((0, 0));
                Err(Error::OutOfMemory { device: self.device, asked: bytes, free, total })
            }
            result => self.check("allocating memory", result),
        }
    }

    /// An error that is not the driver's.
    pub fn error(&self, call: impl Into<String>, reason: impl ToString) -> Error {
        Error::Cuda { device: self.device, call: call.into(), reason: reason.to_string() }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.device)
    }
}

fn driver_error(device: Device, call: &str, e: DriverError) -> Error {
    let name = e.error_name().map(|name| name.to_string_lossy().into_owned());
    let text = e.error_string().map(|text| text.to_string_lossy().into_owned());
    let reason = match (name, text) {
        (Ok(name), Ok(text)) => format!("{name}, {text}"),
        _ => format!("error {}", e.0 as u32),
    };
    Error::Cuda { device, call: call.into(), reason }
}
