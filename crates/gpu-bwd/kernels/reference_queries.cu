// Gradient of queries, or its tangent, of `cuda-ref`: a warp owns a query and walks along its keys, a lane for each.
//
//     dQ = scale·Σ_j dS_j·k_j          dQ' = scale·Σ_j (dS'_j·k_j + dS_j·k'_j)
//
// The sums of a row of dS and dS' are what δ and δ' are off by rounding: the records are right for those who read them
// next, as those of fused_queries.cu are.
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
    Known row = known_of(all, b, h, i);
    Acc sum[COLUMNS] = {}, off = 0, off_tangent = 0;
    for (int start = p.score.first_key(i, length), end = p.score.end_key(i, length); start < end; start += WARP) {
        int j = start + threadIdx.x % WARP;
        Pair pair = {};
        if (j < end)
            pair = Pair::of<true, ORDER == 2>(all, row, b, h, h_kv, i, j, length);
        off += pair.ds;
        off_tangent += pair.ds_tangent;
        for (int lane = 0; lane < min_of(WARP, end - start); ++lane) {
            if (!__shfl_sync(FULL_WARP, int(pair.seen), lane))
                continue;
            Acc ds = __shfl_sync(FULL_WARP, pair.ds, lane), ds_tangent = __shfl_sync(FULL_WARP, pair.ds_tangent, lane);
            add_row(sum, ORDER == 1 ? ds : ds_tangent, p.k, b, h_kv, start + lane, p.d);
            if (ORDER == 2)
                add_row(sum, ds, all.k_tangent, b, h_kv, start + lane, p.d);
        }
    }
    off = sum_of_warp(off);
    off_tangent = sum_of_warp(off_tangent);
    if (threadIdx.x % WARP == 0) {
        Kept &record = *record_of(all, b, h, i);
        record.delta() += off;
        if (ORDER == 2)
            record.delta_tangent() += off_tangent;
    }
    put_row(sum, Acc(p.score.scale), all.dq, b, h, i, p.d);
}
