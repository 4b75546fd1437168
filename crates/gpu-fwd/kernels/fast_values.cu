// Second half of the forward rule of `cuda-fast`: O = W·V / l, a product of matrices that lie in memory.
#include "warp.cuh"

using namespace theria;

using WeightTile = Tile<Math, BLOCK_ROWS, STAGE_KEYS>;
constexpr int STAGE_BYTES = WeightTile::BYTES + ValueTile::BYTES;

extern "C" __global__ void __launch_bounds__(THREADS, THERIA_BLOCKS) kernel(const __grid_constant__ Fast parameters) {
    extern __shared__ __align__(16) unsigned char memory[];
    let_next_launch_start();
    const Forward &p = parameters.forward;
    int row_warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Place place(p);
    int block_row = place.tile * BLOCK_ROWS;
    unsigned ring = shared_address(memory);
    await_launches_ahead();
    Rows at(p, place.b, place.h, block_row, row_warp);
    Keys all(p, block_row, at.length);
    bool vectors = MASKING != EVERYTHING || p.vectors;

    Loader<Math, STAGE_KEYS, DV, THREADS> load_v(p.v, place.b, place.h_kv, all.begin);
    auto load_stage = [&](int key0, int slot) {
        unsigned weights = ring + slot * STAGE_BYTES, values = weights + WeightTile::BYTES;
        if (key0 < all.end) {
            View from = parameters.weights;
            from.data = from.at<E>(0, 0, 0) + key0;
            Loader<Math, BLOCK_ROWS, STAGE_KEYS, THREADS> load_w(from, place.b, place.h, block_row);
            load_w.load(weights, from, p.score.t - block_row, all.end - key0);
            if (vectors)
                load_v.load(values, p.v, at.length - key0, p.dv);
            else
                load_v.load_elements(values, p.v, at.length - key0, p.dv);
        }
        commit_copies();
    };
    load_stage(all.begin, 0);

    State state;
    int slot = 0;
    for (int key0 = all.begin; key0 < all.end; key0 += STAGE_KEYS, slot ^= 1) {
        await_copies<0>();
        __syncthreads();
        load_stage(key0 + STAGE_KEYS, slot ^ 1);
        unsigned weights = WeightTile::at(ring + slot * STAGE_BYTES, row_warp * WARP_ROWS, 0);
        unsigned values = ring + slot * STAGE_BYTES + WeightTile::BYTES;
        Math::A a[KEYS / Math::K][ROW_TILES];
#pragma unroll
        for (int k = 0; k < KEYS / Math::K; ++k)
#pragma unroll
            for (int r = 0; r < ROW_TILES; ++r)
                a[k][r] = Math::load_a<WeightTile::PITCH>(WeightTile::at(weights, 16 * r, k * Math::K), lane);
        add_product<true, true>(state.out, a, values, KEYS);
    }
    await_copies<0>();
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float *row = parameters.rows.at<float>(at.b, at.h, min_of(at.row(r, half), p.score.t - 1));
            state.top[r][half] = row[0];
            state.sum[r][half] = lane % 4 == 0 ? row[1] : 0; // `write` adds the lanes of a row up
        }
    write(state, shared_address(memory) + row_warp * Tile<Math, WARP_ROWS, DV>::BYTES, p, at);
}
