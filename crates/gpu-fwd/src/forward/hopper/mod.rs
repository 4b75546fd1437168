//! `cuda-fused` on Hopper: kernels of the instructions that `sm_90a` alone has (hopper.cuh).
//!
//! They serve what most calls are: 16-bit elements, common head dimensions, no score that is looked at for itself. All
//! else is served by the portable kernels, as is a tensor that the copy engine does not know.

mod cut;
mod family;
mod few;

pub use cut::HopperForward;
pub(super) use family::Family;
pub use few::HopperFew;

use theria_contract::Problem;

use super::Masking;
use crate::{Architecture, KernelSpec, Spec};

/// Every instance that a call can come to.
pub(super) fn kernels(architecture: Architecture) -> impl Iterator<Item = KernelSpec> {
    let few = few::all(architecture).into_iter().map(|instance| instance.kernel());
    cut::all(architecture).into_iter().map(|instance| instance.kernel()).chain(few)
}

/// Whether there can be a kernel of this family for a problem with one of these head dimensions, wherever its tensors
/// lie.
pub fn suits(problem: &Problem, architecture: Architecture, widths: &[u32]) -> bool {
    let shape = problem.shape();
    architecture == Architecture::SM_90A
        && problem.dtype().size() == 2
        && shape.d == shape.dv
        && widths.contains(&(shape.d as u32))
        && Masking::of(problem, true) != Masking::Everything
        && [shape.batch, shape.heads_q, shape.t, shape.m].into_iter().all(|extent| extent > 0)
}

#[cfg(test)]
mod tests {
    use theria_contract::{Causal, DType, ProblemBuilder, Window};

    use super::*;

    fn problem() -> ProblemBuilder {
        Problem::builder(DType::Bf16).batch(2).heads(4, 2).lengths(100, 90).head_dims(64, 64)
    }

    fn suited(builder: ProblemBuilder) -> bool {
        suits(&builder.build().unwrap(), Architecture::SM_90A, &[64, 128])
    }

    #[test]
    fn intervals_lengths_and_groups_are_served() {
        let window = Window { left: Some(7), right: None };
        for builder in [
            problem(),
            problem().causal(Causal::BottomRight),
            problem().window(window),
            problem().key_lengths(),
            problem().head_dims(128, 128),
        ] {
            assert!(suited(builder));
        }
    }

    #[test]
    fn what_no_kernel_is_written_for_is_left_to_others() {
        for builder in [
            problem().head_dims(64, 128),
            problem().head_dims(96, 96),
            problem().bias([1, 1, 100, 90]),
            problem().mask([2, 1, 1, 90]),
            problem().dropout(0.1, 3),
            problem().scale(0.0),
            problem().scale(-1.0),
            problem().lengths(100, 0),
            problem().lengths(0, 90),
            problem().batch(0),
        ] {
            assert!(!suited(builder));
        }
        let wide = problem().build().unwrap().with_dtype(DType::F32);
        assert!(!suits(&wide, Architecture::SM_90A, &[64]));
        let there = problem().build().unwrap();
        assert!(!suits(&there, Architecture::SM_80, &[64]) && !suits(&there, Architecture::SM_90A, &[128]));
    }
}
