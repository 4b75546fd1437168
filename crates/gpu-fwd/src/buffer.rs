//! Memory of a device, and copies between it and the host.
//!
//! Allocation, copies and release go to the device's stream, in order: memory that is released while a
//! kernel still reads it is given to nobody before that kernel is done.
#![allow(unsafe_code)] // the driver is a C library; each block says why it is sound

use cudarc::driver::sys::{CUdeviceptr, CUresult};
use cudarc::driver::{DriverError, result};

use crate::device::{Released, check};
use crate::{Device, Error, Result};

/// Bytes on a device, released when it goes.
#[derive(Debug)]
pub(crate) struct Buffer {
    device: Device,
    pointer: CUdeviceptr,
    bytes: usize,
}

impl Buffer {
    /// Memory with whatever is in it.
    pub(crate) fn new(device: &Device, bytes: usize) -> Result<Self> {
        if bytes == 0 {
            return Ok(Self { device: device.clone(), pointer: 0, bytes });
        }
        let stream = device.stream()?.allocating()?;
        // SAFETY: the stream belongs to the context that `stream` made current.
        let pointer = match unsafe { result::malloc_async(*stream, bytes) } {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = device.memory()?;
                return Err(Error::OutOfMemory { bytes, free, total });
            }
            outcome => check("cuMemAllocAsync", outcome)?,
        };
        Ok(Self { device: device.clone(), pointer, bytes })
    }

    /// Its address; 0 when it is empty.
    pub(crate) fn pointer(&self) -> CUdeviceptr {
        self.pointer
    }

    /// Whose memory it is.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets every byte.
    pub(crate) fn fill(&mut self, byte: u8) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        let stream = self.device.stream()?;
        // SAFETY: the memory is this buffer's own, and nobody else may hold it while it is borrowed.
        check("cuMemsetD8Async", unsafe { result::memset_d8_async(self.pointer, byte, self.bytes, *stream) })
    }

    /// Copies from the host; the bytes may be dropped when this returns.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        assert_eq!(bytes.len(), self.bytes, "as many bytes as the buffer has");
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the memory is this buffer's own, and nobody else may hold it while it is borrowed.
        unsafe { self.device.copy_in(self.pointer, bytes) }
    }
}

/// Copies to the host from an address of a device.
///
/// # Safety
/// The address must be that of as many bytes of live memory on the device as are asked for.
pub(crate) unsafe fn read(device: &Device, pointer: CUdeviceptr, bytes: &mut [u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: the caller vouches for it.
    unsafe { device.copy_out(pointer, bytes) }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.pointer != 0 {
            self.device.release(Released::Memory(self.pointer));
        }
    }
}
