// Forward of `cuda-fused`, portable family: one kernel, one sweep over the keys, nothing of size T×M.
//
//     S = scale·Q·Kᵀ + bias     a tile of STEP keys, in registers
//     r = max(r, S·log2 e)      a reference for each row; moved only when a score passes it by far
//     P = 2^(S·log2 e - r)
//     l = l + Σ_j P_j,  O = O + (z ∘ P)·V
//     O / l,  lse = ln l + r·ln 2
//
// A block has ROW_WARPS × KEY_GROUPS warps. A warp owns 16·ROW_TILES queries; all warps of a key group share
// the keys of a stage. Key groups split the keys of a stage among them and are added up at the end: this is
// for few queries, where more rows would not fill the device. Keys and values come through a ring of STAGES
// stages in shared memory, copied asynchronously while the stage before is worked on: one barrier a stage.
//
// The reference r need not be the maximum: any r gives the same O and lse as long as nothing overflows. It
// follows the maximum when a score is more than 2^HEADROOM above it, so in most steps neither the lanes of a
// row have to agree on a maximum nor does O have to be scaled.
#include "forward.cuh"
#include "tile.cuh"

using namespace theria;

// Which scores need a look before they count.
enum Masking {
    LENGTHS = 0,   // keys beyond the length of their batch entry alone
    INTERVALS = 1, // causal masks and windows too
    EVERYTHING = 2 // bias, boolean mask, dropout, any scale, any alignment
};

using Math = THERIA_MATH;
using E = Math::Element;
constexpr int D = THERIA_D, DV = THERIA_DV;
constexpr int ROW_TILES = THERIA_ROW_TILES, ROW_WARPS = THERIA_ROW_WARPS, KEY_GROUPS = THERIA_KEY_GROUPS;
constexpr int KEYS = THERIA_KEYS, STEP = THERIA_STEP, STAGES = THERIA_STAGES;
constexpr bool Q_IN_REGISTERS = THERIA_Q_IN_REGISTERS;
constexpr int MASKING = THERIA_MASKING;

constexpr int THREADS = ROW_WARPS * KEY_GROUPS * WARP;
constexpr int WARP_ROWS = 16 * ROW_TILES, BLOCK_ROWS = WARP_ROWS * ROW_WARPS;
constexpr int STAGE_KEYS = KEYS * KEY_GROUPS;
constexpr float HEADROOM = 8;
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

using QueryTile = Tile<Math, BLOCK_ROWS, D>;
using KeyTile = Tile<Math, STAGE_KEYS, D>;
using ValueTile = Tile<Math, STAGE_KEYS, DV>;
constexpr int STAGE_BYTES = KeyTile::BYTES + ValueTile::BYTES;

// What a warp carries along the keys. Each lane has two rows of each of its row tiles.
struct State {
    Piece out[ROW_TILES][DV / 8];
    float reference[ROW_TILES][2]; // r; -inf until a key is seen
    float sum[ROW_TILES][2];       // of the columns of this lane
};

// Where a warp works.
struct Rows {
    int b, h;
    int first;      // its first row
    int length;     // keys of the batch entry
    int from, to;   // keys that one of its rows sees lie in [from, to)
    int low, high;  // keys in [low, high) are seen by all of them

    THERIA_DEVICE int row(int r, int half) const { return first + 16 * r + 8 * half + threadIdx.x % WARP / 4; }
};

// P, in place of the scores, and what it does to l, r and O.
template <bool MASKED>
static THERIA_DEVICE void softmax(State &state, Piece (&s)[ROW_TILES][STEP / 8], const Forward &p, const Rows &at,
                                  int key0) {
    int lane = threadIdx.x % WARP;
    float factor = MASKING == EVERYTHING ? LOG2_E : float(p.score.scale) * LOG2_E;
    float top[ROW_TILES][2];
    bool beyond = false;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int i = at.row(r, half);
            int first = MASKING == LENGTHS ? 0 : p.score.first_key(i, at.length);
            int end = MASKING == LENGTHS ? at.length : p.score.end_key(i, at.length);
            top[r][half] = -infinity();
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    float &x = s[r][n].x[2 * half + c];
                    int j = key0 + 8 * n + 2 * (lane % 4) + c;
                    if (MASKING == EVERYTHING)
                        x *= float(p.score.scale);
                    if (MASKED) {
                        bool seen = j < end && (MASKING == LENGTHS || j >= first);
                        if (MASKING == EVERYTHING) {
                            seen = seen && i < p.score.t && p.score.lets_see(at.b, at.h, i, j);
                            if (seen && p.score.bias.data)
                                x += p.score.bias_at<E>(at.b, at.h, i, j);
                        }
                        x = seen ? x : -infinity();
                    }
                    top[r][half] = fmaxf(top[r][half], x);
                }
            top[r][half] *= factor;
            beyond |= top[r][half] > state.reference[r][half] + HEADROOM;
        }

    if (__any_sync(FULL_WARP, beyond)) {
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float m = top[r][half], &reference = state.reference[r][half];
                m = fmaxf(m, __shfl_xor_sync(FULL_WARP, m, 1));
                m = fmaxf(m, __shfl_xor_sync(FULL_WARP, m, 2));
                m = fmaxf(m, reference);
                float shrink = m == -infinity() ? 1 : exp2_of(reference - m);
                reference = m;
                state.sum[r][half] *= shrink;
#pragma unroll
                for (int n = 0; n < DV / 8; ++n) {
                    state.out[r][n].x[2 * half] *= shrink;
                    state.out[r][n].x[2 * half + 1] *= shrink;
                }
            }
    }

#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float reference = state.reference[r][half];
            // Against -inf every score is -inf too, and -inf - 0 is what it should be.
            if (MASKED && reference == -infinity())
                reference = 0;
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    float &x = s[r][n].x[2 * half + c];
                    x = exp2_of(fmaf(x, factor, -reference));
                    state.sum[r][half] += x;
                }
            if (MASKING == EVERYTHING && p.score.threshold != 0) {
#pragma unroll
                for (int n = 0; n < STEP / 8; ++n) {
                    int j = key0 + 8 * n + 2 * (lane % 4);
                    Philox words(p.score, j / 4, at.row(r, half), at.h, at.b);
                    unsigned first = lane % 2 == 0 ? words.word[0] : words.word[2];
                    unsigned second = lane % 2 == 0 ? words.word[1] : words.word[3];
                    if (first < p.score.threshold)
                        s[r][n].x[2 * half] = 0;
                    if (second < p.score.threshold)
                        s[r][n].x[2 * half + 1] = 0;
                }
            }
        }
}

// STEP keys from `key0` on, which lie in the tiles at `keys` and `values`.
template <bool MASKED>
static THERIA_DEVICE void step(State &state, const Math::A (&q)[ROW_TILES][Q_IN_REGISTERS ? D / Math::K : 1],
                               unsigned queries, unsigned keys, unsigned values, const Forward &p, const Rows &at,
                               int key0) {
    int lane = threadIdx.x % WARP;
    int count = MASKED ? at.to - key0 : STEP; // pieces of sixteen keys from here on are left out
    Piece s[ROW_TILES][STEP / 8] = {};
#pragma unroll
    for (int k = 0; k < D / Math::K; ++k) {
        Math::A a[ROW_TILES];
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
            a[r] = Q_IN_REGISTERS
                       ? q[r][Q_IN_REGISTERS ? k : 0]
                       : Math::load_a<QueryTile::PITCH>(QueryTile::at(queries, 16 * r, k * Math::K), lane);
#pragma unroll
        for (int n = 0; n < STEP / 16; ++n) {
            if (MASKED && 16 * n >= count)
                break;
            Math::B b[2];
            Math::load_b_rows<KeyTile::PITCH>(b, KeyTile::at(keys, 16 * n, k * Math::K), lane);
#pragma unroll
            for (int r = 0; r < ROW_TILES; ++r) {
                Math::multiply(s[r][2 * n], a[r], b[0]);
                Math::multiply(s[r][2 * n + 1], a[r], b[1]);
            }
        }
    }

    softmax<MASKED>(state, s, p, at, key0);

#pragma unroll
    for (int k = 0; k < STEP / Math::K; ++k) {
        if (MASKED && Math::K * k >= count)
            break;
        Math::A a[ROW_TILES];
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
            a[r] = Math::from_pieces(&s[r][k * Math::PIECES]);
#pragma unroll
        for (int n = 0; n < DV / 16; ++n) {
            Math::B b[2];
            Math::load_b_columns<ValueTile::PITCH>(b, ValueTile::at(values, k * Math::K, 16 * n), lane);
#pragma unroll
            for (int r = 0; r < ROW_TILES; ++r) {
                Math::multiply(state.out[r][2 * n], a[r], b[0]);
                Math::multiply(state.out[r][2 * n + 1], a[r], b[1]);
            }
        }
    }
}

// Adds what the other key groups found to the first one. Each thread meets the one that has its place in
// every other group, by way of shared memory.
static THERIA_DEVICE void add_key_groups(State &state, float *memory, int row_warp, int group) {
    constexpr int ROW_THREADS = ROW_WARPS * WARP, ITEMS = ROW_TILES * (DV / 8 * 4 + 4);
    int thread = row_warp * WARP + threadIdx.x % WARP;
    float *mine = memory + (group - 1) * ITEMS * ROW_THREADS + thread;
    if (group > 0) {
        int at = 0;
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                mine[ROW_THREADS * at++] = state.reference[r][half];
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
                float reference = theirs[ROW_THREADS * at++], &own = state.reference[r][half];
                float m = fmaxf(reference, own), base = m == -infinity() ? 0 : m;
                shrink[half] = exp2_of(own - base);
                share[half] = exp2_of(reference - base);
                own = m;
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

// O and lse of a warp's rows, by way of shared memory of its own: whole vectors go out where they can.
static THERIA_DEVICE void write(const State &state, unsigned memory, const Forward &p, const Rows &at) {
    using OutTile = Tile<Math, WARP_ROWS, DV>;
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int i = at.row(r, half);
            float sum = state.sum[r][half];
            sum += __shfl_xor_sync(FULL_WARP, sum, 1);
            sum += __shfl_xor_sync(FULL_WARP, sum, 2);
            float lse = fmaf(state.reference[r][half], LN_2, logf(sum)), factor = float(p.score.kept) / sum;
            if (sum == 0) {
                bool lost = i < p.score.t && p.score.overflowed<E>(at.b, at.h, i, at.length);
                lse = lost ? not_a_number() : -infinity();
                factor = lost ? not_a_number() : 0;
            }
            if (i < p.score.t && lane % 4 == 0)
                *p.lse.at<float>(at.b, at.h, i) = lse;
#pragma unroll
            for (int n = 0; n < DV / 8; ++n)
                Math::store_pair(OutTile::at(memory, 16 * r + 8 * half + lane / 4, 8 * n + 2 * (lane % 4)),
                                 state.out[r][n].x[2 * half] * factor, state.out[r][n].x[2 * half + 1] * factor);
        }
    __syncwarp();
    OutTile::write(memory, p.out, at.b, at.h, at.first, p.score.t, p.dv, p.vectors);
}

extern "C" __global__ void __launch_bounds__(THREADS, THERIA_BLOCKS) kernel(const __grid_constant__ Forward p) {
    extern __shared__ __align__(16) unsigned char memory[];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, row_warp = warp % ROW_WARPS, group = warp / ROW_WARPS;
    Place place(p);
    int block_row = place.tile * BLOCK_ROWS;
    unsigned queries = shared_address(memory), ring = queries + QueryTile::BYTES;

    Rows at;
    at.b = place.b;
    at.h = place.h;
    at.first = block_row + row_warp * WARP_ROWS;
    at.length = p.score.keys_of(place.b);
    int last_of_block = min_of(block_row + BLOCK_ROWS, p.score.t) - 1;
    int last = min_of(at.first + WARP_ROWS, p.score.t) - 1;
    int begin = 0, end = at.length;
    if (MASKING == LENGTHS) {
        at.from = at.low = 0;
        at.to = at.high = at.length;
    } else {
        begin = p.score.first_key(block_row, at.length) & ~15;
        end = p.score.end_key(last_of_block, at.length);
        at.from = p.score.first_key(at.first, at.length);
        at.to = p.score.end_key(last, at.length);
        at.low = MASKING == EVERYTHING ? Score::UNBOUNDED : p.score.first_key(last, at.length);
        at.high = p.score.end_key(at.first, at.length);
    }
    if (at.first >= p.score.t)
        at.to = 0; // rows that are not there see nothing

    auto load_stage = [&](int key0, int slot) {
        unsigned keys = ring + slot * STAGE_BYTES;
        if (key0 < end) {
            KeyTile::load<THREADS>(keys, p.k, place.b, place.h_kv, key0, at.length, p.d, p.vectors);
            ValueTile::load<THREADS>(keys + KeyTile::BYTES, p.v, place.b, place.h_kv, key0, at.length, p.dv,
                                     p.vectors);
        }
        commit_copies();
    };

    QueryTile::load<THREADS>(queries, p.q, place.b, place.h, block_row, p.score.t, p.d, p.vectors);
#pragma unroll
    for (int slot = 0; slot < STAGES - 1; ++slot)
        load_stage(begin + slot * STAGE_KEYS, slot);

    queries = QueryTile::at(queries, row_warp * WARP_ROWS, 0);
    Math::A q[ROW_TILES][Q_IN_REGISTERS ? D / Math::K : 1];
    if (Q_IN_REGISTERS) {
        await_copies<STAGES - 2>();
        __syncthreads();
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int k = 0; k < D / Math::K; ++k)
                q[r][Q_IN_REGISTERS ? k : 0] =
                    Math::load_a<QueryTile::PITCH>(QueryTile::at(queries, 16 * r, k * Math::K), lane);
    }

    State state = {};
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
        state.reference[r][0] = state.reference[r][1] = -infinity();

    int slot = 0;
    for (int key0 = begin; key0 < end; key0 += STAGE_KEYS) {
        await_copies<STAGES - 2>();
        __syncthreads();
        int next = slot + STAGES - 1;
        load_stage(key0 + (STAGES - 1) * STAGE_KEYS, next >= STAGES ? next - STAGES : next);
        unsigned keys = KeyTile::at(ring + slot * STAGE_BYTES, group * KEYS, 0);
        unsigned values = ValueTile::at(ring + slot * STAGE_BYTES + KeyTile::BYTES, group * KEYS, 0);
#pragma unroll
        for (int n = 0; n < KEYS; n += STEP) {
            int first = key0 + group * KEYS + n;
            if (first >= at.to || (MASKING != LENGTHS && first + STEP <= at.from))
                continue;
            unsigned k = KeyTile::at(keys, n, 0), v = ValueTile::at(values, n, 0);
            if (first >= at.low && first + STEP <= at.high)
                step<false>(state, q, queries, k, v, p, at, first);
            else
                step<true>(state, q, queries, k, v, p, at, first);
        }
        slot = slot + 1 == STAGES ? 0 : slot + 1;
    }

    await_copies<0>();
    __syncthreads();
    if (KEY_GROUPS > 1) {
        add_key_groups(state, reinterpret_cast<float *>(memory), row_warp, group);
        __syncthreads();
    }
    if (group == 0)
        write(state, shared_address(memory) + row_warp * Tile<Math, WARP_ROWS, DV>::BYTES, p, at);
}
