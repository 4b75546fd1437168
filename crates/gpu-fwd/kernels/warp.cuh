// The parts of a forward kernel on tensor cores: what a warp owns and carries, its products, and what becomes
// of its scores. The including source has set the constants below.
//
// A block has ROW_WARPS × KEY_GROUPS warps. A warp owns 16·ROW_TILES queries; all warps of a key group share
// the keys of a stage. Keys come through a ring of STAGES stages in shared memory, copied asynchronously while
// the stage before is worked on: one barrier a stage.
#pragma once
#include "forward.cuh"
#include "tile.cuh"

namespace theria {

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
// Products along D that are written out one after the other. Those of f32 are many, and the compiler would
// prepare the addresses of all of them.
constexpr int DEPTH_AT_ONCE = Q_IN_REGISTERS || Math::K == 16 ? D / Math::K : 2;
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

using QueryTile = Tile<Math, BLOCK_ROWS, D>;
using KeyTile = Tile<Math, STAGE_KEYS, D>;
using ValueTile = Tile<Math, STAGE_KEYS, DV>;

// Whether O is rounded to be saved, so that there is something to keep beside it.
constexpr bool ROUNDS = sizeof(E) == 2;

// Sums of a warp's rows.
using Sums = Piece[ROW_TILES][DV / 8];

// What a warp carries along the keys. Each lane has two rows of each of its row tiles.
struct State {
    Sums out;
    float top[ROW_TILES][2]; // the score that exponents are taken against; -inf until a key is seen
    float sum[ROW_TILES][2]; // of the columns of this lane
    float taken[ROW_TILES][2]; // what rounding took from the weights of `sum`, where O is a mean with those that are left

    THERIA_DEVICE State() : out{}, sum{}, taken{} {
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
            top[r][0] = top[r][1] = -infinity();
    }
};

// Exponents of 2: S·factor - r with r = top·factor.
//
// The product is exact inside of one instruction, r is rounded. What the rounding is off stands in every
// exponent of the row, so it changes neither O nor lse: it is a factor that both have and lose. That ends where
// it is so large that 2 to its power overflows, or r itself does. From LARGE on the difference is taken first;
// it is exact where it matters, next to the maximum.
struct Reference {
    static constexpr float LARGE = 1 << 24;

    float top, rounded;

    THERIA_DEVICE Reference(float top, float factor) : top(top), rounded(top * factor) {
        if (top == -infinity())
            this->top = rounded = 0; // nothing was seen: every score is -inf, and -inf - 0 is what it should be
    }

    THERIA_DEVICE bool large() const { return !(fabsf(rounded) < LARGE); }

    THERIA_DEVICE float exponent(float s, float factor) const {
        return large() ? (s - top) * factor : fmaf(s, factor, -rounded);
    }

    // The logarithm of a sum that stands against this reference.
    THERIA_DEVICE float lse(float sum, float factor) const {
        return large() ? fmaf(top, factor * LN_2, log2_of(sum) * LN_2) : (rounded + log2_of(sum)) * LN_2;
    }
};

// A warp's queries as operands.
struct Queries {
    unsigned tile;
    Math::A kept[ROW_TILES][Q_IN_REGISTERS ? D / Math::K : 1];

    THERIA_DEVICE Math::A read(int r, int k) const {
        return Math::load_a<QueryTile::PITCH>(QueryTile::at(tile, 16 * r, k * Math::K), threadIdx.x % WARP);
    }
    // Those of a warp, out of the block's tile.
    THERIA_DEVICE Queries(unsigned block_tile, int row_warp)
        : tile(QueryTile::at(block_tile, row_warp * WARP_ROWS, 0)) {}

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

    // Those of a warp of a block that begins at `block_row`.
    THERIA_DEVICE Rows(const Forward &p, int b, int h, int block_row, int row_warp)
        : b(b), h(h), first(block_row + row_warp * WARP_ROWS), length(p.score.keys_of(b)) {
        int last = min_of(first + WARP_ROWS, p.score.t) - 1;
        if (MASKING == LENGTHS) {
            from = low = 0;
            to = high = length;
        } else {
            from = p.score.first_key(first, length);
            to = p.score.end_key(last, length);
            low = p.score.first_key(last, length);
            high = p.score.end_key(first, length);
        }
        if (first >= p.score.t)
            to = 0; // rows that are not there see nothing
    }

    // Whether a step concerns this warp, and whether all its rows see all keys of it.
    THERIA_DEVICE bool concerned(int key0) const {
        return key0 < to && (MASKING == LENGTHS || key0 + STEP > from);
    }
    THERIA_DEVICE bool whole(int key0) const { return key0 >= low && key0 + STEP <= high; }

    THERIA_DEVICE int row(int r, int half) const { return first + 16 * r + 8 * half + threadIdx.x % WARP / 4; }
};

// The keys that a row of a block sees lie in [begin, end), and `begin` starts a piece of sixteen.
struct Keys {
    int begin, end;

    THERIA_DEVICE Keys(const Forward &p, int block_row, int length) {
        int last = min_of(block_row + BLOCK_ROWS, p.score.t) - 1;
        begin = MASKING == LENGTHS ? 0 : p.score.first_key(block_row, length) & ~15;
        end = MASKING == LENGTHS ? length : p.score.end_key(last, length);
    }
};

using QueryLoader = Loader<Math, BLOCK_ROWS, D, THREADS>;

// Brings the queries of a block into shared memory.
static THERIA_DEVICE void load_queries(unsigned tile, QueryLoader load, const Forward &p, int block_row, bool vectors) {
    if (vectors)
        load.load(tile, p.q, p.score.t - block_row, p.d);
    else
        load.load_elements(tile, p.q, p.score.t - block_row, p.d);
}

// What turns S into exponents of 2. Where scores are looked at they have their scale by then.
static THERIA_DEVICE float exponent_factor(const Forward &p) {
    return MASKING == EVERYTHING ? LOG2_E : float(p.score.scale) * LOG2_E;
}

using Scores = Piece[ROW_TILES][STEP / 8];

static THERIA_DEVICE void clear(Scores &s) {
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int n = 0; n < STEP / 8; ++n)
            s[r][n] = {};
}

// S += Q·Kᵀ of the first `count` keys of a step, without scale.
template <bool WHOLE>
static THERIA_DEVICE void add_keys(Scores &s, const Queries &q, unsigned keys, int count) {
    int lane = threadIdx.x % WARP;
#pragma unroll DEPTH_AT_ONCE
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
                Math::multiply_rounded(s[r][2 * n], a[r], b[0]);
                Math::multiply_rounded(s[r][2 * n + 1], a[r], b[1]);
            }
        }
    }
}

// S = Q·Kᵀ of the first `count` keys of a step, without scale.
template <bool WHOLE>
static THERIA_DEVICE void multiply_keys(Scores &s, const Queries &q, unsigned keys, int count) {
    clear(s);
    add_keys<WHOLE>(s, q, keys, count);
}

// O += A·V of some keys: all of them, or the first `count`. MATCHING: A was loaded, and does not come from
// accumulators.
//
// The tensor cores cut the sums of f32 off where an addition would round them: each of many additions loses a
// little, always downwards. Where that matters these keys are summed on their own, and added by an addition that
// rounds.
template <bool WHOLE, bool MATCHING, int DEPTHS>
static THERIA_DEVICE void add_product(Sums &out, const Math::A (&a)[DEPTHS][ROW_TILES], unsigned values, int count) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < DV / 16; ++n) {
        Piece sum[ROW_TILES][2];
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int c = 0; c < 2; ++c)
                sum[r][c] = Math::ROUNDED_SUMS ? Piece{} : out[r][2 * n + c];
#pragma unroll
        for (int k = 0; k < DEPTHS; ++k) {
            if (!WHOLE && Math::K * k >= count)
                break;
            Math::B b[2];
            unsigned corner = ValueTile::at(values, k * Math::K, 16 * n);
            if (MATCHING)
                Math::load_b_matching<ValueTile::PITCH>(b, corner, lane);
            else
                Math::load_b_columns<ValueTile::PITCH>(b, corner, lane);
#pragma unroll
            for (int r = 0; r < ROW_TILES; ++r) {
                Math::multiply(sum[r][0], a[k][r], b[0]);
                Math::multiply(sum[r][1], a[k][r], b[1]);
            }
        }
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int c = 0; c < 8; ++c) {
                float &x = out[r][2 * n + c / 4].x[c % 4];
                x = Math::ROUNDED_SUMS ? x + sum[r][c / 4].x[c % 4] : sum[r][c / 4].x[c % 4];
            }
    }
}

// O += P·V of the first `count` keys of a step.
template <bool WHOLE>
static THERIA_DEVICE void add_values(Sums &out, const Scores &s, unsigned values, int count) {
    if constexpr (Math::ROUNDED_SUMS) {
        Math::A a[STEP / Math::K][ROW_TILES];
#pragma unroll
        for (int k = 0; k < STEP / Math::K; ++k)
#pragma unroll
            for (int r = 0; r < ROW_TILES; ++r)
                a[k][r] = Math::from_pieces(&s[r][k * Math::PIECES]);
        add_product<WHOLE, false>(out, a, values, count);
    } else {
        // One piece of P after the other: fewer registers hold operands.
#pragma unroll
        for (int k = 0; k < STEP / Math::K; ++k) {
            if (!WHOLE && Math::K * k >= count)
                break;
            Math::A a[1][ROW_TILES];
#pragma unroll
            for (int r = 0; r < ROW_TILES; ++r)
                a[0][r] = Math::from_pieces(&s[r][k * Math::PIECES]);
            add_product<true, false>(out, a, ValueTile::at(values, k * Math::K, 0), Math::K);
        }
    }
}

// Scale, bias and visibility: unless the step is WHOLE some scores may not count.
template <bool WHOLE>
static THERIA_DEVICE void look(Scores &s, const Forward &p, const Rows &at, int key0) {
    if (WHOLE && MASKING != EVERYTHING)
        return;
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int i = at.row(r, half);
            int first = MASKING == LENGTHS ? 0 : p.score.first_key(i, at.length);
            int end = MASKING == LENGTHS ? at.length : p.score.end_key(i, at.length);
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
                }
        }
}

// What sums against one reference are multiplied by to stand against another.
static THERIA_DEVICE float shrink_of(float from, float to, float factor) {
    if (to == -infinity())
        return 1; // nothing was seen
    if (from == -infinity())
        return 0;
    Reference old(from, factor), now(to, factor);
    if (old.large())
        return exp2_of(now.large() ? (from - to) * factor : fmaf(from, factor, -now.rounded));
    return exp2_of(now.large() ? fmaf(-to, factor, old.rounded) : old.rounded - now.rounded);
}

// Moves the reference of every row to the maximum of what it has seen, and scales l and O to it. Whether the
// reference of every row is there and not large: only then may it be trusted.
static THERIA_DEVICE bool refer(State &state, const Scores &s, float factor) {
    bool plain = true;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = -infinity();
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
                top = fmaxf(top, fmaxf(s[r][n].x[2 * half], s[r][n].x[2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
            top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
            top = fmaxf(top, state.top[r][half]);
            float shrink = shrink_of(state.top[r][half], top, factor);
            plain = plain && top != -infinity() && !Reference(top, factor).large();
            state.top[r][half] = top;
            state.sum[r][half] *= shrink;
            if (ROUNDS)
                state.taken[r][half] *= shrink;
#pragma unroll
            for (int n = 0; n < DV / 8; ++n) {
                state.out[r][n].x[2 * half] *= shrink;
                state.out[r][n].x[2 * half + 1] *= shrink;
            }
        }
    return __all_sync(FULL_WARP, plain);
}

// P = 2^(S·factor - r) in place of S.
static THERIA_DEVICE void exponentials(const State &state, Scores &s, float factor) {
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            Reference reference(state.top[r][c / 2], factor);
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
                s[r][n].x[c] = exp2_of(reference.exponent(s[r][n].x[c], factor));
        }
}

// The sum of two neighbours. ROUNDED: as they are multiplied.
template <bool ROUNDED> static THERIA_DEVICE float sum_of(float first, float second) {
    float2 p = {first, second};
    if (ROUNDED)
        p = Math::rounded(first, second);
    return p.x + p.y;
}

// The sum of P in a row of a step. ROUNDED: as it is multiplied.
template <bool ROUNDED> static THERIA_DEVICE float sum_of_row(const Scores &s, int r, int half) {
    float sum = 0;
#pragma unroll
    for (int n = 0; n < STEP / 8; ++n)
        sum += sum_of<ROUNDED>(s[r][n].x[2 * half], s[r][n].x[2 * half + 1]);
    return sum;
}

// l += Σ P.
template <bool ROUNDED = false>
static THERIA_DEVICE void add_sums(State &state, const Scores &s) {
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = sum_of_row<false>(s, r, half);
            state.sum[r][half] += sum;
            if (ROUNDED)
                state.taken[r][half] += sum - sum_of_row<true>(s, r, half);
        }
}

// z ∘ P: what dropout drops is zero. The factor of what it keeps comes at the end.
static THERIA_DEVICE void drop(Scores &s, const Forward &p, const Rows &at, int key0) {
    if (MASKING != EVERYTHING || p.score.threshold == 0)
        return;
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n) {
                Philox words(p.score, (key0 + 8 * n + 2 * (lane % 4)) / 4, at.row(r, half), at.h, at.b);
                if ((lane % 2 == 0 ? words.word[0] : words.word[2]) < p.score.threshold)
                    s[r][n].x[2 * half] = 0;
                if ((lane % 2 == 0 ? words.word[1] : words.word[3]) < p.score.threshold)
                    s[r][n].x[2 * half + 1] = 0;
            }
}

// The key group that finishes eight columns of O.
THERIA_DEVICE constexpr int group_of(int piece) { return piece / ((DV / 16 + KEY_GROUPS - 1) / KEY_GROUPS * 2); }

// Rows of a warp, each times its weight, by way of shared memory of theirs: whole vectors go out where they can.
// Each key group brings its columns, and writes its share of the rows. REST: what rounding takes from them.
template <bool REST = false>
static THERIA_DEVICE void put(const Sums &out, const float (&weight)[ROW_TILES][2], unsigned memory, const View &to,
                              int width, const Forward &p, const Rows &at, int group = 0) {
    using OutTile = Tile<Math, WARP_ROWS, DV>;
    constexpr int SHARE = WARP_ROWS / KEY_GROUPS;
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < DV / 8; ++n)
                if (group_of(n) == group) {
                    float2 x = {out[r][n].x[2 * half] * weight[r][half], out[r][n].x[2 * half + 1] * weight[r][half]};
                    if (REST) {
                        float2 rounded = Math::rounded(x.x, x.y);
                        x = {x.x - rounded.x, x.y - rounded.y};
                    }
                    Math::store_pair(OutTile::at(memory, 16 * r + 8 * half + lane / 4, 8 * n + 2 * (lane % 4)),
                                     x.x, x.y);
                }
    if (KEY_GROUPS == 1)
        __syncwarp();
    else
        __syncthreads();
    int first = at.first + group * SHARE;
    Tile<Math, SHARE, DV>::write(OutTile::at(memory, group * SHARE, 0), to, at.b, at.h, first, p.score.t - first, width,
                                 p.vectors);
}

// O and lse of a warp's rows, and what rounding takes from O where it is kept.
static THERIA_DEVICE void write(const State &state, unsigned memory, const Forward &p, const Rows &at, int group = 0) {
    int lane = threadIdx.x % WARP;
    float weight[ROW_TILES][2];
    float sum[ROW_TILES][2], rounded[ROW_TILES][2];
    unsigned empty = 0, lost = 0; // a bit for each row of this lane
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float &x = sum[r][half] = state.sum[r][half];
            x += __shfl_xor_sync(FULL_WARP, x, 1);
            x += __shfl_xor_sync(FULL_WARP, x, 2);
            if (ROUNDS) {
                float taken = state.taken[r][half];
                taken += __shfl_xor_sync(FULL_WARP, taken, 1);
                taken += __shfl_xor_sync(FULL_WARP, taken, 2);
                rounded[r][half] = x - taken;
            } else {
                rounded[r][half] = x;
            }
            if (x == 0 && at.row(r, half) < p.score.t)
                empty |= 1 << (2 * r + half);
        }
    // Rare, so the whole warp looks at one row after the other.
#pragma unroll 1
    for (int bit = 0; bit < 2 * ROW_TILES; ++bit) {
        unsigned rows = __ballot_sync(FULL_WARP, (empty >> bit & 1) && lane % 4 == 0);
        for (; rows; rows &= rows - 1) {
            int owner = (__ffs(rows) - 1) / 4, i = at.first + 8 * bit + owner;
            if (p.score.sees_a_key<E>(at.b, at.h, i, at.length) && lane / 4 == owner)
                lost |= 1 << bit;
        }
    }

    float factor = exponent_factor(p);
    float *lse_at = p.lse.at<float>(at.b, at.h, at.row(0, 0));
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            unsigned bit = 1 << (2 * r + half);
            float lse = Reference(state.top[r][half], factor).lse(sum[r][half], factor);
            weight[r][half] = __fdividef(float(p.score.kept), rounded[r][half]);
            if (empty & bit) {
                lse = lost & bit ? not_a_number() : -infinity();
                weight[r][half] = lost & bit ? not_a_number() : 0;
            }
            if (group == 0 && lane % 4 == 0 && at.row(r, half) < p.score.t)
                *lse_at = lse;
            lse_at += 8 * p.lse.row;
        }
    put(state.out, weight, memory, p.out, p.dv, p, at, group);
    if (p.rest.data) {
        if (KEY_GROUPS == 1)
            __syncwarp();
        else
            __syncthreads();
        put<true>(state.out, weight, memory, p.rest, p.dv, p, at, group);
    }
}

} // namespace theria
