// What the kernels of the higher rules are given, beside what the forward is.
#pragma once
#include "forward.cuh"

namespace theria {

// Filled by `Rules::of` in parameters.rs. `data` is null of whatever a call has none of.
struct Rules {
    Forward forward; // its `out`, `lse` and `rest` are what the forward saved
    View q_tangent, k_tangent, v_tangent;
    Broadcast bias_tangent;
    View out_tangent, mu, rest_tangent; // made by the JVP
    View g, g_tangent;                  // cotangent of O, and its tangent
    void *statistics;     // a `Record` of each query of all heads
    int padded;           // records of a head
    int batch;
    int heads;            // query heads of a batch entry, whichever heads the grid is of
    int strands;          // of sums of dQ, see hopper_sweep.cuh
    View dq, dk, dv;      // or their tangents
    Broadcast dbias;      // the same: an axis that is summed over has stride 0
    int extents[4];       // of the bias
    int lanes;            // that work on one entry of it: 1 or 32
    int turn_count;       // counters of a head in `turns`, of all strands
    void *turn_rows;      // sums of dQ in f32, where blocks of keys take turns at them
    void *turns;          // whose turn it is: counters of all heads, zero before a sweep
};
static_assert(sizeof(Rules) == 888, "as on the host");

// Whether dropout keeps a score. What becomes of four words is chosen from and not indexed: an index would put them into
// memory.
THERIA_DEVICE bool kept_by_dropout(const Score &score, int b, int h, int i, int j) {
    Philox words(score, j / 4, i, h, b);
    bool keeps[4];
#pragma unroll
    for (int n = 0; n < 4; ++n)
        keeps[n] = words.keeps(score, n);
    return j & 2 ? (j & 1 ? keeps[3] : keeps[2]) : (j & 1 ? keeps[1] : keeps[0]);
}

// What is known of a query before a sweep of backward (ORDER 1) or second order (ORDER 2). `statistics.cu` fills one
// for each. FACTORED: whether the rounding of lse is taken out again, which is a relative error of all weights of a row.
template <class A, int ORDER, bool FACTORED> struct alignas(ORDER == 1 && !FACTORED ? 8 : 16) Record {
    A x[ORDER * (FACTORED ? 4 : 2)];

    THERIA_DEVICE A &lse() { return x[0]; }                           // 0 where nothing is seen
    THERIA_DEVICE A &delta() { return x[1]; }                         // rowsum(P ∘ dP)
    THERIA_DEVICE A &factor() { return x[FACTORED ? 2 : 0]; }         // 1 / Σ exp(S - lse); of FACTORED ones alone
    THERIA_DEVICE A &mu() { return x[ORDER == 1 ? 0 : FACTORED ? 4 : 2]; }            // rowsum(P ∘ S'), of order 2
    THERIA_DEVICE A &delta_tangent() { return x[ORDER == 1 ? 0 : FACTORED ? 5 : 3]; } // rowsum(P' ∘ dP + P ∘ dP')
    THERIA_DEVICE A lse() const { return const_cast<Record *>(this)->lse(); }
    THERIA_DEVICE A delta() const { return const_cast<Record *>(this)->delta(); }
    THERIA_DEVICE A factor() const { return FACTORED ? const_cast<Record *>(this)->factor() : A(1); }
    THERIA_DEVICE A mu() const { return const_cast<Record *>(this)->mu(); }
    THERIA_DEVICE A delta_tangent() const { return const_cast<Record *>(this)->delta_tangent(); }
};

} // namespace theria
