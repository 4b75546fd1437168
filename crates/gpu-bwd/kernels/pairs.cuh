// The higher rules on plain arithmetic units, one query and one key at a time: what `cuda-ref` is made of.
//
// A warp owns a query or a key and walks along the others, a lane for each. Rows are read where they lie. The
// including source says E, the element type.
#pragma once
#include "rules.cuh"

namespace theria {

using E = THERIA_ELEMENT;
using Acc = Element<E>::Acc;

constexpr int ORDER = THERIA_ORDER; // 1: backward. 2: second order, and the JVP
constexpr bool FACTORED = THERIA_FACTORED;
using Kept = Record<Acc, ORDER, FACTORED>; // in memory
using Known = Record<Acc, ORDER, true>;    // in registers

constexpr int COLUMNS = 8; // columns of a row in each lane: 8 · 32 = 256

// Σ a·b of two rows; 0 where one is absent.
THERIA_DEVICE Acc dot(const View &a, const View &b, int batch, int head_a, int i, int head_b, int j, int width) {
    if (!a.data || !b.data)
        return 0;
    const E *x = a.at<E>(batch, head_a, i), *y = b.at<E>(batch, head_b, j);
    Acc sum = 0;
#pragma unroll 4
    for (int c = 0; c < width; ++c)
        sum += Element<E>::to_acc(x[c]) * Element<E>::to_acc(y[c]);
    return sum;
}

// Adds a row times a number to the columns of this lane.
THERIA_DEVICE void add_row(Acc (&sum)[COLUMNS], Acc weight, const View &row, int batch, int head, int i, int width) {
    if (!row.data)
        return;
    const E *x = row.at<E>(batch, head, i);
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n) {
        int c = n * WARP + threadIdx.x % WARP;
        if (c < width)
            sum[n] += weight * Element<E>::to_acc(x[c]);
    }
}

// REST: what rounding takes from them.
template <bool REST = false>
THERIA_DEVICE void put_row(const Acc (&sum)[COLUMNS], Acc weight, const View &row, int batch, int head, int i, int width) {
    E *x = row.at<E>(batch, head, i);
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n) {
        int c = n * WARP + threadIdx.x % WARP;
        if (c < width)
            x[c] = REST ? rest_of<E>(sum[n] * weight) : Element<E>::from_acc(sum[n] * weight);
    }
}

THERIA_DEVICE Acc sum_of_warp(Acc x) {
#pragma unroll
    for (int step = WARP / 2; step; step /= 2)
        x += __shfl_xor_sync(FULL_WARP, x, step);
    return x;
}

THERIA_DEVICE Kept *record_of(const Rules &all, int b, int h, int i) {
    return static_cast<Kept *>(all.statistics) + (long long)(b * all.heads + h) * all.padded + i;
}
THERIA_DEVICE Known known_of(const Rules &all, int b, int h, int i) {
    const Kept kept = *record_of(all, b, h, i);
    Known known = {};
    known.lse() = kept.lse();
    known.delta() = kept.delta();
    known.factor() = kept.factor();
    if (ORDER == 2) {
        known.mu() = kept.mu();
        known.delta_tangent() = kept.delta_tangent();
    }
    return known;
}

// A query and a key that it sees, or does not: then every number of it is zero.
struct Pair {
    bool seen;
    Acc z;                        // of dropout
    Acc p, p_tangent;             // P and P' = P ∘ (S' - μ)
    Acc dp, dp_tangent;           // with Z
    Acc ds, ds_tangent;

    // COTANGENTS: whether dP and what is made of it are wanted. TANGENTS: whether S' and what is made of it are.
    template <bool COTANGENTS, bool TANGENTS>
    static THERIA_DEVICE Pair of(const Rules &all, const Known &row, int b, int h, int h_kv, int i, int j, int length) {
        const Forward &p = all.forward;
        const Score &score = p.score;
        Pair pair = {};
        pair.seen = j >= score.first_key(i, length) && j < score.end_key(i, length) && score.lets_see(b, h, i, j);
        if (!pair.seen)
            return pair;
        Acc scale = Acc(score.scale);
        Acc s = scale * dot(p.q, p.k, b, h, i, h_kv, j, p.d);
        if (score.bias.data)
            s += score.bias_at<E>(b, h, i, j);
        if (s == minus_infinity<Acc>()) {
            pair.seen = false;
            return pair;
        }
        pair.z = 1;
        if (score.threshold)
            pair.z = kept_by_dropout(score, b, h, i, j) ? Acc(score.kept) : Acc(0);
        pair.p = row.factor() * exp_of(s - row.lse());
        if (TANGENTS) {
            Acc s_tangent = dot(all.q_tangent, p.k, b, h, i, h_kv, j, p.d) + dot(p.q, all.k_tangent, b, h, i, h_kv, j, p.d);
            s_tangent *= scale;
            if (all.bias_tangent.data)
                s_tangent += Element<E>::to_acc(
                    static_cast<const E *>(all.bias_tangent.data)[all.bias_tangent.offset(b, h, i, j)]);
            pair.p_tangent = pair.p * (s_tangent - row.mu());
        }
        if (COTANGENTS) {
            pair.dp = pair.z * dot(all.g, p.v, b, h, i, h_kv, j, p.dv);
            pair.ds = pair.p * (pair.dp - row.delta());
        }
        if (COTANGENTS && TANGENTS) {
            Acc moved = dot(all.g_tangent, p.v, b, h, i, h_kv, j, p.dv) + dot(all.g, all.v_tangent, b, h, i, h_kv, j, p.dv);
            pair.dp_tangent = pair.z * moved;
            pair.ds_tangent = pair.p_tangent * (pair.dp - row.delta()) + pair.p * (pair.dp_tangent - row.delta_tangent());
        }
        return pair;
    }
};

} // namespace theria
