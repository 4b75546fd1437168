//! What the kernels of the higher rules are given: `Rules` of `rules.cuh`, member by member. Both sides assert the
//! same sizes.

use theria_gpu_fwd::forward::parameters::{Broadcast, Forward, View};

const _: () = assert!(size_of::<Forward>() == 392 && size_of::<Rules>() == 888);

/// The argument of every kernel of this crate.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    /// What depends on the grid of a launch, and what the forward made.
    pub(crate) forward: Forward,
    /// The rest.
    pub(crate) own: Own,
}

/// What kernels of the higher rules are given beside what the forward is. All zero of whatever a call has none of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) q_tangent: View,
    pub(crate) k_tangent: View,
    pub(crate) v_tangent: View,
    pub(crate) bias_tangent: Broadcast,
    pub(crate) out_tangent: View,
    pub(crate) mu: View,
    pub(crate) rest_tangent: View,
    pub(crate) g: View,
    pub(crate) g_tangent: View,
    pub(crate) statistics: u64,
    pub(crate) padded: i32,
    pub(crate) batch: i32,
    pub(crate) heads: i32,
    pub(crate) strands: i32,
    pub(crate) dq: View,
    pub(crate) dk: View,
    pub(crate) dv: View,
    pub(crate) dbias: Broadcast,
    pub(crate) extents: [i32; 4],
    pub(crate) lanes: i32,
    pub(crate) turn_count: i32,
    pub(crate) turn_rows: u64,
    pub(crate) turns: u64,
}
