//! Kernels that are loaded, and the one door through which they are launched.
//!
//! A [`Spec`] is a choice of instance together with the type of its parameters, so that a kernel cannot
//! be launched with those of another. A [`Library`] compiles an instance when it is first asked for (or
//! takes it from the cache on disk), loads it, and keeps it: from then on a launch looks it up and
//! allocates nothing.
#![allow(unsafe_code)] // launches go to the driver; each block says why it is sound

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use cudarc::driver::sys;

use crate::device::{Code, check};
use crate::{Device, Edit, Error, KernelSpec, Result};

/// A choice among the instances of a source.
///
/// # Safety
/// `Parameters` has the layout of the one argument that the source's kernel takes, and a kernel that is
/// launched with valid parameters reads and writes only the memory that they name. It touches that memory only
/// after `await_launches_ahead` (base.cuh): it may be started before the launch ahead of it has ended.
pub unsafe trait Spec: Copy + Eq + Hash + Debug + Send + Sync {
    /// What a launch is given.
    type Parameters: Copy;

    /// The kernel.
    fn kernel(&self) -> KernelSpec;
}

/// A kernel in the memory of a device.
#[derive(Debug)]
pub(crate) struct Loaded {
    name: String,
    code: Code,
    threads: u32,
    shared: u32,
}

/// The loaded kernels of one kind on one device.
#[derive(Debug)]
pub struct Library<S> {
    device: Device,
    edit: Option<Edit>,
    loaded: RwLock<HashMap<S, Arc<Loaded>>>,
}

impl<S: Spec> Library<S> {
    /// An empty one.
    pub fn new(device: Device) -> Self {
        Self { device, edit: None, loaded: RwLock::default() }
    }

    /// One of kernels with a change in their sources, where there is what is changed. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn edited(device: Device, edit: Edit) -> Self {
        Self { edit: Some(edit), ..Self::new(device) }
    }

    /// Compiles and loads a kernel, so that its first launch does not.
    pub fn prepare(&self, spec: S) -> Result<()> {
        self.get(spec).map(drop)
    }

    /// Whether a kernel keeps what its registers do not hold in memory, which is slow.
    pub fn spills(&self, spec: S) -> Result<bool> {
        Ok(self.get(spec)?.code.local_bytes()? > 0)
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// The parameters name memory that is alive until the device has done what it was asked for up to
    /// here, as large as they say, and nobody else writes it or reads what is written meanwhile.
    pub unsafe fn launch(&self, spec: S, blocks: usize, parameters: &S::Parameters) -> Result<()> {
        let kernel = self.get(spec)?;
        // The driver's limit. Nothing that fits in memory comes near it.
        let count = u32::try_from(blocks).ok().filter(|count| i32::try_from(*count).is_ok());
        let Some(blocks) = count else { return Err(Error::TooManyBlocks { blocks }) };
        if blocks == 0 {
            return Ok(());
        }
        let _span = tracing::trace_span!("launch", kernel = %kernel.name, blocks).entered();
        let stream = self.device.stream()?;
        stream.keep([&kernel]);
        let (threads, shared) = (kernel.threads, kernel.shared);
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared,
            hStream: *stream,
            attrs: &raw mut overlap,
            numAttrs: u32::from(self.device.architecture().overlaps_launches()),
        };
        let mut arguments = [std::ptr::from_ref(parameters).cast_mut().cast::<c_void>()];
        // SAFETY: the function is loaded on the device of the stream, and its code is unloaded when nothing of
        // it runs and no recording keeps it; it takes one argument, which has the layout that it expects
        // (`Spec`) and is copied by this call, as the configuration is; it waits for the launches ahead of it
        // itself (`Spec`) where they overlap; the caller vouches for memory.
        let outcome = unsafe {
            let (function, none) = (kernel.code.function(), std::ptr::null_mut());
            sys::cuLaunchKernelEx(&raw const config, function, arguments.as_mut_ptr(), none)
        };
        check("cuLaunchKernelEx", outcome.result())
    }

    fn get(&self, spec: S) -> Result<Arc<Loaded>> {
        if let Some(kernel) = self.loaded.read().unwrap_or_else(PoisonError::into_inner).get(&spec) {
            return Ok(Arc::clone(kernel));
        }
        let mut kernel = spec.kernel();
        if let Some(source) = self.edit.and_then(|edit| kernel.source.edited(edit)) {
            kernel.source = source;
        }
        let kernel = Arc::new(load(&self.device, kernel)?);
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(loaded.entry(spec).or_insert(kernel)))
    }
}

fn load(device: &Device, spec: KernelSpec) -> Result<Loaded> {
    let code = Code::load(device, &device.cubin(&spec)?, spec.shared)?;
    Ok(Loaded { name: spec.name, code, threads: spec.threads, shared: spec.shared })
}
