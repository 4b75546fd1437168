// What backward and second order know of each query before they sweep.
//
// The light way reads outputs: δ = rowsum(G ∘ O), δ' = rowsum(G' ∘ O + G ∘ O'). It is as exact as O and O' are, to which
// what rounding took is added where it was kept. The other way sweeps along the keys,
//
//     Σ = rowsum(exp(S - lse))    factor = 1 / Σ    δ = rowsum(P ∘ dP) / Σ    δ' = rowsum(P' ∘ dP + P ∘ dP') / Σ
//
// where P and P' have no factor yet. SWEEP says who goes which way. Four lanes have a query on the light way, and the
// whole warp one after the other on the long one.
#include "pairs.cuh"

using namespace theria;

// 0: nobody sweeps. 1: queries whose lse is so large that its rounding shows. 2: all of them.
constexpr int SWEEP = THERIA_SWEEP;
static_assert(FACTORED || SWEEP == 0, "a record without a factor has no place for what a sweep finds");
constexpr int WARPS = 4;
constexpr int LANES = 4, ROWS = WARP / LANES; // lanes of a query, and queries of a warp
constexpr int LARGE = 32;

// Elements that one lane reads at a time.
struct alignas(16) Chunk {
    static constexpr int COUNT = 16 / sizeof(E);
    E x[COUNT];
};

// This lane's part of Σ of products of two rows, the second with what rounding took from it.
static THERIA_DEVICE Acc part_of_dot(const View &a, const View &b, const View &rest, int batch, int h, int i, int width,
                                     bool vectors) {
    if (!a.data || !b.data)
        return 0;
    const E *x = a.at<E>(batch, h, i), *y = b.at<E>(batch, h, i);
    const E *beside = rest.data ? rest.at<E>(batch, h, i) : nullptr;
    int lane = threadIdx.x % LANES;
    Acc sum = 0;
    if (vectors) {
#pragma unroll 2
        for (int c = lane * Chunk::COUNT; c < width; c += LANES * Chunk::COUNT) {
            Chunk p = *reinterpret_cast<const Chunk *>(x + c), q = *reinterpret_cast<const Chunk *>(y + c);
            Chunk r = beside ? *reinterpret_cast<const Chunk *>(beside + c) : Chunk{};
#pragma unroll
            for (int n = 0; n < Chunk::COUNT; ++n)
                sum += Element<E>::to_acc(p.x[n]) * (Element<E>::to_acc(q.x[n]) + Element<E>::to_acc(r.x[n]));
        }
    } else {
        for (int c = lane; c < width; c += LANES)
            sum += Element<E>::to_acc(x[c]) *
                   (Element<E>::to_acc(y[c]) + (beside ? Element<E>::to_acc(beside[c]) : Acc(0)));
    }
    return sum;
}

static THERIA_DEVICE Acc sum_of_lanes(Acc x) {
#pragma unroll
    for (int step = LANES / 2; step; step /= 2)
        x += __shfl_xor_sync(FULL_WARP, x, step);
    return x;
}

// What a sweep along the keys finds. All lanes of a warp have the same query.
static THERIA_DEVICE void sweep(Kept &made, const Rules &all, const Known &row, int b, int h, int h_kv, int i, int length) {
    const Score &score = all.forward.score;
    Acc sum = 0, delta = 0, delta_tangent = 0;
    for (int start = score.first_key(i, length), end = score.end_key(i, length); start < end; start += WARP) {
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

extern "C" __global__ void __launch_bounds__(WARPS *WARP, 1) kernel(const __grid_constant__ Rules all) {
    let_next_launch_start();
    await_launches_ahead();
    const Forward &p = all.forward;
    Place place(p); // tiles cover the padding of the records
    int b = place.b, h = place.h, h_kv = place.h_kv, lane = threadIdx.x % WARP;
    int first = (place.tile * WARPS + threadIdx.x / WARP) * ROWS, i = first + lane / LANES;
    int length = p.score.keys_of(b);
    bool there = i < p.score.t;
    Kept made = {};
    Acc lse = there ? *p.lse.at<Acc>(b, h, i) : Acc(0);
    bool blind = lse == minus_infinity<Acc>();
    bool sweeps = there && !blind && (SWEEP == 2 || (SWEEP == 1 && (lse > LARGE || lse < -LARGE)));
    if (there) {
        made.lse() = blind ? Acc(0) : lse;
        if (FACTORED)
            made.factor() = 1;
        if (ORDER == 2)
            made.mu() = *all.mu.at<Acc>(b, h, i);
    }
    Acc delta = 0, delta_tangent = 0;
    if (there && !sweeps) {
        delta = part_of_dot(all.g, p.out, p.rest, b, h, i, p.dv, p.vectors);
        if (ORDER == 2)
            delta_tangent = part_of_dot(all.g_tangent, p.out, p.rest, b, h, i, p.dv, p.vectors) +
                            part_of_dot(all.g, all.out_tangent, all.rest_tangent, b, h, i, p.dv, p.vectors);
    }
    made.delta() = sum_of_lanes(delta);
    delta_tangent = sum_of_lanes(delta_tangent);
    if (ORDER == 2)
        made.delta_tangent() = delta_tangent;

    // What takes the whole warp is rare in f16, bf16 and f32.
    for (unsigned rows = __ballot_sync(FULL_WARP, (sweeps || (there && blind)) && lane % LANES == 0); rows; rows &= rows - 1) {
        int owner = (__ffs(rows) - 1) / LANES, at = first + owner;
        bool mine = lane / LANES == owner;
        if (__shfl_sync(FULL_WARP, int(blind), owner * LANES)) {
            // A row that sees keys although its lse says that it does not was handed over wrongly: nothing of it is
            // known.
            bool lost = p.score.sees_a_key<E>(b, h, at, length);
            if (mine && lost)
                made.lse() = Acc(not_a_number());
        } else if (FACTORED) {
            Known row = {};
            row.lse() = __shfl_sync(FULL_WARP, lse, owner * LANES);
            row.factor() = 1;
            if (ORDER == 2)
                row.mu() = __shfl_sync(FULL_WARP, made.mu(), owner * LANES);
            Kept found = {};
            sweep(found, all, row, b, h, h_kv, at, length);
            if (mine) {
                made.factor() = found.factor();
                made.delta() = found.delta();
                if (ORDER == 2)
                    made.delta_tangent() = found.delta_tangent();
            }
        }
    }
    if (lane % LANES == 0 && i < all.padded)
        *record_of(all, b, h, i) = made;
    // Blocks of the sweep that comes next may take turns.
    if (all.turns)
        for (int n = place.tile * WARPS * WARP + threadIdx.x; n < all.turn_count; n += p.tiles * WARPS * WARP)
            static_cast<unsigned *>(all.turns)[(long long)(b * all.heads + h) * all.turn_count + n] = 0;
}
