// What backward and second order know of each query before they sweep.
//
// The light way reads outputs: δ = rowsum(G ∘ O), δ' = rowsum(G' ∘ O + G ∘ O'). It is as exact as O and O' are. The
// other way sweeps along the keys,
//
//     Σ = rowsum(exp(S - lse))    factor = 1 / Σ    δ = rowsum(P ∘ dP) / Σ    δ' = rowsum(P' ∘ dP + P ∘ dP') / Σ
//
// where P and P' have no factor yet. A warp has a query. SWEEP says who goes which way.
#include "pairs.cuh"

using namespace theria;

// 0: nobody sweeps. 1: queries whose lse is so large that its rounding shows. 2: all of them.
constexpr int SWEEP = THERIA_SWEEP;
static_assert(FACTORED || SWEEP == 0, "a record without a factor has no place for what a sweep finds");
constexpr int WARPS = 4;
constexpr int LARGE = 32;

// Σ of products of two rows, the lanes side by side.
static THERIA_DEVICE Acc dot_of_warp(const View &a, const View &b, int batch, int h, int i, int width) {
    if (!a.data || !b.data)
        return 0;
    const E *x = a.at<E>(batch, h, i), *y = b.at<E>(batch, h, i);
    Acc sum = 0;
    for (int c = threadIdx.x % WARP; c < width; c += WARP)
        sum += Element<E>::to_acc(x[c]) * Element<E>::to_acc(y[c]);
    return sum_of_warp(sum);
}

extern "C" __global__ void __launch_bounds__(WARPS *WARP, 1) kernel(const __grid_constant__ Rules all) {
    let_next_launch_start();
    await_launches_ahead();
    const Forward &p = all.forward;
    Place place(p); // tiles cover the padding of the records
    int b = place.b, h = place.h, h_kv = place.h_kv, i = place.tile * WARPS + threadIdx.x / WARP;
    if (i >= all.padded)
        return;
    Kept made = {};
    bool there = i < p.score.t;
    if (there) {
        Acc lse = *p.lse.at<Acc>(b, h, i);
        bool blind = lse == minus_infinity<Acc>();
        int length = p.score.keys_of(b);
        Known row = {};
        row.lse() = lse;
        row.factor() = 1;
        if (ORDER == 2)
            row.mu() = *all.mu.at<Acc>(b, h, i);
        if (SWEEP == 0 || (SWEEP == 1 && !(lse > LARGE || lse < -LARGE)) || blind) {
            made.delta() = dot_of_warp(all.g, p.out, b, h, i, p.dv);
            if (ORDER == 2)
                made.delta_tangent() = dot_of_warp(all.g_tangent, p.out, b, h, i, p.dv) +
                                       dot_of_warp(all.g, all.out_tangent, b, h, i, p.dv);
            if (FACTORED)
                made.factor() = 1;
        } else {
            Acc sum = 0, delta = 0, delta_tangent = 0;
            for (int start = p.score.first_key(i, length), end = p.score.end_key(i, length); start < end; start += WARP) {
                int j = start + threadIdx.x % WARP;
                Pair pair = {};
                if (j < end)
                    pair = Pair::of<true, ORDER == 2>(all, row, b, h, h_kv, i, j, length);
                sum += pair.p;
                delta += pair.ds;
                delta_tangent += pair.ds_tangent;
            }
            Acc factor = Acc(1) / sum_of_warp(sum);
            made.factor() = factor;
            made.delta() = sum_of_warp(delta) * factor;
            if (ORDER == 2)
                made.delta_tangent() = sum_of_warp(delta_tangent) * factor;
        }
        // A row that sees keys although its lse says that it does not was handed over wrongly: nothing of it is known.
        made.lse() = !blind ? lse : p.score.sees_a_key<E>(b, h, i, length) ? Acc(not_a_number()) : Acc(0);
        if (ORDER == 2)
            made.mu() = row.mu();
    }
    if (threadIdx.x % WARP == 0)
        *record_of(all, b, h, i) = made;
}
