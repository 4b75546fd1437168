// What backward and second order do with the scores of a tile, whichever of queries and keys are its rows.
//
//     P  = factor·exp(S - lse)       P'  = P ∘ (S' - μ)
//     dS = P ∘ (dP - δ)              dS' = P' ∘ (dP - δ) + P ∘ (dP' - δ')
#pragma once
#include "rules.cuh"
#include "warp.cuh"

namespace theria {

// 1: backward. 2: second order.
constexpr int ORDER = THERIA_ORDER;
static_assert(D == DV, "operands of both widths lie in tiles of one");
static_assert(KEY_GROUPS == 1 && STAGES >= 2 && BLOCK_ROWS <= 128 && STAGE_KEYS <= 128, "what the sweeps are written for");
constexpr bool FACTORED = sizeof(E) == 4;
using Known = Record<float, ORDER, FACTORED>;

// Scale and bias' of S', where scores are looked at.
static THERIA_DEVICE void look_tangent(Scores &s_tangent, const Rules &p, const Rows &at, int key0) {
    if (MASKING != EVERYTHING)
        return;
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                float &x = s_tangent[r][n].x[c];
                int i = at.row(r, c / 2), j = key0 + 8 * n + 2 * (lane % 4) + c % 2;
                x *= float(p.forward.score.scale);
                if (p.bias_tangent.data && i < p.forward.score.t && j < at.length)
                    x += Element<E>::to_acc(
                        static_cast<const E *>(p.bias_tangent.data)[p.bias_tangent.offset(at.b, at.h, i, j)]);
            }
}

// One element. S and, of the second order, S' have no scale yet unless scores are looked at.
struct Curved {
    float p, ds, p_tangent, ds_tangent;

    THERIA_DEVICE Curved(const Known &row, float scale, float s, float dp, float s_tangent, float dp_tangent) {
        float exponent = FACTORED && !(fabsf(row.lse() * LOG2_E) < Reference::LARGE)
                             ? fmaf(s, scale, -row.lse()) * LOG2_E
                             : fmaf(s, scale * LOG2_E, -row.lse() * LOG2_E);
        p = exp2_of(exponent);
        if (FACTORED)
            p *= row.factor();
        float centred = dp - row.delta();
        ds = p * centred;
        if (ORDER == 2) {
            p_tangent = p * fmaf(s_tangent, scale, -row.mu());
            ds_tangent = fmaf(p_tangent, centred, p * (dp_tangent - row.delta_tangent()));
        }
    }
};

} // namespace theria
