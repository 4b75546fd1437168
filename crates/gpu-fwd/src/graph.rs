//! Work recorded once and replayed: what short kernels are timed by, and what a hot loop uses.
#![allow(unsafe_code)] // the driver is a C library; each block says why it is sound

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::result;
use cudarc::driver::sys::{
    CUevent, CUevent_flags, CUgraph, CUgraphExec, CUgraphInstantiate_flags, CUstreamCaptureMode,
};

use crate::device::{Hold, Released, check};
use crate::library::Loaded;
use crate::{Device, Error, Result};

/// Recorded work. It keeps the kernels that were launched, but only names the memory that it was recorded
/// with, which must live as long as it is replayed: [`Graph::launch`] is `unsafe` for this reason alone.
pub struct Graph {
    replay: CUgraphExec,
    kernels: Vec<Arc<Loaded>>,
    device: Device,
}

impl Device {
    /// Records what `work` asks of this device instead of doing it. Kernels must have been loaded
    /// before, and nothing in it may make memory or wait for the device: rules with caller-owned outputs and
    /// workspace, after a first call, are such work.
    ///
    /// What `work` asks on this thread is recorded. Other threads that ask something of the device wait
    /// until it is done, so `work` must not wait for them. What is dropped meanwhile is released afterwards.
    ///
    /// The outer error is one of recording, the inner one is what `work` returned.
    pub fn record<E>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Result<Graph, E>> {
        let recording = Recording::begin(self)?;
        // Whether it fails or panics, `recording` ends the capture when it goes.
        match work() {
            Ok(()) => recording.finish().map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// A mark in the device's work, to measure time by.
    pub fn mark(&self) -> Result<Mark> {
        let turn = self.stream()?.waiting()?;
        let event = check("cuEventCreate", result::event::create(CUevent_flags::CU_EVENT_DEFAULT))?;
        let mark = Mark { event, device: self.clone() };
        // SAFETY: the event was just made in the context of the stream.
        check("cuEventRecord", unsafe { result::event::record(event, *turn) })?;
        Ok(mark)
    }
}

/// A capture of the device's stream by this thread, and the turns that go with it.
struct Recording<'a> {
    device: &'a Device,
    capturing: bool,
    // This thread has the device for itself.
    alone: bool,
    // Goes after the capture has ended.
    _hold: Hold<'a>,
}

impl<'a> Recording<'a> {
    fn begin(device: &'a Device) -> Result<Self> {
        let hold = device.hold();
        device.begin_turns()?;
        let mut recording = Self { device, capturing: false, alone: true, _hold: hold };
        let stream = device.stream()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is the device's, which lives.
        check("cuStreamBeginCapture", unsafe { result::stream::begin_capture(*stream, mode) })?;
        recording.capturing = true;
        Ok(recording)
    }

    /// Ends the capture. The graph is the caller's, and may be null.
    fn end(&mut self) -> Result<CUgraph> {
        self.capturing = false;
        let stream = self.device.stream()?;
        // SAFETY: this thread began to capture the stream, and has not ended it.
        check("cuStreamEndCapture", unsafe { result::stream::end_capture(*stream) })
    }

    fn finish(mut self) -> Result<Graph> {
        let recorded = self.end()?;
        self.alone = false;
        let kernels = self.device.end_turns();
        if recorded.is_null() {
            return Err(Error::NothingRecorded);
        }
        // SAFETY: the capture made the graph, and it is destroyed once, here: what is instantiated does not
        // need it.
        let replay = unsafe {
            let replay = result::graph::instantiate(recorded, CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(recorded);
            replay
        };
        let replay = check("cuGraphInstantiate", replay)?;
        Ok(Graph { replay, kernels, device: self.device.clone() })
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if self.capturing
            && let Ok(recorded) = self.end()
            && !recorded.is_null()
        {
            // SAFETY: the capture made the graph, and nobody else has it.
            let _ = unsafe { result::graph::destroy(recorded) };
        }
        if self.alone {
            drop(self.device.end_turns());
        }
    }
}

impl Graph {
    /// Does the recorded work.
    ///
    /// # Safety
    /// The memory that the work was recorded with is still alive, and nobody else uses it meanwhile.
    pub unsafe fn launch(&self) -> Result<()> {
        let stream = self.device.stream()?;
        stream.keep(&self.kernels);
        // SAFETY: both are the device's and live; the caller vouches for memory.
        check("cuGraphLaunch", unsafe { result::graph::launch(self.replay, *stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.release(Released::Replay(self.replay));
    }
}

/// A mark in the device's work.
#[derive(Debug)]
pub struct Mark {
    event: CUevent,
    device: Device,
}

// SAFETY: an event is the driver's name for something of a context, which every thread may use.
unsafe impl Send for Mark {}
// SAFETY: the same; a mark is set once, when it is made.
unsafe impl Sync for Mark {}

impl Mark {
    /// The time from an earlier mark to this one. Waits for both.
    pub fn since(&self, earlier: &Self) -> Result<Duration> {
        if self.device != earlier.device {
            return Err(Error::OtherDevice { what: "the earlier mark" });
        }
        let _turn = self.device.stream()?.waiting()?;
        // SAFETY: both events live, and were recorded on one stream.
        let milliseconds = unsafe {
            check("cuEventSynchronize", result::event::synchronize(earlier.event))?;
            check("cuEventSynchronize", result::event::synchronize(self.event))?;
            check("cuEventElapsedTime", result::event::elapsed(earlier.event, self.event))?
        };
        Ok(Duration::from_secs_f64(f64::from(milliseconds) / 1e3))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: made by `mark` and destroyed here only; the driver waits with it until it was passed.
        let _ = self.device.make_current().map(|()| unsafe { result::event::destroy(self.event) });
    }
}
