//! A CUDA device: its context, one stream, and its memory pool.
//!
//! Everything that is done on a [`Device`] goes to one stream, in order. So memory needs no events to
//! guard it: what is freed is freed after the last call that reads it. cudarc's event tracking, which
//! would make two events for each allocation and forbid the capture of graphs, is turned off.
//!
//! A [`Turn`](turn::Turn) hands the stream out, and makes other threads wait while one records. Of cudarc's
//! safe objects only the context and the stream are used, which live as long as the device: the others
//! store errors of their end, and an unrelated call would report them.
#![allow(unsafe_code)] // the driver is a C library; each block says why it is sound

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use cudarc::driver::sys::{self, CUdevice_attribute, CUmemPool_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};

use crate::cache::{CubinCache, Key, Origin};
use crate::library::Loaded;
use crate::{Architecture, Compiler, Error, KernelSpec, Result};

mod code;
mod staging;
mod turn;
mod turns;

pub(crate) use code::Code;
use staging::Staging;
pub(crate) use turn::{Hold, Released};
use turns::Turns;

/// The oldest driver that loads what NVRTC 13 makes.
const DRIVER: u32 = 13_000;
/// The oldest architecture that the kernels are written for.
const OLDEST: Architecture = Architecture::SM_80;

/// An open device. Copies of it are the same device.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    id: u64,
    staging: Mutex<Option<Staging>>,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    architecture: Architecture,
    driver: u32,
    multiprocessors: u32,
    shared: u32,
    compiler: OnceLock<Compiler>,
    turns: Turns<Arc<Loaded>, Released>,
}

/// Turns the driver's answer into an error that names the call.
pub(crate) fn check<T>(call: &'static str, outcome: Result<T, DriverError>) -> Result<T> {
    outcome.map_err(|error| Error::Driver { call, code: format!("{:?}", error.0) })
}

impl Device {
    /// Devices of this machine.
    pub fn count() -> Result<usize> {
        start()?;
        let count = check("cuDeviceGetCount", result::device::get_count())?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Opens a device by its number.
    pub fn open(ordinal: usize) -> Result<Self> {
        let count = Self::count()?;
        if ordinal >= count {
            return Err(Error::NoSuchDevice { ordinal, count });
        }
        let driver = driver_version()?;
        if driver < DRIVER {
            return Err(Error::OldDriver { found: driver, needed: DRIVER });
        }
        let context = check("cuDevicePrimaryCtxRetain", CudaContext::new(ordinal))?;
        // SAFETY: all work and all memory of this context go to one stream, in order.
        unsafe { context.disable_event_tracking() };
        let name = check("cuDeviceGetName", context.name())?;
        let (major, minor) = check("cuDeviceGetAttribute", context.compute_capability())?;
        let number = |n: i32| u32::try_from(n).unwrap_or(0);
        let architecture = Architecture::of_capability(number(major), number(minor));
        if architecture.number < OLDEST.number {
            return Err(Error::OldDevice { name, found: architecture, needed: OLDEST });
        }
        keep_freed_memory(ordinal)?;
        let attribute = |attribute| check("cuDeviceGetAttribute", context.attribute(attribute)).map(number);
        let multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let stream = check("cuStreamCreate", context.new_stream())?;
        tracing::debug!(%name, %architecture, driver, "opened a device");
        let (compiler, turns) = (OnceLock::new(), Turns::new());
        let inner = Inner {
            id: next_id(),
            staging: Mutex::new(None),
            context,
            stream,
            name,
            architecture,
            driver,
            multiprocessors,
            shared,
            compiler,
            turns,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// A number that no other open device of this process has; copies have the same.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// The name that the driver gives it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What kernels are compiled for.
    pub fn architecture(&self) -> Architecture {
        self.0.architecture
    }

    /// The driver's version, as 1000 times the major number plus 10 times the minor one.
    pub fn driver(&self) -> u32 {
        self.0.driver
    }

    /// Multiprocessors: how many blocks run at once, times how many fit on one.
    pub fn multiprocessors(&self) -> u32 {
        self.0.multiprocessors
    }

    /// Bytes of shared memory that one block can have.
    pub fn shared_memory(&self) -> u32 {
        self.0.shared
    }

    /// Bytes of memory that are free, and all of them. What the pool keeps counts as used.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.make_current()?;
        check("cuMemGetInfo", result::mem_get_info())
    }

    /// Waits for everything that was asked of this device.
    pub fn synchronize(&self) -> Result<()> {
        self.stream()?.waiting()?.synchronize()
    }

    /// The machine code of a kernel: that of the user's cache, or what NVRTC makes of it now.
    pub fn cubin(&self, kernel: &KernelSpec) -> Result<Vec<u8>> {
        let compiler = self.compiler()?;
        let (architecture, options) = (self.architecture(), kernel.options());
        let key = Key::new(compiler, kernel.source, architecture, &options);
        let compile = || Ok(compiler.compile(kernel.source, architecture, &options)?.cubin);
        let span = tracing::debug_span!("kernel", name = %kernel.name).entered();
        // Without a folder every process compiles for itself.
        let (cubin, origin, lost) = match CubinCache::of_user() {
            Ok(cache) => cache.get(key, compile)?,
            Err(error) => (compile()?, Origin::Compiled, Some(error)),
        };
        if let Some(error) = lost {
            tracing::warn!(%error, "a compiled kernel is not kept");
        }
        tracing::debug!(?origin, bytes = cubin.len());
        drop(span);
        Ok(cubin)
    }

    /// Compiles kernels into the cache on disk, on all processors. What does not compile is found when it is asked for
    /// again.
    pub fn compile_all(&self, kernels: &[KernelSpec]) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.cubin(kernel) {
                            tracing::debug!(%error, kernel = %kernel.name, "a kernel does not compile");
                        }
                    }
                });
            }
        });
    }

    /// NVRTC, found when it is first asked for.
    fn compiler(&self) -> Result<&Compiler> {
        if let Some(compiler) = self.0.compiler.get() {
            return Ok(compiler);
        }
        let found = Compiler::open()?;
        Ok(self.0.compiler.get_or_init(|| found))
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}, {})", self.0.name, self.0.architecture)
    }
}

/// A number that was never given before.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Finds the driver and starts it.
fn start() -> Result<()> {
    // SAFETY: looks for the library and calls nothing in it.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoDriver);
    }
    match result::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Err(Error::NoSuchDevice { ordinal: 0, count: 0 }),
        outcome => check("cuInit", outcome),
    }
}

fn driver_version() -> Result<u32> {
    let mut version = 0;
    // SAFETY: the library is there, and the pointer is to a live integer.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) }.result())?;
    Ok(u32::try_from(version).unwrap_or(0))
}

/// By default the pool gives freed memory back to the system at every synchronisation, and every
/// allocation after it is slow. It keeps all of it from here on.
fn keep_freed_memory(ordinal: usize) -> Result<()> {
    let device = check("cuDeviceGet", result::device::get(i32::try_from(ordinal).unwrap_or(i32::MAX)))?;
    // SAFETY: the device exists.
    let pool = check("cuDeviceGetDefaultMemPool", unsafe { result::device::get_default_mem_pool(device) })?;
    let mut threshold = u64::MAX;
    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: this attribute is 64 bits wide, and the pointer is to 64 live bits.
    let outcome = unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()) };
    check("cuMemPoolSetAttribute", outcome)
}

#[cfg(test)]
mod tests {
    use super::next_id;

    #[test]
    fn no_two_open_devices_have_one_number() {
        let numbers = |_| std::thread::spawn(|| (0..1000).map(|_| next_id()).collect::<Vec<_>>());
        let mut all: Vec<u64> =
            (0..4).map(numbers).collect::<Vec<_>>().into_iter().flat_map(|t| t.join().unwrap()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4000);
    }
}
