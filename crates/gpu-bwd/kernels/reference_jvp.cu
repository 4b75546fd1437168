// JVP of `cuda-ref`: a warp owns a query and walks along its keys, a lane for each.
//
//     P = exp(S - lse)      A += (P ∘ S' ∘ Z)·V + (P ∘ Z)·V'      B += (P ∘ Z)·V      Σ += rowsum(P)      m += rowsum(P ∘ S')
//
//     μ = m / Σ             O' = (A - μ·B) / Σ
//
// B / Σ is O, made anew because the saved one was rounded to the element type.
#include "pairs.cuh"

using namespace theria;

constexpr int WARPS = 4; // of a block: queries of it

extern "C" __global__ void __launch_bounds__(WARPS *WARP, 1) kernel(const __grid_constant__ Rules all) {
    let_next_launch_start();
    await_launches_ahead();
    const Forward &p = all.forward;
    Place place(p);
    int b = place.b, h = place.h, h_kv = place.h_kv, i = place.tile * WARPS + threadIdx.x / WARP;
    if (i >= p.score.t)
        return;
    int length = p.score.keys_of(b);
    Known row = {};
    row.lse() = *p.lse.at<Acc>(b, h, i);
    row.factor() = 1;
    Acc moved[COLUMNS] = {}, out[COLUMNS] = {}, sum = 0, dot = 0;
    for (int start = p.score.first_key(i, length), end = p.score.end_key(i, length); start < end; start += WARP) {
        int j = start + threadIdx.x % WARP;
        Pair pair = {};
        if (j < end)
            pair = Pair::of<false, true>(all, row, b, h, h_kv, i, j, length);
        sum += pair.p;
        dot += pair.p_tangent;
        for (int lane = 0; lane < min_of(WARP, end - start); ++lane) {
            if (!__shfl_sync(FULL_WARP, int(pair.seen), lane))
                continue;
            Acc weight = __shfl_sync(FULL_WARP, pair.p * pair.z, lane);
            Acc weight_tangent = __shfl_sync(FULL_WARP, pair.p_tangent * pair.z, lane);
            add_row(moved, weight_tangent, p.v, b, h_kv, start + lane, p.dv);
            add_row(moved, weight, all.v_tangent, b, h_kv, start + lane, p.dv);
            add_row(out, weight, p.v, b, h_kv, start + lane, p.dv);
        }
    }
    sum = sum_of_warp(sum);
    dot = sum_of_warp(dot);
    bool blind = sum == 0 && row.lse() == minus_infinity<Acc>();
    Acc factor = blind ? Acc(0) : Acc(1) / sum, mu = blind ? Acc(0) : dot / sum;
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n)
        moved[n] -= mu * out[n];
    put_row(moved, factor, all.out_tangent, b, h, i, p.dv);
    if (all.rest_tangent.data)
        put_row<true>(moved, factor, all.rest_tangent, b, h, i, p.dv);
    if (threadIdx.x % WARP == 0)
        *all.mu.at<Acc>(b, h, i) = mu;
}
