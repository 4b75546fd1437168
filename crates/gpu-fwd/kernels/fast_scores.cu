// First half of the forward rule of `cuda-fast`: scores and softmax in one kernel, the weights stored.
//
//     r = max_j S_ij·log2 e,  l = Σ_j 2^(S_ij·log2 e - r)      first sweep over the keys
//     W_ij = z_ij·2^(S_ij·log2 e - r)                          second sweep: scores are multiplied again
//
// W takes memory of size T×M, in the element type; the maximum and l of each row go to the second half.
#include "warp.cuh"

using namespace theria;

// Rows of W of a warp's step: pairs of neighbours.
static THERIA_DEVICE void write_weights(const Scores &s, const Fast &p, const Rows &at, int key0) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int i = at.row(r, half);
            if (i >= p.forward.score.t)
                continue;
            E *row = p.weights.at<E>(at.b, at.h, i) + key0 + 2 * (lane % 4);
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
                if (key0 + 8 * n < p.weights.row)
                    Math::write_pair(row + 8 * n, s[r][n].x[2 * half], s[r][n].x[2 * half + 1]);
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, THERIA_BLOCKS) kernel(const __grid_constant__ Fast parameters) {
    extern __shared__ __align__(16) unsigned char memory[];
    let_next_launch_start();
    const Forward &p = parameters.forward;
    int row_warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Place place(p);
    int block_row = place.tile * BLOCK_ROWS;
    unsigned queries = shared_address(memory), ring = queries + QueryTile::BYTES;
    await_launches_ahead();
    Rows at(p, place.b, place.h, block_row, row_warp);
    Keys all(p, block_row, at.length);
    bool vectors = MASKING != EVERYTHING || p.vectors;

    load_queries(queries, QueryLoader(p.q, place.b, place.h, block_row), p, block_row, vectors);
    Queries q(queries, row_warp);
    State state;
    float factor = exponent_factor(p);
    for (int sweep = 0; sweep < 2; ++sweep) {
        Loader<Math, STAGE_KEYS, D, THREADS> load(p.k, place.b, place.h_kv, all.begin);
        auto load_stage = [&](int key0, int slot) {
            unsigned keys = ring + slot * KeyTile::BYTES;
            if (key0 < all.end && vectors)
                load.load(keys, p.k, at.length - key0, p.d);
            else if (key0 < all.end)
                load.load_elements(keys, p.k, at.length - key0, p.d);
            commit_copies();
        };
        load_stage(all.begin, 0);
        int slot = 0;
        for (int key0 = all.begin; key0 < all.end; key0 += STAGE_KEYS, slot ^= 1) {
            await_copies<0>();
            __syncthreads();
            load_stage(key0 + STAGE_KEYS, slot ^ 1);
#pragma unroll
            for (int n = 0; n < KEYS; n += STEP) {
                if (key0 + n >= all.end)
                    continue;
                // A step that no row of this warp sees has weights all the same: zeros.
                Scores s;
                multiply_keys<true>(s, q, KeyTile::at(ring + slot * KeyTile::BYTES, n, 0), STEP);
                look<false>(s, p, at, key0 + n);
                if (sweep == 0)
                    refer(state, s, factor);
                exponentials(state, s, factor);
                if (sweep == 0) {
                    add_sums(state, s);
                } else {
                    drop(s, p, at, key0 + n);
                    write_weights(s, parameters, at, key0 + n);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = state.sum[r][half];
            sum += __shfl_xor_sync(FULL_WARP, sum, 1);
            sum += __shfl_xor_sync(FULL_WARP, sum, 2);
            if (lane % 4 == 0 && at.row(r, half) < p.score.t) {
                float *row = parameters.rows.at<float>(at.b, at.h, at.row(r, half));
                row[0] = state.top[r][half];
                row[1] = sum;
            }
        }
}
