//! Copies between the host and a device, by way of page-locked memory.
//!
//! A device reaches only memory that the system does not move. The driver takes other memory through a buffer of
//! its own, and one thread fills it. Here several threads do, each with a block that belongs to it: while the
//! device copies one block, others are filled or emptied.

use std::sync::Arc;
use std::thread;

use cudarc::driver::sys::{CUdeviceptr, CUevent, CUevent_flags, CUstream};
use cudarc::driver::{CudaContext, result};

use super::{Device, check};
use crate::Result;

/// Threads of a large copy.
const LANES: usize = 4;
/// Bytes that a thread copies at a time.
const BLOCK: usize = 4 << 20;
/// Copies up to this size are left to the driver, which takes the bytes along with the command.
const SMALL: usize = 64 << 10;

/// The blocks of a device.
pub(super) struct Staging {
    lanes: Vec<Lane>,
    context: Arc<CudaContext>,
}

struct Lane {
    block: *mut u8,
    /// Passed when the device is done with the block.
    done: CUevent,
}

// SAFETY: the block belongs to the lane alone, and an event is the driver's name for something of a context, which
// every thread may use.
unsafe impl Send for Lane {}

/// A stream that is handed to other threads.
#[derive(Clone, Copy)]
struct Shared(CUstream);

impl Shared {
    fn get(self) -> CUstream {
        self.0
    }
}

// SAFETY: a stream is the driver's name for something of a context, which every thread may use.
unsafe impl Send for Shared {}
// SAFETY: the same.
unsafe impl Sync for Shared {}

impl Staging {
    fn new(context: Arc<CudaContext>) -> Result<Self> {
        let mut staging = Self { lanes: Vec::with_capacity(LANES), context };
        for _ in 0..LANES {
            let done = check("cuEventCreate", result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
            // SAFETY: no flags are needed; the memory is the lane's, which releases it.
            let block = check("cuMemHostAlloc", unsafe { result::malloc_host(BLOCK, 0) });
            match block {
                Ok(block) => staging.lanes.push(Lane { block: block.cast(), done }),
                Err(error) => {
                    // SAFETY: the event was made above, and nobody has seen it.
                    let _ = unsafe { result::event::destroy(done) };
                    return Err(error);
                }
            }
        }
        Ok(staging)
    }

    /// Gives every lane its part of the chunks, on a thread of its own if there is more than one.
    fn share<C: Send>(
        &mut self,
        device: &Device,
        chunks: impl Iterator<Item = C>,
        copy: impl Fn(&mut Lane, usize, C) -> Result<()> + Sync,
    ) -> Result<()> {
        let mut parts: Vec<Vec<(usize, C)>> = self.lanes.iter().map(|_| Vec::new()).collect();
        for (n, chunk) in chunks.enumerate() {
            parts[n % LANES].push((n * BLOCK, chunk));
        }
        parts.retain(|part| !part.is_empty());
        let work = |lane: &mut Lane, part: Vec<(usize, C)>| {
            device.make_current()?;
            part.into_iter().try_for_each(|(offset, chunk)| copy(lane, offset, chunk))
        };
        thread::scope(|scope| {
            let mut lanes = self.lanes.iter_mut().zip(parts);
            let Some((own, first)) = lanes.next() else { return Ok(()) };
            let others: Vec<_> = lanes.map(|(lane, part)| scope.spawn(|| work(lane, part))).collect();
            let mut outcome = work(own, first);
            for other in others {
                let theirs = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                outcome = outcome.and(theirs);
            }
            outcome
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: the context is held.
        let _ = unsafe { result::ctx::set_current(self.context.cu_ctx()) };
        for lane in &self.lanes {
            // SAFETY: block and event are the lane's own, and waiting first means that no copy needs them.
            unsafe {
                let _ = result::event::synchronize(lane.done);
                let _ = result::event::destroy(lane.done);
                let _ = result::free_host(lane.block.cast());
            }
        }
    }
}

impl Lane {
    /// Waits until the device is done with the block.
    fn wait(&self) -> Result<()> {
        // SAFETY: the event lives as long as the lane.
        check("cuEventSynchronize", unsafe { result::event::synchronize(self.done) })
    }

    /// The first bytes of the block, once the device is done with it.
    fn bytes(&mut self, count: usize) -> Result<&mut [u8]> {
        self.wait()?;
        assert!(count <= BLOCK, "a chunk is no larger than a block");
        // SAFETY: the block has this many bytes, which have values as all memory from outside of Rust has; it is
        // this lane's alone, and no copy is under way.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.block, count) })
    }

    fn mark(&self, stream: CUstream) -> Result<()> {
        // SAFETY: both live.
        check("cuEventRecord", unsafe { result::event::record(self.done, stream) })
    }
}

impl Device {
    /// Copies bytes to an address of this device; they may be dropped when this returns.
    ///
    /// # Safety
    /// The address is that of as many bytes of live memory of this device, which nobody else uses meanwhile.
    pub(crate) unsafe fn copy_in(&self, to: CUdeviceptr, bytes: &[u8]) -> Result<()> {
        let turn = self.stream()?.waiting()?;
        let stream = Shared(*turn);
        let copied = self.with_staging(bytes.len(), |staging| {
            staging.share(self, bytes.chunks(BLOCK), |lane, offset, chunk| {
                let block = lane.bytes(chunk.len())?;
                block.copy_from_slice(chunk);
                // SAFETY: the caller vouches for the device's side; the block is not touched before the mark that
                // follows was passed.
                check("cuMemcpyHtoDAsync", unsafe {
                    result::memcpy_htod_async(to + offset as CUdeviceptr, block, stream.get())
                })?;
                lane.mark(stream.get())
            })
        });
        if let Some(outcome) = copied {
            return outcome;
        }
        // SAFETY: the caller vouches for the device's side, and the host's lives until the stream is done with it.
        check("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(to, bytes, *turn) })?;
        turn.synchronize()
    }

    /// Copies bytes from an address of this device.
    ///
    /// # Safety
    /// The address is that of as many bytes of live memory of this device, which nobody else writes meanwhile.
    pub(crate) unsafe fn copy_out(&self, from: CUdeviceptr, bytes: &mut [u8]) -> Result<()> {
        let turn = self.stream()?.waiting()?;
        let stream = Shared(*turn);
        let copied = self.with_staging(bytes.len(), |staging| {
            staging.share(self, bytes.chunks_mut(BLOCK), |lane, offset, chunk| {
                let block = lane.bytes(chunk.len())?;
                // SAFETY: as in `copy_in`.
                check("cuMemcpyDtoHAsync", unsafe {
                    result::memcpy_dtoh_async(block, from + offset as CUdeviceptr, stream.get())
                })?;
                lane.mark(stream.get())?;
                chunk.copy_from_slice(lane.bytes(chunk.len())?);
                Ok(())
            })
        });
        if let Some(outcome) = copied {
            return outcome;
        }
        // SAFETY: as in `copy_in`.
        check("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(bytes, from, *turn) })?;
        turn.synchronize()
    }

    /// Copies with the blocks of this device, which are made when they are first needed. `None` if the copy is
    /// better left to the driver.
    fn with_staging<T>(&self, bytes: usize, copy: impl FnOnce(&mut Staging) -> T) -> Option<T> {
        if bytes <= SMALL {
            return None;
        }
        let mut staging = self.0.staging.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if staging.is_none() {
            match Staging::new(Arc::clone(&self.0.context)) {
                Ok(new) => *staging = Some(new),
                Err(error) => tracing::warn!(%error, "no page-locked memory: the driver copies with its own"),
            }
        }
        staging.as_mut().map(copy)
    }
}
