//! `cuda-fused`: the forward rule as one kernel.

mod backend;
mod choice;
mod instance;

pub use backend::CudaFused;
pub use choice::{Load, all, choose, shipped};
pub use instance::{FusedForward, Masking, Products, Tiling};
