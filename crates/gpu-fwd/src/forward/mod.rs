//! The forward rule in three modes.
//!
//! | mode | what it is |
//! |---|---|
//! | [`CudaRef`] | plain arithmetic units, any element type, every feature: the oracle on the device |
//! | [`CudaFast`] | scores and softmax in one kernel, the product with the values in another, the weights stored between them: the classical half-way house |
//! | [`CudaFused`] | one kernel, one sweep, nothing of size T×M: what one uses |
//!
//! Each takes its parameters from [`parameters`] and its kernel from a [`Spec`]. [`CudaFused`] has two families of
//! kernels: portable ones, which serve every problem and device, and those of [`hopper`].

mod fast;
mod fused;
pub mod hopper;
pub mod parameters;
mod reference;
pub mod tuning;
pub mod verify;
mod wrong;

pub use fast::{CudaFast, FastForward, Part};
pub use fused::{Choice, CudaFused, FusedForward, Load, Masking, Occasion, Products, ROOMS, Tiling, room};
pub use reference::{CudaRef, ReferenceForward, element_name};
pub use tuning::{Situation, Table, Tuned};
#[doc(hidden)]
pub use wrong::{WRONG, WRONG_ON_HOPPER};

use theria_contract::{DType, Problem, Refusal};

use crate::{Architecture, KernelSpec, Spec};

/// The largest head dimension that the kernels serve.
const WIDEST: usize = 256;

/// What no mode serves.
pub fn refused_by_all(problem: &Problem) -> Option<Refusal> {
    let shape = problem.shape();
    let widest = shape.d.max(shape.dv);
    if widest > WIDEST {
        return Some(Refusal::HeadDim { given: widest, largest: WIDEST });
    }
    if problem.dtype() != DType::F64 && !(problem.scale() as f32).is_finite() {
        return Some(Refusal::Feature("a scale that is infinite in f32"));
    }
    let counts = [shape.t, shape.m, shape.batch.saturating_mul(shape.heads_q)];
    let blocks = counts[2].saturating_mul(shape.t);
    (counts.iter().any(|n| *n > parameters::LONGEST) || blocks > i32::MAX as usize).then_some(
        Refusal::Feature(
            "more than 2^30 - 1 queries, keys or heads of all batch entries, or 2^31 - 1 rows of all heads,",
        ),
    )
}

/// What no mode on tensor cores serves.
pub fn refused_on_tensor_cores(problem: &Problem) -> Option<Refusal> {
    let double = problem.dtype() == DType::F64;
    if double { Some(Refusal::ElementType(DType::F64)) } else { refused_by_all(problem) }
}

/// Every instance that a call of the forward rule can come to on an architecture.
pub fn kernels(architecture: Architecture) -> Vec<KernelSpec> {
    let reference = ReferenceForward::all().map(|instance| instance.kernel());
    let fused = fused::all(architecture).into_iter().map(|instance| instance.kernel());
    let fast = fast::all().map(|instance| instance.kernel());
    reference.chain(fast).chain(fused).chain(hopper::kernels(architecture)).collect()
}
