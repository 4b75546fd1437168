//! The CUDA runtime layer of theria, and the forward rule on a device.
//!
//! Nothing of CUDA is needed to build this crate, and nothing panics where it is missing: the driver and
//! the run-time compiler are looked for when they are first asked for, and their absence is an [`Error`]
//! that says what to do.
//!
//! - [`Device`] is an open device: its context, one stream, its memory pool.
//! - [`Cuda`] is its memory: tensors, views and scratch, as every backend's [`Storage`] has them.
//! - [`Compiler`] is NVRTC: source and options in, a cubin and what the assembler said of it out. It needs
//!   no GPU.
//! - [`CubinCache`] keeps cubins on disk, under a hash of everything that decided them.
//! - [`Report`] reads registers, spills and shared memory from what the assembler said.
//! - [`KernelSpec`] is a kernel as data, [`Library`] compiles, loads and launches those of one kind.
//! - [`Graph`] is work that was recorded once, to be replayed.
//! - [`Blas`] has products of matrices, by cuBLAS.
//! - [`forward`] has the three modes of the forward rule, which are [`Attention`] backends.
//!
//! [`Attention`]: theria_contract::Attention
//! [`Storage`]: theria_contract::Storage
//!
//! ```
//! use theria_gpu_fwd::{Architecture, Compiler, Error, Source};
//!
//! match Compiler::open() {
//!     Ok(compiler) => {
//!         let text = "extern \"C\" __global__ void nothing() {}";
//!         let source = Source { name: "nothing.cu", text, headers: &[] };
//!         let made = compiler.compile(source, Architecture::SM_90A, &[])?;
//!         assert_eq!(made.report()[0].kernel, "nothing");
//!     }
//!     Err(error) => assert!(matches!(error, Error::NoCompiler)),
//! }
//! # Ok::<(), Error>(())
//! ```

mod architecture;
mod blas;
mod buffer;
mod cache;
mod compiler;
mod device;
mod error;
pub mod forward;
mod graph;
mod kernel;
mod library;
mod report;
mod sources;
mod storage;
mod tensor_map;
mod timing;

pub use architecture::Architecture;
pub use blas::{Blas, Multiplied, Onto};
pub use cache::{CubinCache, Key, Origin};
pub use compiler::{Compiled, Compiler};
pub use device::Device;
pub use error::{Error, Result};
pub use graph::{Graph, Mark};
pub use kernel::{Edit, KernelSpec, Source};
pub use library::{Library, Spec};
pub use report::Report;
pub use sources::{HEADERS, HOPPER_HEADERS, Header, joined};
pub use storage::{Address, Cuda, CudaTensor, CudaView, CudaViewMut, CudaWorkspace};
pub use tensor_map::{Located, Mapped, TensorMap};
