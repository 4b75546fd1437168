//! What can go wrong, and what to do about it.

use std::path::PathBuf;

use theria_contract::DType;

use crate::{Architecture, Multiplied};

/// A result whose error is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the runtime layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// NVRTC is not on this machine.
    #[error(
        "no run-time compiler: libnvrtc was not found; install the CUDA toolkit 13 (or the package nvidia-cuda-nvrtc 13 of PyPI) and put the folder of libnvrtc.so on the loader's path (LD_LIBRARY_PATH)"
    )]
    NoCompiler,
    /// cuBLAS is not on this machine.
    #[error(
        "no cuBLAS: libcublas was not found; install the CUDA toolkit 13 (or the package nvidia-cublas 13 of PyPI) and put the folder of libcublas.so on the loader's path (LD_LIBRARY_PATH)"
    )]
    NoBlas,
    /// A call of cuBLAS failed that has no reason to.
    #[error("{call} failed: {code}")]
    Blas {
        /// The call.
        call: &'static str,
        /// The library's error code.
        code: String,
    },
    /// A matrix of a product is not packed, or has another number of elements.
    #[error("{what} has {given} elements over {span} places, but a product needs {needed} that are packed")]
    NotPacked {
        /// The matrix.
        what: &'static str,
        /// Its elements.
        given: usize,
        /// Places from its first element to its last.
        span: usize,
        /// Those needed.
        needed: usize,
    },
    /// Factors and a product whose types do not go together.
    #[error(
        "a product in {made} of factors in {factor}: it is in their type, or in f32 where they have 16 bits"
    )]
    ProductTypes {
        /// The type of the factors.
        factor: DType,
        /// The type of the product.
        made: DType,
    },
    /// A product with more rows or columns than cuBLAS counts.
    #[error("{product:?} is larger than a product can be: rows and columns are below 2³¹; split it")]
    LargeProduct {
        /// The product.
        product: Multiplied,
    },
    /// The driver is not on this machine.
    #[error(
        "no NVIDIA driver: libcuda was not found; on a machine with an NVIDIA GPU install driver 580 or later, elsewhere use the CPU backends"
    )]
    NoDriver,
    /// The driver is too old for the kernels' machine code.
    #[error("the driver serves CUDA {}.{}, but the kernels need {}.{}; install driver 580 or later", found / 1000, found % 1000 / 10, needed / 1000, needed % 1000 / 10)]
    OldDriver {
        /// Its version: 1000 times the major number plus 10 times the minor one.
        found: u32,
        /// The oldest that will do.
        needed: u32,
    },
    /// There is no such device.
    #[error("there is no device {ordinal}: the driver sees {count}; CUDA_VISIBLE_DEVICES may hide some")]
    NoSuchDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The device is too old for the kernels.
    #[error("{name} is {found}, but the kernels are written for {needed} and later; use the CPU backends")]
    OldDevice {
        /// The device.
        name: String,
        /// What it is.
        found: Architecture,
        /// The oldest that will do.
        needed: Architecture,
    },
    /// The device has not that much memory left.
    #[error("{bytes} bytes do not fit on the device: {free} of {total} are free")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes free.
        free: usize,
        /// All bytes of the device.
        total: usize,
    },
    /// A call of the driver failed that has no reason to.
    #[error("{call} failed: {code}")]
    Driver {
        /// The call.
        call: &'static str,
        /// The driver's error code.
        code: String,
    },
    /// A launch with more blocks than a grid can have.
    #[error("a launch of {blocks} blocks is larger than a grid can be; split the batch")]
    TooManyBlocks {
        /// Blocks of the launch.
        blocks: usize,
    },
    /// Work that was to be recorded asked nothing of the device.
    #[error("there is nothing to replay: the recorded work asked nothing of the device")]
    NothingRecorded,
    /// Work that was to be recorded makes memory, so a replay would not find it.
    #[error("the recorded work makes memory of the device; make its outputs and workspace before")]
    MemoryRecorded,
    /// Work that was to be recorded waits for the device, which does nothing meanwhile.
    #[error(
        "the recorded work waits for the device; copy to and from the host, check values and take times outside of it"
    )]
    WaitRecorded,
    /// A recording in a recording.
    #[error("this thread records already; end a recording of a device before the next")]
    AlreadyRecording,
    /// Memory of another device, or of the same one that was opened again.
    #[error("{what} is memory of another open device than the one asked; open the device once and clone it")]
    OtherDevice {
        /// What lies elsewhere.
        what: &'static str,
    },
    /// The compiler does not know the architecture.
    #[error("NVRTC {}.{} does not compile for {architecture}; it knows {}", version.0, version.1, known.iter().map(|n| format!("sm_{n}")).collect::<Vec<_>>().join(", "))]
    UnknownArchitecture {
        /// The architecture asked for.
        architecture: Architecture,
        /// Those that the compiler lists.
        known: Vec<u32>,
        /// The compiler's version.
        version: (u32, u32),
    },
    /// A source that is no program, or options that the compiler refuses.
    #[error("NVRTC refuses a kernel for {architecture} ({code}):\n{log}")]
    Compilation {
        /// The architecture asked for.
        architecture: Architecture,
        /// The compiler's error code.
        code: String,
        /// What it said.
        log: String,
    },
    /// A source or an option with a zero byte in it.
    #[error("{what} has a zero byte in it, which the compiler would take for its end")]
    ZeroByte {
        /// `the source` or the option.
        what: String,
    },
    /// A call of NVRTC failed that has no reason to.
    #[error("{call} failed: {code}")]
    Nvrtc {
        /// The call.
        call: &'static str,
        /// The compiler's error code.
        code: String,
    },
    /// The folder of the cache cannot be named: no variable says where it is.
    #[error("no folder for compiled kernels: set THERIA_CACHE_DIR, or HOME")]
    NoCacheFolder,
    /// A compiled kernel cannot be written.
    #[error("cannot keep a compiled kernel in {}: {source}; set THERIA_CACHE_DIR to a folder that can be written", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<Error> for theria_contract::Error {
    fn from(error: Error) -> Self {
        Self::Backend { backend: "cuda", source: Box::new(error) }
    }
}
