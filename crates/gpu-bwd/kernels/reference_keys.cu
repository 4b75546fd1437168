// Gradients of keys and values, or their tangents, of `cuda-ref`: a warp owns a key and walks along the queries of all
// heads that share it, a lane for each.
//
//     dK  = scale·Σ_i dS_i·q_i                        dV  = Σ_i (P ∘ Z)_i·g_i
//     dK' = scale·Σ_i (dS'_i·q_i + dS_i·q'_i)         dV' = Σ_i ((P' ∘ Z)_i·g_i + (P ∘ Z)_i·g'_i)
#include "pairs.cuh"

using namespace theria;

constexpr int WARPS = 4; // of a block: keys of it

extern "C" __global__ void __launch_bounds__(WARPS *WARP, 1) kernel(const __grid_constant__ Rules all) {
    let_next_launch_start();
    await_launches_ahead();
    const Forward &p = all.forward;
    Place place(p); // of key heads: `tile` is one of keys
    int b = place.b, h_kv = place.h, j = place.tile * WARPS + threadIdx.x / WARP, group = p.group.number;
    if (j >= p.score.m)
        return;
    int length = p.score.keys_of(b);
    Acc dk[COLUMNS] = {}, dv[COLUMNS] = {};
    for (int h = h_kv * group; j < length && h < (h_kv + 1) * group; ++h) {
        for (int start = 0; start < p.score.t; start += WARP) {
            int i = start + threadIdx.x % WARP;
            Pair pair = {};
            if (i < p.score.t)
                pair = Pair::of<true, ORDER == 2>(all, known_of(all, b, h, i), b, h, h_kv, i, j, length);
            if (!__any_sync(FULL_WARP, pair.seen))
                continue;
            for (int lane = 0; lane < min_of(WARP, p.score.t - start); ++lane) {
                if (!__shfl_sync(FULL_WARP, int(pair.seen), lane))
                    continue;
                Acc ds = __shfl_sync(FULL_WARP, pair.ds, lane), weight = __shfl_sync(FULL_WARP, pair.p * pair.z, lane);
                if (ORDER == 1) {
                    add_row(dk, ds, p.q, b, h, start + lane, p.d);
                    add_row(dv, weight, all.g, b, h, start + lane, p.dv);
                    continue;
                }
                Acc ds_tangent = __shfl_sync(FULL_WARP, pair.ds_tangent, lane);
                Acc weight_tangent = __shfl_sync(FULL_WARP, pair.p_tangent * pair.z, lane);
                add_row(dk, ds_tangent, p.q, b, h, start + lane, p.d);
                add_row(dk, ds, all.q_tangent, b, h, start + lane, p.d);
                add_row(dv, weight_tangent, all.g, b, h, start + lane, p.dv);
                add_row(dv, weight, all.g_tangent, b, h, start + lane, p.dv);
            }
        }
    }
    put_row(dk, Acc(p.score.scale), all.dk, b, h_kv, j, p.d);
    put_row(dv, Acc(1), all.dv, b, h_kv, j, p.dv);
}
