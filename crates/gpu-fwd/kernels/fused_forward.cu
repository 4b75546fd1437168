// Forward of `cuda-fused`, portable family: one kernel, one sweep over the keys, nothing of size T×M.
//
//     S = scale·Q·Kᵀ + bias     a tile of STEP keys, in registers
//     r                         a reference for each row: the maximum when it was last looked for
//     P = 2^(S·log2 e - r)
//     l = l + Σ_j P_j,  O = O + (z ∘ P)·V
//     O / l,  lse = ln l + r·ln 2
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
// The largest sum of a lane's probabilities in one step that a trusted reference may give. Each of them is an
// operand of a product next, and binary16 ends at 65504.
constexpr float LIMIT = 1024;

// P in place of S, where every row sees every key, against the reference as it is. Whether that was well;
// if so, l has its sums.
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
    for (int r = 0; r < ROW_TILES; ++r) {
        state.sum[r][0] += sum[r][0];
        state.sum[r][1] += sum[r][1];
    }
    return true;
}

// Adds what the other key groups found to the first one. Each thread meets the one that has its place in
// every other group, by way of shared memory.
static THERIA_DEVICE void add_key_groups(State &state, float *memory, int row_warp, int group, float factor) {
    constexpr int ROW_THREADS = ROW_WARPS * WARP, ITEMS = ROW_TILES * (DV / 8 * 4 + 4);
    int thread = row_warp * WARP + threadIdx.x % WARP;
    float *mine = memory + (group - 1) * ITEMS * ROW_THREADS + thread;
    if (group > 0) {
        int at = 0;
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                mine[ROW_THREADS * at++] = state.top[r][half];
                mine[ROW_THREADS * at++] = state.sum[r][half];
            }
#pragma unroll
            for (int n = 0; n < DV / 8; ++n)
#pragma unroll
                for (int c = 0; c < 4; ++c)
                    mine[ROW_THREADS * at++] = state.out[r][n].x[c];
        }
    }
    __syncthreads();
    if (group > 0)
        return;
#pragma unroll
    for (int other = 1; other < KEY_GROUPS; ++other) {
        const float *theirs = memory + (other - 1) * ITEMS * ROW_THREADS + thread;
        int at = 0;
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r) {
            float shrink[2], share[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float other_top = theirs[ROW_THREADS * at++], &own = state.top[r][half];
                float top = fmaxf(other_top, own);
                shrink[half] = shrink_of(own, top, factor);
                share[half] = shrink_of(other_top, top, factor);
                own = top;
                state.sum[r][half] = state.sum[r][half] * shrink[half] + theirs[ROW_THREADS * at++] * share[half];
            }
#pragma unroll
            for (int n = 0; n < DV / 8; ++n)
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    float &x = state.out[r][n].x[c];
                    x = x * shrink[c / 2] + theirs[ROW_THREADS * at++] * share[c / 2];
                }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, THERIA_BLOCKS) kernel(const __grid_constant__ Forward p) {
    extern __shared__ __align__(16) unsigned char memory[];
    int warp = threadIdx.x / WARP, row_warp = warp % ROW_WARPS, group = warp / ROW_WARPS;
    Place place(p);
    int block_row = place.tile * BLOCK_ROWS;
    unsigned queries = shared_address(memory), ring = queries + QueryTile::BYTES;
    Rows at(p, place, block_row, row_warp);
    Keys all(p, block_row, at.length);

    bool vectors = MASKING != EVERYTHING || p.vectors;
    Loader<Math, STAGE_KEYS, D, THREADS> load_k(p.k, place.b, place.h_kv, all.begin);
    Loader<Math, STAGE_KEYS, DV, THREADS> load_v(p.v, place.b, place.h_kv, all.begin);
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

    load_queries(queries, p, place, block_row, vectors);
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage)
        load_stage(stage, stage);

    Queries q(queries, row_warp);
    if (Q_IN_REGISTERS) {
        await_copies<STAGES - 2>();
        __syncthreads();
        q.keep();
    }

    State state;
    float factor = exponent_factor(p);
    int slot = 0;
    bool trusted = false; // the references of all rows: there are none yet
    for (int stage = 0; all.begin + stage * STAGE_KEYS < all.end; ++stage) {
        await_copies<STAGES - 2>();
        __syncthreads();
        load_stage(stage + STAGES - 1, slot == 0 ? STAGES - 1 : slot - 1);
        unsigned keys = ring + slot * STAGE_BYTES, values = keys + KeyTile::BYTES;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
#pragma unroll
        for (int n = 0; n < KEYS; n += STEP) {
            int row = group * KEYS + n, key0 = all.begin + stage * STAGE_KEYS + row;
            if (!at.concerned(key0))
                continue;
            unsigned k = KeyTile::at(keys, row, 0), v = ValueTile::at(values, row, 0);
            Scores s;
            if (MASKING != EVERYTHING && at.whole(key0)) {
                multiply_keys<true>(s, q, k, STEP);
                if (!trusted || !trust(state, s, factor)) {
                    if (trusted)
                        multiply_keys<true>(s, q, k, STEP);
                    trusted = refer(state, s, factor);
                    exponentials(state, s, factor);
                    add_sums(state, s);
                }
                add_values<true>(state, s, v, STEP);
            } else {
                int count = at.to - key0;
                multiply_keys<false>(s, q, k, count);
                look<false>(s, p, at, key0);
                trusted = refer(state, s, factor);
                exponentials(state, s, factor);
                add_sums(state, s);
                drop(s, p, at, key0);
                add_values<false>(state, s, v, count);
            }
        }
    }

    await_copies<0>();
    __syncthreads();
    if (KEY_GROUPS > 1) {
        add_key_groups(state, reinterpret_cast<float *>(memory), row_warp, group, factor);
        __syncthreads();
    }
    if (group == 0)
        write(state, shared_address(memory) + row_warp * Tile<Math, WARP_ROWS, DV>::BYTES, p, at);
}
