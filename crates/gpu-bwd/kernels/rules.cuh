// What the kernels of the higher rules are given, beside what the forward is.
#pragma once
#include "forward.cuh"

namespace theria {

// Filled by `Rules::of` in parameters.rs. `data` is null of whatever a call has none of.
struct Rules {
    Forward forward; // its `out` and `lse` are what the forward saved
    View q_tangent, k_tangent, v_tangent;
    Broadcast bias_tangent;
    View out_tangent, mu; // made by the JVP
    View g, g_tangent;    // cotangent of O, and its tangent
    float *statistics;    // a record of each query of all heads: see curve.cuh
    int padded;           // records of a head
    View dq, dk, dv;      // or their tangents
};

} // namespace theria
