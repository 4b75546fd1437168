//! The CUDA runtime layer of theria.
//!
//! Nothing of CUDA is needed to build this crate, and nothing panics where it is missing: the driver and
//! the run-time compiler are looked for when they are first asked for, and their absence is an [`Error`]
//! that says what to do.
//!
//! What is here so far turns CUDA C++ into machine code for one architecture and keeps it:
//!
//! - [`Compiler`] is NVRTC: source and options in, a cubin and what the assembler said of it out. It needs
//!   no GPU.
//! - [`CubinCache`] keeps cubins on disk, under a hash of everything that decided them.
//! - [`Report`] reads registers, spills and shared memory from what the assembler said.
//!
//! ```
//! use theria_gpu_fwd::{Architecture, Compiler, Error};
//!
//! match Compiler::open() {
//!     Ok(compiler) => {
//!         let made = compiler.compile("extern \"C\" __global__ void nothing() {}", Architecture::SM_90A, &[])?;
//!         assert_eq!(made.report()[0].kernel, "nothing");
//!     }
//!     Err(error) => assert!(matches!(error, Error::NoCompiler)),
//! }
//! # Ok::<(), Error>(())
//! ```

mod architecture;
mod cache;
mod compiler;
mod error;
mod report;

pub use architecture::Architecture;
pub use cache::{CubinCache, Key, Origin};
pub use compiler::{Compiled, Compiler};
pub use error::{Error, Result};
pub use report::Report;
