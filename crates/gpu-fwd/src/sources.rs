//! The texts in `kernels/`.

use crate::Source;

/// A header of kernels: a name by which they include it, and its text.
pub type Header = (&'static str, &'static str);

/// Headers that kernels of every rule stand on.
pub const HEADERS: &[Header] = &[
    ("base.cuh", include_str!("../kernels/base.cuh")),
    ("score.cuh", include_str!("../kernels/score.cuh")),
    ("tile.cuh", include_str!("../kernels/tile.cuh")),
    ("forward.cuh", include_str!("../kernels/forward.cuh")),
    ("warp.cuh", include_str!("../kernels/warp.cuh")),
];

/// Those, and what kernels of `sm_90a` stand on besides.
pub const HOPPER_HEADERS: &[Header] =
    &joined::<6>(HEADERS, &[("hopper.cuh", include_str!("../kernels/hopper.cuh"))]);

/// Those, and what forward kernels of `sm_90a` have in common.
const HOPPER_FORWARD_HEADERS: &[Header] =
    &joined::<7>(HOPPER_HEADERS, &[("hopper_rows.cuh", include_str!("../kernels/hopper_rows.cuh"))]);

/// Headers, and others after them.
///
/// # Panics
/// If `COUNT` is not how many there are; a constant does not compile then.
pub const fn joined<const COUNT: usize>(first: &[Header], others: &[Header]) -> [Header; COUNT] {
    assert!(first.len() + others.len() == COUNT, "room for all headers");
    let mut all = [("", ""); COUNT];
    let mut n = 0;
    while n < COUNT {
        all[n] = if n < first.len() { first[n] } else { others[n - first.len()] };
        n += 1;
    }
    all
}

/// The forward rule of `cuda-ref`.
pub(crate) const REFERENCE_FORWARD: Source = Source {
    name: "reference_forward.cu",
    text: include_str!("../kernels/reference_forward.cu"),
    headers: HEADERS,
};

/// The forward rule of `cuda-fused`, portable family.
pub(crate) const FUSED_FORWARD: Source =
    Source { name: "fused_forward.cu", text: include_str!("../kernels/fused_forward.cu"), headers: HEADERS };

/// The forward rule of `cuda-fused` on Hopper.
pub(crate) const HOPPER_FORWARD: Source = Source {
    name: "hopper_forward.cu",
    text: include_str!("../kernels/hopper_forward.cu"),
    headers: HOPPER_FORWARD_HEADERS,
};

/// The same for few rows with few keys.
pub(crate) const HOPPER_FEW: Source = Source {
    name: "hopper_few.cu",
    text: include_str!("../kernels/hopper_few.cu"),
    headers: HOPPER_FORWARD_HEADERS,
};

/// The forward rule of `cuda-fast`: scores and softmax.
pub(crate) const FAST_SCORES: Source =
    Source { name: "fast_scores.cu", text: include_str!("../kernels/fast_scores.cu"), headers: HEADERS };

/// The forward rule of `cuda-fast`: the product with the values.
pub(crate) const FAST_VALUES: Source =
    Source { name: "fast_values.cu", text: include_str!("../kernels/fast_values.cu"), headers: HEADERS };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_waits_for_the_launches_ahead_and_lets_the_next_one_start() {
        for source in [REFERENCE_FORWARD, FUSED_FORWARD, HOPPER_FORWARD, HOPPER_FEW, FAST_SCORES, FAST_VALUES]
        {
            let kernel = &source.text[source.text.find("__global__").unwrap()..];
            for call in ["let_next_launch_start();", "await_launches_ahead("] {
                assert_eq!(kernel.matches(call).count(), 1, "{}: {call}", source.name);
            }
        }
    }
}
