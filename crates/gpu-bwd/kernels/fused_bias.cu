// Gradient of the bias, or its tangent: dS, or dS', summed over the axes that the bias broadcasts over.
//
//     S  = scale·Q·Kᵀ + bias                    dP  = Z ∘ (G·Vᵀ)
//     S' = scale·(Q'·Kᵀ + Q·K'ᵀ) + bias'        dP' = Z ∘ (G'·Vᵀ + G·V'ᵀ)
//
//     dBias += dS          dBias' += dS'
//
// A block owns a tile of the bias, BLOCK_ROWS queries by STAGE_KEYS keys, and walks along everything that is added to it:
// batch entries and heads, and tiles of queries or keys where the bias has one row or one column. What belongs to one
// element of a tile is summed in registers; rows and columns are summed at the end. Every sum has one order.
#include "curve.cuh"

using namespace theria;

constexpr int ROW_BYTES = QueryTile::BYTES, COLUMN_BYTES = KeyTile::BYTES;
constexpr int STAGE_BYTES = 2 * ORDER * (ROW_BYTES + COLUMN_BYTES);
static_assert(STEP == KEYS && KEY_GROUPS == 1, "a stage is a tile");

// One of the tiles that are added up.
struct Turn {
    int b, h, row, key0;
};

// All of them, for a block.
struct Turns {
    int first[4], count[4]; // batch entries, heads, tiles of queries, tiles of keys
    int total;

    THERIA_DEVICE Turns(const Rules &p) {
        const Score &score = p.forward.score;
        int whole[4] = {p.batch, p.heads, (score.t + BLOCK_ROWS - 1) / BLOCK_ROWS, (score.m + STAGE_KEYS - 1) / STAGE_KEYS};
        unsigned rest = blockIdx.x;
        total = 1;
#pragma unroll
        for (int axis = 3; axis >= 0; --axis) {
            int tiles = p.extents[axis] == 1 ? 1 : whole[axis];
            first[axis] = rest % tiles;
            rest /= tiles;
            count[axis] = p.extents[axis] == 1 ? whole[axis] : 1;
            total *= count[axis];
        }
    }
    THERIA_DEVICE Turn at(int turn) const {
        int place[4];
#pragma unroll
        for (int axis = 3; axis >= 0; --axis) {
            place[axis] = first[axis] + turn % count[axis];
            turn /= count[axis];
        }
        return {place[0], place[1], place[2] * BLOCK_ROWS, place[3] * STAGE_KEYS};
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, THERIA_BLOCKS) kernel(const __grid_constant__ Rules p) {
    extern __shared__ __align__(16) unsigned char memory[];
    let_next_launch_start();
    const Forward &f = p.forward;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    unsigned ring = shared_address(memory);
    bool vectors = f.vectors;
    Turns turns(p);
    await_launches_ahead();

    auto bring = [&](int number, int slot) {
        if (number < turns.total) {
            Turn turn = turns.at(number);
            unsigned rows = ring + slot * STAGE_BYTES, columns = rows + 2 * ORDER * ROW_BYTES;
            int h_kv = f.group.quotient(turn.h), left = f.score.t - turn.row, keys_left = f.score.keys_of(turn.b) - turn.key0;
            auto bring_rows = [&](int kind, const View &from, int width) {
                if (from.data)
                    QueryLoader(from, turn.b, turn.h, turn.row).bring(rows + kind * ROW_BYTES, from, left, width, vectors);
            };
            auto bring_columns = [&](int kind, const View &from, int width) {
                using L = Loader<Math, STAGE_KEYS, D, THREADS>;
                if (from.data)
                    L(from, turn.b, h_kv, turn.key0).bring(columns + kind * COLUMN_BYTES, from, keys_left, width, vectors);
            };
            bring_rows(0, f.q, f.d);
            bring_rows(1, p.g, f.dv);
            bring_columns(0, f.k, f.d);
            bring_columns(1, f.v, f.dv);
            if (ORDER == 2) {
                bring_rows(2, p.q_tangent, f.d);
                bring_rows(3, p.g_tangent, f.dv);
                bring_columns(2, p.k_tangent, f.d);
                bring_columns(3, p.v_tangent, f.dv);
            }
        }
        commit_copies();
    };
    bring(0, 0);

    Scores sum;
    clear(sum);
    for (int number = 0; number < turns.total; ++number) {
        await_copies<0>();
        __syncthreads();
        bring(number + 1, (number + 1) % 2);
        Turn turn = turns.at(number);
        unsigned rows = ring + number % 2 * STAGE_BYTES, k = rows + 2 * ORDER * ROW_BYTES, v = k + COLUMN_BYTES;
        Queries q(rows, warp), g(rows + ROW_BYTES, warp);
        Rows at(f, turn.b, turn.h, turn.row, warp);
        Scores s, dp, s_tangent, dp_tangent;
        multiply_keys<true>(s, q, k, STEP);
        multiply_keys<true>(dp, g, v, STEP);
        if (ORDER == 2) {
            Queries q_tangent(rows + 2 * ROW_BYTES, warp), g_tangent(rows + 3 * ROW_BYTES, warp);
            clear(s_tangent);
            clear(dp_tangent);
            if (p.q_tangent.data)
                add_keys<true>(s_tangent, q_tangent, k, STEP);
            if (p.k_tangent.data)
                add_keys<true>(s_tangent, q, k + 2 * COLUMN_BYTES, STEP);
            if (p.g_tangent.data)
                add_keys<true>(dp_tangent, g_tangent, v, STEP);
            if (p.v_tangent.data)
                add_keys<true>(dp_tangent, g, v + 2 * COLUMN_BYTES, STEP);
        }
        look<false>(s, f, at, turn.key0);
        if (ORDER == 2)
            look_tangent(s_tangent, p, at, turn.key0);
        const Known *records = static_cast<const Known *>(p.statistics) + (long long)(turn.b * p.heads + turn.h) * p.padded;
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                Known row = records[at.row(r, half)];
#pragma unroll
                for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                    for (int c = 2 * half; c < 2 * half + 2; ++c) {
                        int j = turn.key0 + 8 * n + 2 * (lane % 4) + c % 2;
                        float z = float(f.score.kept);
                        if (f.score.threshold)
                            z = kept_by_dropout(f.score, turn.b, turn.h, at.row(r, half), j) ? z : 0;
                        Curved made(row, 1, s[r][n].x[c], dp[r][n].x[c] * z, s_tangent[r][n].x[c], dp_tangent[r][n].x[c] * z);
                        sum[r][n].x[c] += ORDER == 1 ? made.ds : made.ds_tangent;
                    }
            }
    }

    // Rows and columns that are one.
    bool one_row = p.extents[2] == 1, one_column = p.extents[3] == 1;
    if (one_column) {
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float all = 0;
#pragma unroll
                for (int n = 0; n < STEP / 8; ++n)
                    all += sum[r][n].x[2 * half] + sum[r][n].x[2 * half + 1];
                all += __shfl_xor_sync(FULL_WARP, all, 1);
                all += __shfl_xor_sync(FULL_WARP, all, 2);
                sum[r][0].x[2 * half] = all;
            }
    }
    float *columns = reinterpret_cast<float *>(memory); // of each warp
    if (one_row) {
        await_copies<0>();
        __syncthreads();
#pragma unroll
        for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                float all = 0;
#pragma unroll
                for (int r = 0; r < ROW_TILES; ++r)
                    all += sum[r][n].x[c] + sum[r][n].x[c + 2];
#pragma unroll
                for (int step = 4; step < WARP; step *= 2)
                    all += __shfl_xor_sync(FULL_WARP, all, step);
                if (lane < 4)
                    columns[warp * STEP + 8 * n + 2 * lane + c] = all;
            }
        __syncthreads();
    }
    int b = p.extents[0] == 1 ? 0 : turns.first[0], h = p.extents[1] == 1 ? 0 : turns.first[1];
    auto entry = [&](int i, int j, float x) {
        static_cast<E *>(p.dbias.data)[p.dbias.offset(b, h, i, j)] = Element<E>::from_acc(x);
    };
    int key0 = turns.first[3] * STAGE_KEYS;
    if (one_row) {
        for (int n = threadIdx.x; n < (one_column ? 1 : STEP); n += THREADS) {
            float all = 0;
            for (int other = 0; other < ROW_WARPS; ++other)
                all += columns[other * STEP + n];
            if (key0 + n < p.extents[3])
                entry(0, key0 + n, all);
        }
        return;
    }
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                int i = turns.first[2] * BLOCK_ROWS + warp * WARP_ROWS + 16 * r + 8 * (c / 2) + lane / 4;
                int j = key0 + 8 * n + 2 * (lane % 4) + c % 2;
                if (i < p.extents[2] && j < p.extents[3])
                    entry(i, j, sum[r][n].x[c]);
            }
}
