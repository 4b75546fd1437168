//! Backward, JVP and second order on a CUDA device.
//!
//! Two backends have every rule: [`CudaRef`], on plain arithmetic units, which is what others are held against, and
//! [`CudaFused`], on tensor cores, with nothing of size T×M anywhere. Their forward is that of `theria-gpu-fwd`. Of
//! [`CudaFused`] there are two families of kernels: portable ones, and those for Hopper.

mod call;
mod fused;
mod hopper;
mod pairs;
mod parameters;
mod part;
mod reference;
mod rules;
mod sources;
mod wrong;

pub use fused::{CudaFused, Staged, SweepOccasion};
pub use part::{Order, Part};
pub use reference::CudaRef;
#[doc(hidden)]
pub use wrong::{ONCE, WITHOUT_RESTS, WRONG, WRONG_ON_HOPPER};

use theria_gpu_fwd::{Architecture, KernelSpec, Spec};

/// Every instance that a call of the higher rules can come to on an architecture.
pub fn kernels(architecture: Architecture) -> Vec<KernelSpec> {
    let pairs = pairs::PairKernel::all().map(|instance| instance.kernel());
    let fused = fused::all(architecture).into_iter().map(|instance| instance.kernel());
    let mut all: Vec<KernelSpec> = pairs.chain(fused).chain(hopper::kernels(architecture)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.dedup_by(|a, b| a.name == b.name);
    all
}
