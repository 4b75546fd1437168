//! `cuda-fused` on Hopper: JVP, backward and second order in one sweep over the scores each, by the instructions that
//! `sm_90a` alone has (hopper.cuh).
//!
//! What these kernels serve stands in [`suits`]; all else is served by the portable ones. Backward and second order need
//! the rests of what they start from besides: δ is taken from O as it is, in every row.
//!
//! [`suits`]: theria_gpu_fwd::forward::hopper::suits

mod family;
mod finish;
mod jvp;
mod scratch;
mod sweep;

pub(crate) use family::Family;

use theria_contract::Problem;
use theria_gpu_fwd::forward::Masking;
use theria_gpu_fwd::{Architecture, KernelSpec, Spec as _};

/// Head dimensions that there are kernels for.
const WIDTHS: [u32; 2] = [64, 128];

/// Heads whose tiles are worked on together: where rows differ in length, the longest begin first.
fn section(problem: &Problem) -> usize {
    if Masking::of(problem, true) == Masking::Intervals { 16 } else { 1 }
}

/// Every instance of the family on an architecture.
pub(crate) fn kernels(architecture: Architecture) -> Vec<KernelSpec> {
    if architecture != Architecture::SM_90A {
        return Vec::new();
    }
    let jvp = jvp::HopperJvp::all().map(|instance| instance.kernel());
    let first = sweep::First::all().map(|instance| instance.kernel());
    let second = sweep::Second::all().map(|instance| instance.kernel());
    jvp.chain(first).chain(second).chain(finish::Finish::all().map(|instance| instance.kernel())).collect()
}
