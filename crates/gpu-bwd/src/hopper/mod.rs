//! `cuda-fused` on Hopper: JVP, backward and second order in one sweep over the scores each, by the instructions that
//! `sm_90a` alone has (hopper.cuh).
//!
//! What these kernels serve stands in [`suits`]; all else is served by the portable ones. They need the rests of what
//! they start from besides: O is taken as it is, and no row is swept twice.
//!
//! [`suits`]: theria_gpu_fwd::forward::hopper::suits

mod family;
mod finish;
mod heads;
mod jvp;
mod scratch;
mod sweep;

pub(crate) use family::Family;

use theria_gpu_fwd::{Architecture, KernelSpec, Spec as _};

/// Head dimensions that there are kernels for.
const WIDTHS: [u32; 2] = [64, 128];

/// Every instance of the family on an architecture.
pub(crate) fn kernels(architecture: Architecture) -> Vec<KernelSpec> {
    if architecture != Architecture::SM_90A {
        return Vec::new();
    }
    let jvp = jvp::HopperJvp::all().map(|instance| instance.kernel());
    let heads = heads::Heads::all().map(|instance| instance.kernel());
    let first = sweep::First::all().map(|instance| instance.kernel());
    let second = sweep::Second::all().map(|instance| instance.kernel());
    jvp.chain(heads)
        .chain(first)
        .chain(second)
        .chain(finish::Finish::all().map(|instance| instance.kernel()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instance_fits_a_block() {
        let all = kernels(Architecture::SM_90A);
        assert!(!all.is_empty());
        for kernel in all {
            let most = Architecture::SM_90A.shared_memory();
            assert!(kernel.shared <= most, "{}: {}", kernel.name, kernel.shared);
        }
    }
}
