//! Work recorded once and replayed: what short kernels are timed by, and what a hot loop uses.

use std::time::Duration;

use cudarc::driver::sys::{
    self, CUevent_flags, CUgraphInstantiate_flags, CUgraphNodeType, CUstreamCaptureMode,
};
use cudarc::driver::{CudaEvent, CudaGraph};

use crate::device::check;
use crate::{Device, Error, Result};

/// Recorded work. It names the memory that it was recorded with, which must live as long as it is
/// replayed: [`Graph::launch`] is `unsafe` for this reason alone.
pub struct Graph {
    graph: CudaGraph,
    device: Device,
}

impl Device {
    /// Records what `work` asks of this device instead of doing it. Kernels must have been loaded
    /// before, and nothing in it may wait for the device: rules with caller-owned outputs and
    /// workspace, after a first call, are such work.
    ///
    /// The outer error is one of recording, the inner one is what `work` returned.
    pub fn record<E>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Result<Graph, E>> {
        let stream = self.cuda_stream()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        check("cuStreamBeginCapture", stream.begin_capture(mode))?;
        let outcome = work();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = check("cuStreamEndCapture", stream.end_capture(flags));
        if let Err(error) = outcome {
            return Ok(Err(error));
        }
        let graph = graph?.ok_or(Error::NothingRecorded)?;
        Ok(Ok(Graph { graph, device: self.clone() }))
    }

    /// A mark in the device's work, to measure time by.
    pub fn mark(&self) -> Result<Mark> {
        let stream = self.cuda_stream()?;
        let event =
            check("cuEventCreate", stream.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)))?;
        check("cuEventRecord", event.record(stream))?;
        Ok(Mark { event })
    }
}

impl Graph {
    /// Whether the recorded work makes or releases memory.
    #[allow(unsafe_code)]
    pub(crate) fn changes_memory(&self) -> Result<bool> {
        let (graph, mut count) = (self.graph.cu_graph(), 0);
        // SAFETY: the graph lives; without a list the call only counts.
        let outcome = unsafe { sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &raw mut count) };
        check("cuGraphGetNodes", outcome.result())?;
        if count == 0 {
            return Ok(false);
        }
        let mut nodes = vec![std::ptr::null_mut(); count];
        // SAFETY: the list has room for as many nodes as the call before counted.
        let outcome = unsafe { sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &raw mut count) };
        check("cuGraphGetNodes", outcome.result())?;
        for node in nodes {
            let mut kind = CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
            // SAFETY: the node is one of a graph that lives, and the pointer is to a live value.
            check("cuGraphNodeGetType", unsafe { sys::cuGraphNodeGetType(node, &raw mut kind) }.result())?;
            let memory =
                [CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEM_ALLOC, CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEM_FREE];
            if memory.contains(&kind) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Does the recorded work.
    ///
    /// # Safety
    /// The memory that the work was recorded with is still alive, and nobody else uses it meanwhile.
    #[allow(unsafe_code)]
    pub unsafe fn launch(&self) -> Result<()> {
        self.device.cuda_stream()?;
        check("cuGraphLaunch", self.graph.launch())
    }
}

/// A mark in the device's work.
#[derive(Debug)]
pub struct Mark {
    event: CudaEvent,
}

impl Mark {
    /// The time from an earlier mark to this one. Waits for both.
    pub fn since(&self, earlier: &Self) -> Result<Duration> {
        let milliseconds = check("cuEventElapsedTime", earlier.event.elapsed_ms(&self.event))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) / 1e3))
    }
}
