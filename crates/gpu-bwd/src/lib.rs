//! Backward, JVP and second order on a CUDA device.
//!
//! Two backends have every rule: [`CudaRef`], on plain arithmetic units, which is what others are held against, and
//! [`CudaFused`], on tensor cores, with nothing of size T×M anywhere. Their forward is that of `theria-gpu-fwd`.

mod call;
mod fused;
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
pub use wrong::{ONCE, WITHOUT_RESTS, WRONG};

use theria_gpu_fwd::{Architecture, KernelSpec, Spec};

/// Every instance that a call of the higher rules can come to on an architecture.
pub fn kernels(architecture: Architecture) -> Vec<KernelSpec> {
    let pairs = pairs::PairKernel::all().map(|instance| instance.kernel());
    let mut all: Vec<KernelSpec> = pairs.chain(fused::all(architecture).iter().map(Spec::kernel)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.dedup_by(|a, b| a.name == b.name);
    all
}
