// What a warpgroup that has 64 keys does with a tile of queries in the backward, whichever block it works in:
//
//     Sᵀ = K Qᵀ    dPᵀ = V Gᵀ    P = exp(scale·S - lse)    dS = P ∘ (dP - δ)    dV += Pᵀ G    dK += dSᵀ Q
//
// Rows of its sums are keys and columns queries. So Pᵀ and dSᵀ come out of products as the operands that the next ones
// take from registers, sixteen queries to a piece.
#pragma once
#include "hopper.cuh"
#include "rules.cuh"

namespace theria {

constexpr float LOG2_E = 1.4426950408889634f;

// What is known of a query, in shared memory.
using Known = Record<float, 1, false>;

// All lanes of a warp have done something.
THERIA_DEVICE void arrive_as_warp(Barrier barrier) {
    __syncwarp();
    if (is_elected())
        barrier.arrive();
}

// A thread's number, asked for where it is needed: what is worked out of it is not kept for the next time.
THERIA_DEVICE int thread_now() {
    int x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

// x = A·Bᵀ over PANELS panels: Sᵀ and dPᵀ.
template <class E, int PANELS, int A_PANEL, int B_PANEL, int N>
THERIA_DEVICE void multiply_rows(float (&x)[N], unsigned keys, unsigned queries) {
    begin_products();
#pragma unroll
    for (int n = 0; n < PANELS; ++n) {
        unsigned long long a = panel(keys + n * A_PANEL), b = panel(queries + n * B_PANEL);
#pragma unroll
        for (int k = 0; k < PANEL / 16; ++k)
            Product<2 * N, E>::template add<false, false>(x, ahead(a, 32 * k), ahead(b, 32 * k), n + k > 0);
    }
    commit_products();
}

// dV += Pᵀ G, or dK += dSᵀ Q, of the queries of some pieces.
template <class E, int BEGIN, int END, int B_PANEL, int N, int CHUNKS>
THERIA_DEVICE void add_rows(float (&x)[N], const unsigned (&a)[CHUNKS][4], unsigned queries) {
    unsigned long long b = panel(queries, B_PANEL);
    begin_products();
#pragma unroll
    for (int k = BEGIN; k < END; ++k)
        Product<2 * N, E>::template add<true>(x, a[k], ahead(b, 2048 * k), true);
    commit_products();
}

// dQ = dS K, both by columns, over KEYS keys.
template <class E, int KEYS, int N>
THERIA_DEVICE void multiply_shared(float (&x)[N], unsigned long long shared, unsigned long long keys) {
    begin_products();
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k)
        Product<2 * N, E>::template add<true, true>(x, ahead(shared, 2048 * k), ahead(keys, 2048 * k), k > 0);
    commit_products();
}

// Sums as operands: from piece BEGIN of sixteen columns to END.
template <class Math, int BEGIN, int END, int N> THERIA_DEVICE void pack(unsigned (&to)[N][4], const float (&x)[8 * N]) {
#pragma unroll
    for (int k = BEGIN; k < END; ++k)
#pragma unroll
        for (int c = 0; c < 4; ++c)
            to[k][c] = Math::pair(x[8 * k + 2 * c], x[8 * k + 2 * c + 1]);
}

// Operands into panels of so many bytes, from piece BEGIN of sixteen columns to END. The warp's sixteen rows begin at
// `row`, and the first piece at piece `first` of the panels.
template <int BYTES, int BEGIN, int END, int N>
THERIA_DEVICE void store(unsigned panels, int row, const unsigned (&x)[N][4], int first = 0) {
    int lane = thread_now() % WARP;
    row += lane % 16; // of which this lane names the place, for the upper or the lower eight columns
    panels += row * PANEL_ROW;
#pragma unroll
    for (int k = BEGIN; k < END; ++k)
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                         panels + (first + k) / 4 * BYTES + (2 * ((first + k) % 4) + lane / 16 ^ row % 8) * 16),
                     "r"(x[k][0]), "r"(x[k][1]), "r"(x[k][2]), "r"(x[k][3])
                     : "memory");
}

// Records of the two neighbouring queries that this thread has of eight.
struct Records {
    float first_lse, first_delta, second_lse, second_delta;

    THERIA_DEVICE Records(unsigned all, int eight) {
        unsigned from = all + (8 * eight + 2 * (threadIdx.x % 4)) * int(sizeof(Known));
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(first_lse), "=f"(first_delta), "=f"(second_lse), "=f"(second_delta)
                     : "r"(from));
    }
};

// P = 2^(S·factor - lse·unit), in place. The unit is 1 where records have lse in powers of two, and log2 e elsewhere.
template <int N>
THERIA_DEVICE void exponentials(float (&s)[N], unsigned records, float factor, float unit) {
#pragma unroll
    for (int n = 0; n < N / 4; ++n) {
        Records two(records, n);
        float first = two.first_lse * unit, second = two.second_lse * unit;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            s[4 * n + 2 * half] = exp2_of(fmaf(s[4 * n + 2 * half], factor, -first));
            s[4 * n + 2 * half + 1] = exp2_of(fmaf(s[4 * n + 2 * half + 1], factor, -second));
        }
    }
}

// dS = P ∘ (dP - δ), in place of dP, of the queries of some pieces.
template <int BEGIN, int END, int N>
THERIA_DEVICE void derive(float (&dp)[N], const float (&p)[N], unsigned records) {
#pragma unroll
    for (int n = 2 * BEGIN; n < 2 * END; ++n) {
        Records two(records, n);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            dp[4 * n + 2 * half] = p[4 * n + 2 * half] * (dp[4 * n + 2 * half] - two.first_delta);
            dp[4 * n + 2 * half + 1] = p[4 * n + 2 * half + 1] * (dp[4 * n + 2 * half + 1] - two.second_delta);
        }
    }
}

} // namespace theria
