//! The texts in `kernels/`.

use theria_gpu_fwd::{Header, Source, joined};

const RULES: Header = ("rules.cuh", include_str!("../kernels/rules.cuh"));

/// Everything that a kernel of the higher rules may include.
const HEADERS: &[Header] = &joined::<8>(
    theria_gpu_fwd::HEADERS,
    &[
        RULES,
        ("curve.cuh", include_str!("../kernels/curve.cuh")),
        ("pairs.cuh", include_str!("../kernels/pairs.cuh")),
    ],
);

/// Everything that a kernel for Hopper may include.
const HOPPER_HEADERS: &[Header] = &joined::<10>(
    theria_gpu_fwd::HOPPER_HEADERS,
    &[
        ("hopper_keys.cuh", include_str!("../kernels/hopper_keys.cuh")),
        ("hopper_sweep.cuh", include_str!("../kernels/hopper_sweep.cuh")),
        ("hopper_turns.cuh", include_str!("../kernels/hopper_turns.cuh")),
        RULES,
    ],
);

macro_rules! source {
    ($name:literal) => {
        source!($name, HEADERS)
    };
    ($name:literal, $headers:expr) => {
        Source { name: $name, text: include_str!(concat!("../kernels/", $name)), headers: $headers }
    };
}

pub(crate) const FUSED_JVP: Source = source!("fused_jvp.cu");
pub(crate) const FUSED_QUERIES: Source = source!("fused_queries.cu");
pub(crate) const FUSED_KEYS: Source = source!("fused_keys.cu");
pub(crate) const FUSED_BIAS: Source = source!("fused_bias.cu");
pub(crate) const HOPPER_JVP: Source = source!("hopper_jvp.cu", HOPPER_HEADERS);
pub(crate) const HOPPER_HEADS: Source = source!("hopper_heads.cu", HOPPER_HEADERS);
pub(crate) const HOPPER_SWEEP: Source = source!("hopper_sweep.cu", HOPPER_HEADERS);
pub(crate) const HOPPER_SECOND: Source = source!("hopper_second.cu", HOPPER_HEADERS);
pub(crate) const HOPPER_FINISH: Source = source!("hopper_finish.cu", HOPPER_HEADERS);
pub(crate) const STATISTICS: Source = source!("statistics.cu");
pub(crate) const REFERENCE_JVP: Source = source!("reference_jvp.cu");
pub(crate) const REFERENCE_QUERIES: Source = source!("reference_queries.cu");
pub(crate) const REFERENCE_KEYS: Source = source!("reference_keys.cu");
pub(crate) const REFERENCE_BIAS: Source = source!("reference_bias.cu");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_waits_for_the_launches_ahead_and_lets_the_next_one_start() {
        let fused = [FUSED_JVP, FUSED_QUERIES, FUSED_KEYS, FUSED_BIAS, STATISTICS];
        let reference = [REFERENCE_JVP, REFERENCE_QUERIES, REFERENCE_KEYS, REFERENCE_BIAS];
        let hopper = [HOPPER_JVP, HOPPER_HEADS, HOPPER_SWEEP, HOPPER_SECOND, HOPPER_FINISH];
        for source in fused.into_iter().chain(reference).chain(hopper) {
            let kernel = &source.text[source.text.find("__global__").unwrap()..];
            for call in ["let_next_launch_start();", "await_launches_ahead("] {
                assert_eq!(kernel.matches(call).count(), 1, "{}: {call}", source.name);
            }
        }
    }
}
