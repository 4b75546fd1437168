//! `cuda-fused`: every rule on tensor cores, nothing of size T×M.

mod backend;
mod choice;
mod instance;
mod occasion;
mod staged;
mod tune;

pub use backend::CudaFused;
pub(crate) use choice::all;
pub(crate) use instance::{FusedSweep, Makes};
pub use occasion::SweepOccasion;
pub use staged::Staged;
