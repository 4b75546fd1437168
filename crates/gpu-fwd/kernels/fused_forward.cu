// Forward of `cuda-fused`, portable family: one kernel, one sweep over the keys, nothing of size T×M.
//
//     S = scale·Q·Kᵀ + bias     a tile of STEP keys, in registers
//     r                         a reference for each row: the maximum when it was last looked for
//     P = 2^(S·log2 e - r)
//     l = l + Σ_j P_j,  O = O + (z ∘ P)·V
//     O / l,  lse = ln l + r·ln 2
//
// Where what rounding takes from O is kept beside it, O is divided by the sum of P as it is multiplied, rounded: it is a mean
// of values only with their own weights. Then what rowsum(G ∘ O) is off is of the size of what rounding takes from dS, and
// not of what it takes from dP. lse is of the sum before: it is a factor of a whole row in all rules.
//
// Key groups split the keys of a stage among them and are added up at the end: this is for few queries, where
// more rows would not fill the device.
//
// The reference r need not be the maximum: any r gives the same O and lse as long as nothing overflows. So a
// step first trusts the r that it finds. No score waits for a maximum then, the exponentials of the first
// columns run while the products of the last ones are under way, and O need not be scaled. If a sum shows that
// a score was far above r, nothing has been changed yet, and the step is made again with care.
#include "warp.cuh"

using namespace theria;

constexpr int STAGE_BYTES = KeyTile::BYTES + ValueTile::BYTES;
// With one stage alone keys and values wait for each other: values come while scores are multiplied, the next keys
// while values are. That is two barriers in place of one, for half of the memory.
constexpr bool APART = STAGES == 1;
static_assert(!APART || KEYS == STEP, "the next keys take the place of these");
constexpr int AHEAD = APART ? 1 : STAGES - 1; // stages that are under way when a step begins
// What `add_key_groups` needs: see there.
constexpr int SUMS_BYTES = 16 * ROW_WARPS * WARP * ROW_TILES * ((KEY_GROUPS - 1) * DV / 8 + 2 * KEY_GROUPS);
// The largest sum of a lane's probabilities in one step that a trusted reference may give. Each of them is an
// operand of a product next, and binary16 ends at 65504.
constexpr float LIMIT = 1024;

// P in place of S against the reference as it is. Whether that was well;
// if so, l has its sums. ROUNDED: of what is multiplied.
template <bool ROUNDED>
static THERIA_DEVICE bool trust(State &state, Scores &s, float factor) {
    float sum[ROW_TILES][2] = {}, reference[ROW_TILES][2];
    bool good = true;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r) {
        reference[r][0] = state.top[r][0] * factor;
        reference[r][1] = state.top[r][1] * factor;
    }
#pragma unroll
    for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float &first = s[r][n].x[2 * half], &second = s[r][n].x[2 * half + 1];
                first = exp2_of(fmaf(first, factor, -reference[r][half]));
                second = exp2_of(fmaf(second, factor, -reference[r][half]));
                sum[r][half] += first + second;
            }
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
        good = good && sum[r][0] <= LIMIT && sum[r][1] <= LIMIT; // false for NaN
    if (!__all_sync(FULL_WARP, good))
        return false;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            state.sum[r][half] += sum[r][half];
            if (ROUNDED)
                state.taken[r][half] += sum[r][half] - sum_of_row<true>(s, r, half);
        }
    return true;
}

// z ∘ P in place of S, the scores of a step against keys in memory, and its sums in l. WHOLE: every row sees every
// key. `trusted`: whether the references of all rows may be.
template <bool WHOLE>
static THERIA_DEVICE void weigh(State &state, Scores &s, bool &trusted, const Queries &q, unsigned keys, const Forward &p,
                                const Rows &at, int key0, float factor) {
    for (;;) {
        multiply_keys<WHOLE>(s, q, keys, at.to - key0);
        look<WHOLE>(s, p, at, key0);
        if (MASKING == EVERYTHING || !trusted)
            break;
        if (ROUNDS && p.rest.data ? trust<ROUNDS>(state, s, factor) : trust<false>(state, s, factor))
            return;
        trusted = false; // and once more, with care
    }
    trusted = refer(state, s, factor);
    exponentials(state, s, factor);
    if (ROUNDS && p.rest.data)
        add_sums<ROUNDS>(state, s);
    else
        add_sums(state, s);
    drop(s, p, at, key0);
}

// Adds up what the key groups found. Each of them ends with its own columns of O, and with l and r of all rows.
// A thread meets those that have its place in the other groups, by way of shared memory.
static THERIA_DEVICE void add_key_groups(State &state, float4 *memory, int row_warp, int group, float factor) {
    constexpr int PLACES = ROW_WARPS * WARP, PIECES = DV / 8;
    float4 *statistics = memory + row_warp * WARP + threadIdx.x % WARP;
    float4 *taken = statistics + KEY_GROUPS * ROW_TILES * PLACES, *sums = taken + KEY_GROUPS * ROW_TILES * PLACES;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r) {
        statistics[(group * ROW_TILES + r) * PLACES] = {state.top[r][0], state.sum[r][0], state.top[r][1], state.sum[r][1]};
        if (ROUNDS)
            taken[(group * ROW_TILES + r) * PLACES] = {state.taken[r][0], state.taken[r][1], 0, 0};
#pragma unroll
        for (int n = 0; n < PIECES; ++n) {
            const float(&x)[4] = state.out[r][n].x;
            int owner = group_of(n);
            if (owner != group)
                sums[(((group < owner ? group : group - 1) * ROW_TILES + r) * PIECES + n) * PLACES] = {x[0], x[1], x[2], x[3]};
        }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r) {
        float4 theirs[KEY_GROUPS];
        float top[2] = {state.top[r][0], state.top[r][1]};
#pragma unroll
        for (int n = 0; n < KEY_GROUPS - 1; ++n) {
            theirs[n] = statistics[((n < group ? n : n + 1) * ROW_TILES + r) * PLACES];
            top[0] = fmaxf(top[0], theirs[n].x);
            top[1] = fmaxf(top[1], theirs[n].z);
        }
        float shrink[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            shrink[half] = shrink_of(state.top[r][half], top[half], factor);
            state.top[r][half] = top[half];
            state.sum[r][half] *= shrink[half];
            if (ROUNDS)
                state.taken[r][half] *= shrink[half];
        }
#pragma unroll
        for (int n = 0; n < PIECES; ++n)
#pragma unroll
            for (int c = 0; c < 4; ++c)
                state.out[r][n].x[c] *= shrink[c / 2];
#pragma unroll
        for (int other = 0; other < KEY_GROUPS - 1; ++other) {
            float share[2] = {shrink_of(theirs[other].x, top[0], factor), shrink_of(theirs[other].z, top[1], factor)};
            state.sum[r][0] += share[0] * theirs[other].y;
            state.sum[r][1] += share[1] * theirs[other].w;
            if (ROUNDS) {
                float4 x = taken[((other < group ? other : other + 1) * ROW_TILES + r) * PLACES];
                state.taken[r][0] += share[0] * x.x;
                state.taken[r][1] += share[1] * x.y;
            }
#pragma unroll
            for (int n = 0; n < PIECES; ++n)
                if (group_of(n) == group) {
                    float4 x = sums[((other * ROW_TILES + r) * PIECES + n) * PLACES];
                    float(&to)[4] = state.out[r][n].x;
                    to[0] += share[0] * x.x;
                    to[1] += share[0] * x.y;
                    to[2] += share[1] * x.z;
                    to[3] += share[1] * x.w;
                }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, THERIA_BLOCKS) kernel(const __grid_constant__ Forward p) {
    extern __shared__ __align__(16) unsigned char memory[];
    let_next_launch_start();
    int warp = threadIdx.x / WARP, row_warp = warp % ROW_WARPS, group = KEY_GROUPS == 1 ? 0 : warp / ROW_WARPS;
    Place place(p);
    int block_row = place.tile * BLOCK_ROWS;
    unsigned queries = shared_address(memory), ring = queries + QueryTile::BYTES;
    bool vectors = MASKING != EVERYTHING || p.vectors;
    QueryLoader load_q(p.q, place.b, place.h, block_row);
    Loader<Math, STAGE_KEYS, D, THREADS> load_k(p.k, place.b, place.h_kv, 0);
    Loader<Math, STAGE_KEYS, DV, THREADS> load_v(p.v, place.b, place.h_kv, 0);

    await_launches_ahead(queries, load_q.from, load_k.from, load_v.from);
    Rows at(p, place.b, place.h, block_row, row_warp);
    Keys all(p, block_row, at.length);
    if (MASKING != LENGTHS) {
        load_k.skip(p.k, all.begin);
        load_v.skip(p.v, all.begin);
    }
    auto load_keys = [&](int stage, int slot) {
        int key0 = all.begin + stage * STAGE_KEYS;
        if (key0 < all.end)
            load_k.bring(ring + slot * STAGE_BYTES, p.k, at.length - key0, p.d, vectors);
    };
    auto load_values = [&](int stage, int slot) {
        int key0 = all.begin + stage * STAGE_KEYS;
        if (key0 < all.end)
            load_v.bring(ring + slot * STAGE_BYTES + KeyTile::BYTES, p.v, at.length - key0, p.dv, vectors);
    };
    auto load_stage = [&](int stage, int slot) {
        int key0 = all.begin + stage * STAGE_KEYS, left = at.length - key0;
        unsigned keys = ring + slot * STAGE_BYTES, values = keys + KeyTile::BYTES;
        if (key0 < all.end && vectors) {
            load_k.load(keys, p.k, left, p.d);
            load_v.load(values, p.v, left, p.dv);
        } else if (key0 < all.end) {
            load_k.load_elements(keys, p.k, left, p.d);
            load_v.load_elements(values, p.v, left, p.dv);
        }
        commit_copies();
    };

    load_queries(queries, load_q, p, block_row, vectors);
    if (APART) {
        load_keys(0, 0);
        commit_copies();
    }
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage)
        load_stage(stage, stage);

    Queries q(queries, row_warp);
    if (Q_IN_REGISTERS) {
        await_copies<AHEAD - 1>();
        __syncthreads();
        q.keep();
    }

    State state;
    float factor = exponent_factor(p);
    int slot = 0;
    bool trusted = false; // the references of all rows: there are none yet
    for (int stage = 0; all.begin + stage * STAGE_KEYS < all.end; ++stage) {
        await_copies<AHEAD - 1>();
        __syncthreads();
        if (APART) {
            load_values(stage, 0);
            commit_copies();
        } else {
            load_stage(stage + AHEAD, slot == 0 ? STAGES - 1 : slot - 1);
        }
        unsigned keys = ring + slot * STAGE_BYTES, values = keys + KeyTile::BYTES;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
#pragma unroll
        for (int n = 0; n < KEYS; n += STEP) {
            int row = group * KEYS + n, key0 = all.begin + stage * STAGE_KEYS + row;
            unsigned k = KeyTile::at(keys, row, 0), v = ValueTile::at(values, row, 0);
            bool here = at.concerned(key0), whole = MASKING != EVERYTHING && at.whole(key0);
            Scores s;
            if constexpr (APART) {
                if (here && whole)
                    weigh<true>(state, s, trusted, q, k, p, at, key0, factor);
                else if (here)
                    weigh<false>(state, s, trusted, q, k, p, at, key0, factor);
                await_copies<0>(); // the values are there
                __syncthreads();   // and nobody needs the keys any more
                load_keys(stage + 1, 0);
                commit_copies();
                if (here)
                    add_values<false>(state.out, s, v, whole ? STEP : at.to - key0);
            } else if (!here) {
                continue;
            } else if (whole) {
                weigh<true>(state, s, trusted, q, k, p, at, key0, factor);
                add_values<true>(state.out, s, v, STEP);
            } else {
                weigh<false>(state, s, trusted, q, k, p, at, key0, factor);
                add_values<false>(state.out, s, v, at.to - key0);
            }
        }
    }

    await_copies<0>();
    __syncthreads();
    unsigned out = shared_address(memory) + row_warp * Tile<Math, WARP_ROWS, DV>::BYTES;
    if (KEY_GROUPS > 1) {
        add_key_groups(state, reinterpret_cast<float4 *>(memory), row_warp, group, factor);
        out += SUMS_BYTES;
    }
    write(state, out, p, at, group);
}
