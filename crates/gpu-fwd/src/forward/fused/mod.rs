//! `cuda-fused`: the forward rule as one kernel.

mod backend;
mod choice;
mod instance;

pub use backend::CudaFused;
pub use choice::Load;
pub(super) use choice::all;
pub(super) use choice::{ROOMS, room};
pub use instance::{FusedForward, Masking, Products, Tiling};
