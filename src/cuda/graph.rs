//! Work recorded once and run many times, with one call to the driver each.

use cudarc::driver::CudaGraph;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};

use super::context::{Context, context};
use super::memory::Allocation;
use crate::error::{Error, Result};
use crate::types::Device;

/// What the driver says of a recording that another thread has spoilt.
const SPOILT: CUresult = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
/// Times that a recording is tried.
const ATTEMPTS: u32 = 10;

/// Recorded work of a GPU, which keeps the memory that it uses.
pub struct Graph {
    graph: CudaGraph,
    context: &'static Context,
    _memory: Vec<Allocation>,
}

// SAFETY: a graph is run through `&mut self`, by one thread at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Records the work that `f` queues on a GPU. It runs twice: once for real, so that kernels are
    /// compiled and algorithms chosen, and once recorded; again if another thread spoils the recording
    /// by waiting for the whole GPU (`cuCtxSynchronize`), which the driver refuses meanwhile.
    ///
    /// Recorded work has the addresses of the tensors it was given, whose memory lives as long as the recording
    /// does. Numbers cannot be copied between host and GPU in it; work of another GPU, or on memory of a
    /// [`Queue`](super::interop::Queue), is refused.
    ///
    /// # Errors
    /// What `f` returns; [`Error::Argument`] if the device is not a GPU; [`Error::Cuda`] if the work
    /// cannot be recorded.
    pub fn record(device: Device, mut f: impl FnMut() -> Result<()>) -> Result<Self> {
        let Device::Cuda(ordinal) = device else {
            return Err(Error::argument("Graph::record", "device", "a GPU", device));
        };
        let context = context(ordinal)?;
        f()?;
        context.synchronize()?;
        // A stream of its own: what other threads queue meanwhile is not recorded.
        let stream = context.check("recording", context.main_stream().context().new_stream())?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let mut attempts = 0;
        let (graph, memory) = loop {
            context.check("recording", stream.begin_capture(mode))?;
            let (recorded, memory) = context.recording(&stream, &mut f);
            let graph = stream.end_capture(CUgraphInstantiate_flags(0));
            attempts += 1;
            let is_spoilt = matches!(graph, Err(DriverError(SPOILT)));
            if !is_spoilt || attempts == ATTEMPTS {
                recorded?;
                break (graph, memory);
            }
        };
        let graph = context.check("recording", graph)?;
        let graph = graph.ok_or_else(|| context.error("recording", "no work was recorded"))?;
        context.check("recording", graph.upload())?;
        Ok(Self { graph, context, _memory: memory })
    }

    /// Queues the recorded work.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU fails.
    pub fn run(&mut self) -> Result<()> {
        let _queueing = self.context.queueing();
        self.queue()
    }

    /// [`Graph::run`] for who holds the context's lock of queueing.
    pub(super) fn queue(&mut self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the graph and the memory that it uses are alive.
        let queued = unsafe {
            result::graph::launch(
                self.graph.cu_graph_exec(),
                self.context.main_stream().cu_stream(),
            )
        };
        self.context.check("running recorded work", queued)
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph on {:?}", self.context)
    }
}
