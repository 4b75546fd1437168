//! Machine code in the memory of a device.

use std::ffi::CString;

use cudarc::driver::result;
use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUmodule};

use super::turn::Released;
use super::{Device, check};
use crate::{KernelSpec, Result};

/// A kernel's code, unloaded when it goes. (cudarc's modules store the errors of their end, for an
/// unrelated call to find.)
#[derive(Debug)]
pub(crate) struct Code {
    device: Device,
    module: CUmodule,
    function: CUfunction,
}

// SAFETY: both are the driver's names for things of a context, which every thread may use.
unsafe impl Send for Code {}
// SAFETY: the same.
unsafe impl Sync for Code {}

impl Code {
    /// Loads a cubin whose kernel is given so many bytes of shared memory.
    pub(crate) fn load(device: &Device, cubin: &[u8], shared: u32) -> Result<Self> {
        let turn = device.stream()?;
        // SAFETY: a cubin says itself how long it is, and is copied by this call.
        let module = check("cuModuleLoadData", unsafe { result::module::load_data(cubin.as_ptr().cast()) })?;
        // Unloads the module if what follows fails, after the turn is given back.
        let mut code = Self { device: device.clone(), module, function: std::ptr::null_mut() };
        let prepared = code.prepare(shared);
        drop(turn);
        prepared.map(|()| code)
    }

    fn prepare(&mut self, shared: u32) -> Result<()> {
        let entry = CString::new(KernelSpec::ENTRY).unwrap_or_else(|_| unreachable!("a name without zeros"));
        // SAFETY: the module was just loaded.
        let function = unsafe { result::module::get_function(self.module, entry) };
        self.function = check("cuModuleGetFunction", function)?;
        let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(shared).unwrap_or(i32::MAX);
        // SAFETY: the function is the module's, which lives.
        let outcome = unsafe { result::function::set_function_attribute(self.function, limit, bytes) };
        check("cuFuncSetAttribute", outcome)
    }

    /// The kernel, for as long as this lives.
    pub(crate) fn function(&self) -> CUfunction {
        self.function
    }

    /// Bytes of memory that each thread has in place of registers.
    pub(crate) fn local_bytes(&self) -> Result<i32> {
        self.device.make_current()?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES;
        // SAFETY: the function is the module's, which lives.
        let bytes = unsafe { result::function::get_function_attribute(self.function, attribute) };
        check("cuFuncGetAttribute", bytes)
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        self.device.release(Released::Module(self.module));
    }
}
