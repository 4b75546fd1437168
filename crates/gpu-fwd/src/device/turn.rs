//! A turn on a device, and what is put off while none is to be had.

use std::ops::Deref;
use std::sync::Arc;

use cudarc::cublas::{self, sys::cublasHandle_t};
use cudarc::driver::result;
use cudarc::driver::sys::{CUdeviceptr, CUgraphExec, CUmodule, CUstream};

use super::{Device, check};
use crate::library::Loaded;
use crate::{Error, Result};

/// The stream of a device, for a call to the driver: while it is held, no other thread begins to record.
/// Short-lived, and one at a time on a thread.
pub(crate) struct Turn<'a> {
    device: &'a Device,
    stream: CUstream,
    recording: bool,
}

impl Deref for Turn<'_> {
    type Target = CUstream;

    fn deref(&self) -> &CUstream {
        &self.stream
    }
}

impl Turn<'_> {
    /// The turn for memory that is made: it is not recorded.
    pub(crate) fn allocating(self) -> Result<Self> {
        if self.recording { Err(Error::MemoryRecorded) } else { Ok(self) }
    }

    /// The turn for what waits for the device: it is not recorded.
    pub(crate) fn waiting(self) -> Result<Self> {
        if self.recording { Err(Error::WaitRecorded) } else { Ok(self) }
    }

    /// Waits for everything that was asked of the device.
    pub(crate) fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is the device's, which lives.
        check("cuStreamSynchronize", unsafe { result::stream::synchronize(self.stream) })
    }

    /// Keeps kernels as long as the recording that they are launched in, if there is one.
    pub(crate) fn keep<'k>(&self, kernels: impl IntoIterator<Item = &'k Arc<Loaded>>) {
        if self.recording {
            self.device.0.turns.keep(kernels.into_iter().map(Arc::clone), Arc::ptr_eq);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.recording {
            self.device.0.turns.leave();
        }
    }
}

/// What is released on a device.
pub(crate) enum Released {
    Memory(CUdeviceptr),
    Replay(CUgraphExec),
    Module(CUmodule),
    Blas(cublasHandle_t),
}

// SAFETY: these are the driver's names for things of a context; every thread may release them.
unsafe impl Send for Released {}

/// While it is there, the device releases nothing: what is dropped goes when the last of these does.
pub(crate) struct Hold<'a>(&'a Device);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        for what in self.0.0.turns.let_go() {
            self.0.release(what);
        }
    }
}

impl Device {
    /// Makes the context current on this thread. cudarc's own way reports errors that were met, and stored,
    /// by whatever was dropped before; those are not this call's.
    pub(crate) fn make_current(&self) -> Result<()> {
        // SAFETY: the context lives as long as the device.
        check("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.0.context.cu_ctx()) })
    }

    /// The stream that everything goes to, with the context made current on this thread. Waits while another
    /// thread records.
    pub(crate) fn stream(&self) -> Result<Turn<'_>> {
        self.make_current()?;
        let recording = self.0.turns.enter();
        Ok(Turn { device: self, stream: self.0.stream.cu_stream(), recording })
    }

    /// Begins to record on this thread: its turns are the recording's from here on.
    pub(crate) fn begin_turns(&self) -> Result<()> {
        self.0.turns.begin()
    }

    /// Ends it, and gives the kernels that were launched.
    pub(crate) fn end_turns(&self) -> Vec<Arc<Loaded>> {
        self.0.turns.end()
    }

    /// Puts off all releases.
    pub(crate) fn hold(&self) -> Hold<'_> {
        self.0.turns.hold();
        Hold(self)
    }

    /// Releases something that was made on this device and is used by nothing that is asked of it later; or
    /// puts it off.
    pub(crate) fn release(&self, what: Released) {
        let Some(what) = self.0.turns.release(what) else { return };
        let turn = Turn { device: self, stream: self.0.stream.cu_stream(), recording: false };
        // A device that is lost has lost its memory and its code too, so what it says no longer matters.
        let _ = self.make_current().and_then(|()| match what {
            Released::Memory(pointer) => {
                // SAFETY: the caller made it on this stream, and releases it here only.
                let outcome = unsafe { result::free_async(pointer, *turn) };
                check("cuMemFreeAsync", outcome)
            }
            Released::Replay(replay) => turn.synchronize().and_then(|()| {
                // SAFETY: the caller made it, and releases it here only; nothing of it runs any more.
                let outcome = unsafe { result::graph::exec_destroy(replay) };
                check("cuGraphExecDestroy", outcome)
            }),
            Released::Blas(handle) => turn.synchronize().map(|()| {
                // SAFETY: the same. What it says no longer matters.
                let _ = unsafe { cublas::result::destroy_handle(handle) };
            }),
            Released::Module(module) => turn.synchronize().and_then(|()| {
                // SAFETY: the same.
                let outcome = unsafe { result::module::unload(module) };
                check("cuModuleUnload", outcome)
            }),
        });
    }
}
