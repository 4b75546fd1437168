//! `cuda-fused`: the forward rule as one kernel.

mod backend;
mod choice;
mod instance;
mod occasion;
mod tune;

pub use backend::CudaFused;
pub use choice::Choice;
pub(super) use choice::all;
pub use instance::{FusedForward, Masking, Products, Tiling};
pub use occasion::{Load, Occasion, ROOMS, room};
