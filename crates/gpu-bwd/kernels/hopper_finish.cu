// dQ out of the sums that the sweeps of sm_90a left in memory: strands added up, times the scale, rounded, in the order of
// the tensor.
//
// A tile of sums lies as the threads had it: two parts, one of each warpgroup, and in a part four sums of each thread,
// then the next four. Sum e of the n-th four of thread t is row r = 16 (t / 32) + 8 (e / 2) + t % 32 / 4 of its part, column
// c = 8 n + 2 (t % 4) + e % 2. Rows are queries and columns those of Q, or the other way round (TRANSPOSED). There are
// 64 rows in a part: where a tile has 128, the second part has the others, and else other columns.
//
// A block has a tile, which goes through shared memory so that whole vectors leave.
#include "hopper_sweep.cuh"
#include "tile.cuh"

using namespace theria;

using E = THERIA_ELEMENT;
using Math = Half<E>;
constexpr int D = THERIA_D, QUERIES = THERIA_QUERIES, KEYS = 128, WARPS = 4, THREADS = WARPS * WARP, PARTS = 2;
constexpr bool INTERVALS = THERIA_INTERVALS, TRANSPOSED = THERIA_TRANSPOSED;
constexpr int ROWS = TRANSPOSED ? D : QUERIES, COLUMNS = TRANSPOSED ? QUERIES : D;
constexpr bool OWN_ROWS = ROWS == 128;
constexpr int FOURS = (OWN_ROWS ? COLUMNS : COLUMNS / 2) / 8; // of a thread in a part
static_assert(ROWS == 64 || ROWS == 128, "rows of two warpgroups, or of both");

using Staged = Tile<Math, QUERIES, D>;
using Written = Tile<Math, QUERIES / WARPS, D>;

// Where a thread's n-th four sums of a part are.
static THERIA_DEVICE int row_of(int part) {
    return (OWN_ROWS ? 64 * part : 0) + threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
}
static THERIA_DEVICE int column_of(int part, int n) {
    return (OWN_ROWS ? 0 : COLUMNS / 2 * part) + 8 * n + 2 * (threadIdx.x % 4);
}
// The first of the queries that they belong to.
static THERIA_DEVICE int query_of(int part, int n) { return TRANSPOSED ? column_of(part, n) : row_of(part); }

static THERIA_DEVICE void add(float4 &to, const float4 &x) { to.x += x.x, to.y += x.y, to.z += x.z, to.w += x.w; }

// One part of a thread, in shared memory.
static THERIA_DEVICE void stage(unsigned tile, const float4 (&x)[FOURS], int part, float scale) {
#pragma unroll
    for (int n = 0; n < FOURS; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int row = row_of(part) + 8 * half, column = column_of(part, n);
            float first = scale * (half ? x[n].z : x[n].x), second = scale * (half ? x[n].w : x[n].y);
            if (TRANSPOSED) {
#pragma unroll
                for (int c = 0; c < 2; ++c)
                    asm volatile("st.shared.u16 [%0], %1;" ::"r"(Staged::at(tile, column + c, row)),
                                 "h"(Element<E>::from_acc(c ? second : first).bits)
                                 : "memory");
            } else {
                Math::store_pair(Staged::at(tile, row, column), first, second);
            }
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, 4) kernel(const __grid_constant__ Rules all) {
    __shared__ __align__(16) unsigned char memory[Staged::BYTES];
    let_next_launch_start();
    const Forward &p = all.forward;
    Place place(p); // tiles of QUERIES
    unsigned tile = shared_address(memory);
    long long at = (long long)(place.b * all.heads + place.h) * all.strands * p.tiles + place.tile;
    const float4 *from = static_cast<const float4 *>(all.turn_rows) + at * (QUERIES * D / 4) + threadIdx.x;
    const long long further = (long long)p.tiles * (QUERIES * D / 4); // the next strand
    await_launches_ahead();
    SeenBy<KEYS, QUERIES, INTERVALS> seen(p.score, place.tile, p.score.keys_of(place.b));
    int strands = min_of(all.strands, seen.end - seen.begin); // of which somebody has written the sums
    float scale = float(p.score.scale);
    int left = p.score.t - place.tile * QUERIES; // queries that are read
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        float4 x[FOURS] = {};
        const float4 *here = from + part * FOURS * THREADS;
#pragma unroll 2
        for (int strand = 0; strand < strands; ++strand, here += further)
#pragma unroll
            for (int n = 0; n < FOURS; ++n)
                if (query_of(part, n) < left)
                    add(x[n], here[n * THREADS]);
        stage(tile, x, part, scale);
    }
    __syncthreads();
    int row = threadIdx.x / WARP * (QUERIES / WARPS), first = place.tile * QUERIES + row;
    Written::write(Staged::at(tile, row, 0), all.dq, place.b, place.h, first, p.score.t - first, p.d, p.vectors);
}
