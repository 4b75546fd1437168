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
// The reference r need not be the maximum: any r gives the same O and lse as long as nothing overflows. So a
// step first trusts the r that it finds. No score waits for a maximum then, the exponentials of the first
// columns run while the products of the last ones are under way, and O need not be scaled. If a sum shows that
// a score was far above r, nothing has been changed yet, and the step is made again with care.
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
// The largest sum of a lane's probabilities in one step that a trusted reference may give. Each of them is an
// operand of a product next, and binary16 ends at 65504.
constexpr float LIMIT = 1024;
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

// A warp's queries as operands.
struct Queries {
    unsigned tile;
    Math::A kept[ROW_TILES][Q_IN_REGISTERS ? D / Math::K : 1];

    THERIA_DEVICE Math::A read(int r, int k) const {
        return Math::load_a<QueryTile::PITCH>(QueryTile::at(tile, 16 * r, k * Math::K), threadIdx.x % WARP);
    }
    THERIA_DEVICE void keep() {
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int k = 0; k < D / Math::K; ++k)
                kept[r][k] = read(r, k);
    }
    THERIA_DEVICE Math::A at(int r, int k) const { return Q_IN_REGISTERS ? kept[r][Q_IN_REGISTERS ? k : 0] : read(r, k); }
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

using Scores = Piece[ROW_TILES][STEP / 8];

// S = Q·Kᵀ of the first `count` keys of a step, without scale.
template <bool WHOLE>
static THERIA_DEVICE void multiply_keys(Scores &s, const Queries &q, unsigned keys, int count) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int n = 0; n < STEP / 8; ++n)
            s[r][n] = {};
#pragma unroll
    for (int k = 0; k < D / Math::K; ++k) {
        Math::A a[ROW_TILES];
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
            a[r] = q.at(r, k);
#pragma unroll
        for (int n = 0; n < STEP / 16; ++n) {
            if (!WHOLE && 16 * n >= count)
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
}

// O += P·V of the first `count` keys of a step.
template <bool WHOLE>
static THERIA_DEVICE void add_values(State &state, const Scores &s, unsigned values, int count) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int k = 0; k < STEP / Math::K; ++k) {
        if (!WHOLE && Math::K * k >= count)
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

// P in place of S, where every row sees every key, against the reference as it is. Whether that was well;
// if so, l has its sums.
static THERIA_DEVICE bool trust(State &state, Scores &s, float factor) {
    float sum[ROW_TILES][2] = {};
    bool good = true;
#pragma unroll
    for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float &first = s[r][n].x[2 * half], &second = s[r][n].x[2 * half + 1];
                first = exp2_of(fmaf(first, factor, -state.reference[r][half]));
                second = exp2_of(fmaf(second, factor, -state.reference[r][half]));
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

// P in place of S with a look at every score: the reference moves to the maximum, and unless the step is WHOLE
// some scores may not count.
template <bool WHOLE>
static THERIA_DEVICE void look(State &state, Scores &s, const Forward &p, const Rows &at, int key0, float factor) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int i = at.row(r, half);
            int first = MASKING == LENGTHS ? 0 : p.score.first_key(i, at.length);
            int end = MASKING == LENGTHS ? at.length : p.score.end_key(i, at.length);
            float top = -infinity(), &reference = state.reference[r][half];
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    float &x = s[r][n].x[2 * half + c];
                    int j = key0 + 8 * n + 2 * (lane % 4) + c;
                    bool seen = WHOLE || (j < end && (MASKING == LENGTHS || j >= first));
                    if (MASKING == EVERYTHING) {
                        x *= float(p.score.scale);
                        seen = seen && i < p.score.t && p.score.lets_see(at.b, at.h, i, j);
                        if (seen && p.score.bias.data)
                            x += p.score.bias_at<E>(at.b, at.h, i, j);
                    }
                    x = seen ? x : -infinity();
                    top = fmaxf(top, x);
                }
            top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
            top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
            top = fmaxf(top * factor, reference);
            // Where nothing was seen yet every score is -inf, and -inf - 0 is what it should be.
            float base = top == -infinity() ? 0 : top, shrink = exp2_of(reference - base);
            reference = top;
            state.sum[r][half] *= shrink;
#pragma unroll
            for (int n = 0; n < DV / 8; ++n) {
                state.out[r][n].x[2 * half] *= shrink;
                state.out[r][n].x[2 * half + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n) {
                float &first = s[r][n].x[2 * half], &second = s[r][n].x[2 * half + 1];
                first = exp2_of(fmaf(first, factor, -base));
                second = exp2_of(fmaf(second, factor, -base));
                state.sum[r][half] += first + second;
                if (MASKING == EVERYTHING && p.score.threshold != 0) {
                    Philox words(p.score, (key0 + 8 * n + 2 * (lane % 4)) / 4, i, at.h, at.b);
                    if ((lane % 2 == 0 ? words.word[0] : words.word[2]) < p.score.threshold)
                        first = 0;
                    if ((lane % 2 == 0 ? words.word[1] : words.word[3]) < p.score.threshold)
                        second = 0;
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
    float sum[ROW_TILES][2];
    unsigned empty = 0, lost = 0; // a bit for each row of this lane
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float &x = sum[r][half] = state.sum[r][half];
            x += __shfl_xor_sync(FULL_WARP, x, 1);
            x += __shfl_xor_sync(FULL_WARP, x, 2);
            if (x == 0 && at.row(r, half) < p.score.t)
                empty |= 1 << (2 * r + half);
        }
#pragma unroll 1
    for (unsigned rest = empty; rest; rest &= rest - 1) {
        int bit = __ffs(rest) - 1;
        if (p.score.overflowed<E>(at.b, at.h, at.row(bit / 2, bit % 2), at.length))
            lost |= 1 << bit;
    }

    float *lse_at = p.lse.at<float>(at.b, at.h, at.row(0, 0));
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            unsigned bit = 1 << (2 * r + half);
            float lse = (state.reference[r][half] + log2_of(sum[r][half])) * LN_2;
            float factor = __fdividef(float(p.score.kept), sum[r][half]);
            if (empty & bit) {
                lse = lost & bit ? not_a_number() : -infinity();
                factor = lost & bit ? not_a_number() : 0;
            }
            if (lane % 4 == 0 && at.row(r, half) < p.score.t)
                *lse_at = lse;
            lse_at += 8 * p.lse.row;
#pragma unroll
            for (int n = 0; n < DV / 8; ++n)
                Math::store_pair(OutTile::at(memory, 16 * r + 8 * half + lane / 4, 8 * n + 2 * (lane % 4)),
                                 state.out[r][n].x[2 * half] * factor, state.out[r][n].x[2 * half + 1] * factor);
        }
    __syncwarp();
    OutTile::write(memory, p.out, at.b, at.h, at.first, p.score.t - at.first, p.dv, p.vectors);
}

extern "C" __global__ void __launch_bounds__(THREADS, THERIA_BLOCKS) kernel(const __grid_constant__ Forward p) {
    extern __shared__ __align__(16) unsigned char memory[];
    int warp = threadIdx.x / WARP, row_warp = warp % ROW_WARPS, group = warp / ROW_WARPS;
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
        at.low = p.score.first_key(last, at.length);
        at.high = p.score.end_key(at.first, at.length);
    }
    if (at.first >= p.score.t)
        at.to = 0; // rows that are not there see nothing

    bool vectors = MASKING != EVERYTHING || p.vectors;
    Loader<Math, STAGE_KEYS, D, THREADS> load_k(p.k, place.b, place.h_kv, begin);
    Loader<Math, STAGE_KEYS, DV, THREADS> load_v(p.v, place.b, place.h_kv, begin);
    auto load_stage = [&](int stage, int slot) {
        int key0 = begin + stage * STAGE_KEYS, left = at.length - key0;
        unsigned keys = ring + slot * STAGE_BYTES, values = keys + KeyTile::BYTES;
        if (key0 < end && vectors) {
            load_k.load(keys, p.k, left, p.d);
            load_v.load(values, p.v, left, p.dv);
        } else if (key0 < end) {
            load_k.load_elements(keys, p.k, left, p.d);
            load_v.load_elements(values, p.v, left, p.dv);
        }
        commit_copies();
    };

    Loader<Math, BLOCK_ROWS, D, THREADS> load_q(p.q, place.b, place.h, block_row);
    if (vectors)
        load_q.load(queries, p.q, p.score.t - block_row, p.d);
    else
        load_q.load_elements(queries, p.q, p.score.t - block_row, p.d);
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage)
        load_stage(stage, stage);

    Queries q;
    q.tile = QueryTile::at(queries, row_warp * WARP_ROWS, 0);
    if (Q_IN_REGISTERS) {
        await_copies<STAGES - 2>();
        __syncthreads();
        q.keep();
    }

    State state = {};
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
        state.reference[r][0] = state.reference[r][1] = -infinity();

    float factor = MASKING == EVERYTHING ? LOG2_E : float(p.score.scale) * LOG2_E;
    int slot = 0;
    bool first = true; // there is no reference yet
    for (int stage = 0; begin + stage * STAGE_KEYS < end; ++stage) {
        await_copies<STAGES - 2>();
        __syncthreads();
        load_stage(stage + STAGES - 1, slot == 0 ? STAGES - 1 : slot - 1);
        unsigned keys = ring + slot * STAGE_BYTES, values = keys + KeyTile::BYTES;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
#pragma unroll
        for (int n = 0; n < KEYS; n += STEP) {
            int row = group * KEYS + n, key0 = begin + stage * STAGE_KEYS + row;
            if (key0 >= at.to || (MASKING != LENGTHS && key0 + STEP <= at.from))
                continue;
            unsigned k = KeyTile::at(keys, row, 0), v = ValueTile::at(values, row, 0);
            Scores s;
            if (MASKING != EVERYTHING && key0 >= at.low && key0 + STEP <= at.high) {
                multiply_keys<true>(s, q, k, STEP);
                if (first || !trust(state, s, factor)) {
                    if (!first)
                        multiply_keys<true>(s, q, k, STEP);
                    look<true>(state, s, p, at, key0, factor);
                }
                add_values<true>(state, s, v, STEP);
            } else {
                int count = at.to - key0;
                multiply_keys<false>(s, q, k, count);
                look<false>(state, s, p, at, key0, factor);
                add_values<false>(state, s, v, count);
            }
            first = false;
        }
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
