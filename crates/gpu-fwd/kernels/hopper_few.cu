// Forward of `cuda-fused` on Hopper (sm_90a) for few rows with few keys: no more blocks than run at once, and all keys of a
// head in shared memory. What counts is one block's way from beginning to end, so nothing goes round: no ring, no
// warpgroup that only asks, no tile after this one.
//
// A block has 64 rows of one head, and its keys in four steps from right to left. Two warpgroups have the same rows and
// every second step each, and each adds up half of the columns of O at the end:
//
//            begin                                                       end
//              |...|-- step 3 --|-- step 2 --|-- step 1 --|-- step 0 --|        no key from `end` on is ever brought
//     group             1            0            1            0
//
//     shared memory   | Q | K: steps 0, 2, 1, 3 | V: steps 0, 1, 2, 3 | barriers |     a step without keys is zeros
//
//     tensor cores    | S |       |    S'    | P·V |        |  P'·V'        |
//     other units     |   | guess |   exp S  |     | exp S' | sums, are odd? | merge, O
//
// A row's reference need not be its maximum. It is guessed from some scores of the first step, and trusted in both: weights
// are right against any reference, as long as they fit. Sums tell whether they do. If one does not, or the reference is
// large, the warpgroup takes its steps again with care, each against the largest score that was seen.
//
// Values are asked for when the first keys are there: before, they would only be in the way of keys.
//
// Before it waits for the launches ahead a block brings near what it will read first: its queries, and its share of the
// keys of its head. Whoever writes them writes them there, so that nothing that is old is read.
#include "forward.cuh"
#include "hopper_rows.cuh"

using namespace theria;

using Math = THERIA_MATH;
using E = Math::Element;
constexpr int D = THERIA_D, KEYS = THERIA_KEYS; // of a step
constexpr bool INTERVALS = THERIA_INTERVALS;    // whether there are causal masks and windows, or lengths alone
constexpr bool REST = THERIA_REST;

constexpr int GROUPS = 2, STEPS = 4, ROWS = 64;
constexpr int THREADS = GROUPS * WARPGROUP;
constexpr int DEPTHS = D / 16, KEY_DEPTHS = KEYS / 16;
constexpr int SCORES = KEYS / 2, SUMS = D / 2; // of a thread
constexpr int KEPT = SUMS / GROUPS;            // sums that a thread adds up

static_assert(D == PANEL && STEPS == 2 * GROUPS && KEYS % 32 == 0, "as the work is divided");

// Shared memory, in bytes from its beginning.
constexpr unsigned QUERY_BYTES = ROWS * PANEL_ROW, KEY_BYTES = KEYS * PANEL_ROW;
constexpr unsigned KEYS_AT = QUERY_BYTES, VALUES_AT = KEYS_AT + STEPS * KEY_BYTES;
constexpr unsigned BARRIERS_AT = VALUES_AT + STEPS * KEY_BYTES;
// What a warpgroup sends lies where its keys were: sums that the other one keeps, then what belongs to the rows.
constexpr unsigned SENT_ROW = WARPGROUP * 16, TOPS_AT = KEPT / 4 * SENT_ROW, ROUNDED_AT = TOPS_AT + SENT_ROW;
static_assert(ROUNDED_AT + SENT_ROW <= 2 * KEY_BYTES, "keys make room");

// Barriers of warps: of all, and of one warpgroup.
constexpr int SENT = 1, JUDGED = 2;

// Scores of each row from which a thread guesses a reference.
constexpr int SAMPLE = 8;
// The largest sum of weights that a trusted reference may give a thread. No weight is larger, so its type holds it; and no
// sum with values up to 10^26 comes to the end of f32.
template <class E> constexpr float LIMIT_OF = 1ll << 40;
template <> constexpr float LIMIT_OF<f16> = 1 << 15;
constexpr float LIMIT = LIMIT_OF<E>;
constexpr float FARTHEST = 3.4e38f; // and finite

struct Given {
    TensorMap q, k, v;
    Forward forward;
};

// Where things lie in shared memory.
struct Memory {
    unsigned begin;

    THERIA_DEVICE unsigned queries() const { return begin; }
    THERIA_DEVICE unsigned keys(int step) const { return begin + KEYS_AT + (step % 2 * 2 + step / 2) * KEY_BYTES; }
    THERIA_DEVICE unsigned values(int step) const { return begin + VALUES_AT + step * KEY_BYTES; }
    // The place of this thread in what a warpgroup sends.
    THERIA_DEVICE unsigned sent(int group) const { return keys(group) + threadIdx.x % WARPGROUP * 16; }

    THERIA_DEVICE Barrier q_full() const { return {begin + BARRIERS_AT}; }
    THERIA_DEVICE Barrier k_full(int step) const { return {begin + BARRIERS_AT + 8 + 8 * step}; }
    THERIA_DEVICE Barrier v_full(int step) const { return {begin + BARRIERS_AT + 8 + 8 * (STEPS + step)}; }

    // Barriers, each for a tile that comes once, and is announced already.
    THERIA_DEVICE void make_barriers() const {
        q_full().make(1);
#pragma unroll
        for (int n = 0; n < STEPS; ++n) {
            k_full(n).make(1);
            v_full(n).make(1);
        }
        publish_barriers();
        q_full().arrive_and_expect(QUERY_BYTES);
#pragma unroll
        for (int n = 0; n < STEPS; ++n) {
            k_full(n).arrive_and_expect(KEY_BYTES);
            v_full(n).arrive_and_expect(KEY_BYTES);
        }
    }
};

// The rows of a block. Tiles of a head follow each other, the last one first.
struct Work {
    int b, h, h_kv, row; // the first row
    int late;            // tiles of the head before this one
    int length, end;     // keys of the entry, and the one after the last that a row sees

    THERIA_DEVICE explicit Work(const Forward &p) {
        unsigned pair = p.work.quotient(blockIdx.x);
        late = blockIdx.x - pair * p.work.number;
        row = (p.tiles - 1 - late) * ROWS;
        b = p.heads.quotient(pair);
        h = pair - b * p.heads.number;
        h_kv = p.group.quotient(h);
        see(p.score, p.score.m);
    }
    THERIA_DEVICE void see(const Score &score, int keys) {
        length = keys;
        end = INTERVALS ? score.end_key(min_of(row + ROWS, score.t) - 1, keys) : keys;
    }
    THERIA_DEVICE int key(int step) const { return end - (step + 1) * KEYS; }

    // Whether all rows see all keys of a step.
    THERIA_DEVICE bool is_whole(const Score &score, int step) const {
        if (!INTERVALS)
            return key(step) >= 0;
        int below = min_of(row + ROWS, score.t) - 1;
        return key(step) >= score.first_key(below, length) && key(step) + KEYS <= score.end_key(row, length);
    }
};

// What a block reads first. Blocks of a head share its keys.
static THERIA_DEVICE void call_near(const Given &given, const Work &work) {
    bring_near(given.q, 0, work.row, work.h, work.b);
    for (int step = work.late; step < STEPS && work.key(step) + KEYS > 0; step += given.forward.tiles)
        bring_near(given.k, 0, work.key(step), work.h_kv, work.b);
}

static THERIA_DEVICE void bring_keys(const Given &given, const Work &work, const Memory &memory) {
    bring(memory.queries(), given.q, memory.q_full(), 0, work.row, work.h, work.b);
#pragma unroll
    for (int n = 0; n < STEPS; ++n)
        bring(memory.keys(n), given.k, memory.k_full(n), 0, work.key(n), work.h_kv, work.b);
}
static THERIA_DEVICE void bring_values(const Given &given, const Work &work, const Memory &memory) {
#pragma unroll
    for (int n = 0; n < STEPS; ++n)
        bring(memory.values(n), given.v, memory.v_full(n), 0, work.key(n), work.h_kv, work.b);
}

// Of numbers that are neither very small nor very large, as sums of weights are.
static THERIA_DEVICE float reciprocal_of(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// As `finish`, of sums that the compiler could tell are not negative. It cannot tell that none is this large.
static THERIA_DEVICE void finish_weights(float sum) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.gt.f32 p, %0, 0f7F000000;\n"
                 "@p nanosleep.u32 0;\n"
                 "}" ::"f"(sum)
                 : "memory");
}

using Scores = float[SCORES];
using Weights = unsigned[KEY_DEPTHS][4];

// What a thread has of its two rows, eight apart, beside O.
struct Rows {
    float top[2]; // the score that exponents are taken against; -inf if no key was seen
    float sum[2] = {};
    float rounded[2] = {}; // the sum of P as it is multiplied

    THERIA_DEVICE Rows() : top{-infinity(), -infinity()} {}
};

static THERIA_DEVICE void begin_scores(Scores &s, unsigned queries, unsigned keys) {
    begin_products();
#pragma unroll
    for (int k = 0; k < DEPTHS; ++k)
        Product<KEYS, E>::add<false, false>(s, ahead(panel(queries), k * 32), ahead(panel(keys), k * 32), k != 0);
    commit_products();
}

// ADDS: to what there is.
template <bool ADDS> static THERIA_DEVICE void begin_values(float (&out)[SUMS], const Weights &weights, unsigned values) {
    begin_products();
#pragma unroll
    for (int k = 0; k < KEY_DEPTHS; ++k)
        Product<D, E>::add<true>(out, weights[k], ahead(panel(values, KEY_BYTES), k * 16 * PANEL_ROW), ADDS || k != 0);
    commit_products();
}

static THERIA_DEVICE void hold_weights(Weights &weights) {
#pragma unroll
    for (int k = 0; k < KEY_DEPTHS; ++k)
        hold(weights[k]);
}

// The largest of COUNT scores of each row that a thread has, and of its four neighbours: half of them are the first ones,
// half the last.
template <int COUNT> static THERIA_DEVICE void top_of(float (&top)[2], const Scores &s) {
    constexpr int PAIRS = COUNT / 2, SKIPPED = SCORES / 4 - PAIRS;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float x = s[2 * half], y = s[2 * half + 1];
#pragma unroll
        for (int n = 1; n < PAIRS; ++n) {
            const float *pair = s + 4 * (n < PAIRS / 2 ? n : SKIPPED + n) + 2 * half;
            x = fmaxf(x, pair[0]);
            y = fmaxf(y, pair[1]);
        }
        top[half] = fmaxf(x, y);
    }
#pragma unroll
    for (int lane = 1; lane < 4; lane *= 2)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            top[half] = fmaxf(top[half], __shfl_xor_sync(FULL_WARP, top[half], lane));
}

// What is subtracted in exponents of both steps, against the tops of the first. Where no score was seen, whatever is seen
// later weighs infinitely much. Whether a reference is large, and not to be trusted.
static THERIA_DEVICE bool guess(const float (&top)[2], float factor, float (&against)[2]) {
    bool is_odd = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        bool is_empty = top[half] == -infinity();
        against[half] = is_empty ? -FARTHEST : top[half] * factor;
        is_odd = is_odd || (!is_empty && is_large(against[half]));
    }
    return is_odd;
}

// P as an operand, and its sums.
static THERIA_DEVICE void weigh(Rows &rows, Weights &weights, const Scores &s, float factor, const float (&against)[2]) {
#pragma unroll
    for (int k = 0; k < KEY_DEPTHS; ++k)
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            const float *pair = s + 8 * k + 2 * n;
            float x = exp2_of(fmaf(pair[0], factor, -against[n % 2]));
            float y = exp2_of(fmaf(pair[1], factor, -against[n % 2]));
            rows.sum[n % 2] += x + y;
            weights[k][n] = Math::pair(x, y);
            if (REST) {
                float2 p = unpack(weights[k][n], E{});
                rows.rounded[n % 2] += p.x + p.y;
            }
        }
}

// The threads of a warpgroup meet. Whether any of them says so.
static THERIA_DEVICE bool any_says(bool it, int barrier) {
    unsigned any;
    asm volatile("{\n"
                 ".reg .pred p, q;\n"
                 "setp.ne.u32 p, %1, 0;\n"
                 "barrier.cta.red.or.pred q, %2, %3, p;\n"
                 "selp.u32 %0, 1, 0, q;\n"
                 "}"
                 : "=r"(any)
                 : "r"(unsigned(it)), "r"(barrier), "n"(WARPGROUP)
                 : "memory");
    return any;
}

// Sums of the columns that four neighbours have become those of whole rows.
static THERIA_DEVICE void gather(Rows &rows) {
#pragma unroll
    for (int lane = 1; lane < 4; lane *= 2)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            rows.sum[half] += __shfl_xor_sync(FULL_WARP, rows.sum[half], lane);
            if (REST)
                rows.rounded[half] += __shfl_xor_sync(FULL_WARP, rows.rounded[half], lane);
        }
}

// Word n of lane q becomes word q of lane n, among four neighbours.
static THERIA_DEVICE void turn(unsigned (&word)[4]) {
    bool odd = threadIdx.x & 1, late = threadIdx.x & 2;
    unsigned x = __shfl_xor_sync(FULL_WARP, odd ? word[0] : word[1], 1);
    unsigned y = __shfl_xor_sync(FULL_WARP, odd ? word[2] : word[3], 1);
    (odd ? word[0] : word[1]) = x;
    (odd ? word[2] : word[3]) = y;
    x = __shfl_xor_sync(FULL_WARP, late ? word[0] : word[2], 2);
    y = __shfl_xor_sync(FULL_WARP, late ? word[1] : word[3], 2);
    (late ? word[0] : word[2]) = x;
    (late ? word[1] : word[3]) = y;
}

static THERIA_DEVICE void write(E *to, const unsigned (&word)[4]) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3])
                 : "memory");
}

// Where this thread writes: of its first row, and of the one eight below.
struct Places {
    E *out, *rest;
    float *lse;
    int row;
    bool is_there[2];

    THERIA_DEVICE Places(const Forward &p, const Work &work, int row) : row(row) {
        int column = threadIdx.x % 4 * 8;
        out = p.out.at<E>(work.b, work.h, row) + column;
        rest = REST ? p.rest.at<E>(work.b, work.h, row) + column : nullptr;
        lse = p.lse.at<float>(work.b, work.h, row);
        is_there[0] = row < p.score.t;
        is_there[1] = row + 8 < p.score.t;
    }
};

// The columns of O that a warpgroup keeps, of both. GROUP is known so that registers are.
template <int GROUP>
static THERIA_DEVICE void merge(const Forward &p, const Work &work, const Memory &memory, const Places &places, const Rows &own,
                                const float (&out)[SUMS], float factor) {
    constexpr int MINE = KEPT * GROUP, OTHERS = KEPT - MINE;
    unsigned to = memory.sent(GROUP), from = memory.sent(1 - GROUP);
    store(to + TOPS_AT, own.top[0], own.top[1], own.sum[0], own.sum[1]);
    if (REST)
        store(to + ROUNDED_AT, own.rounded[0], own.rounded[1], 0, 0);
#pragma unroll
    for (int n = 0; n < KEPT / 4; ++n) {
        const float *x = out + OTHERS + 4 * n;
        store(to + n * SENT_ROW, x[0], x[1], x[2], x[3]);
    }
    meet(SENT, THREADS);
    float4 sums[KEPT / 4], tops = load(from + TOPS_AT), rounded = REST ? load(from + ROUNDED_AT) : float4{};
#pragma unroll
    for (int n = 0; n < KEPT / 4; ++n)
        sums[n] = load(from + n * SENT_ROW);

    float their_top[2] = {tops.x, tops.y}, their_sum[2] = {tops.z, tops.w}, their_rounded[2] = {rounded.x, rounded.y};
    float top[2], against[2], sum[2], mine[2], theirs[2];
    bool is_plain = true;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        top[half] = fmaxf(own.top[half], their_top[half]);
        against[half] = __fmul_rn(top[half], factor);
        mine[half] = exp2_of(__fmul_rn(own.top[half], factor) - against[half]);
        theirs[half] = exp2_of(__fmul_rn(their_top[half], factor) - against[half]);
        sum[half] = own.sum[half] * mine[half] + their_sum[half] * theirs[half];
        float weight = reciprocal_of(REST ? own.rounded[half] * mine[half] + their_rounded[half] * theirs[half] : sum[half]);
        mine[half] *= weight;
        theirs[half] *= weight;
        is_plain = is_plain && !is_large(against[half]);
    }
    float lse = (against[GROUP] + log2_of(sum[GROUP])) * LN_2;
    if (__any_sync(FULL_WARP, !is_plain)) {
        // Large references, and rows that see nothing or whose scores have all overflowed.
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            mine[half] = shrink_of(own.top[half], top[half], factor);
            theirs[half] = shrink_of(their_top[half], top[half], factor);
            sum[half] = own.sum[half] * mine[half] + their_sum[half] * theirs[half];
            float whole = REST ? own.rounded[half] * mine[half] + their_rounded[half] * theirs[half] : sum[half];
            float weight = sum[half] == 0 ? 0 : reciprocal_of(whole);
            int i = places.row + 8 * half;
            bool sees = INTERVALS ? p.score.first_key(i, work.length) < p.score.end_key(i, work.length) : work.length > 0;
            bool is_lost = sum[half] == 0 && sees;
            mine[half] = is_lost ? not_a_number() : mine[half] * weight;
            theirs[half] *= weight;
            if (half == GROUP)
                lse = is_lost ? not_a_number() : lse_of(top[half], sum[half], factor);
        }
    }
    if (threadIdx.x % 4 == 0 && places.is_there[GROUP])
        places.lse[8 * GROUP] = lse;
    unsigned words[2][4], rests[2][4];
#pragma unroll
    for (int n = 0; n < KEPT / 4; ++n) {
        float sent[4] = {sums[n].x, sums[n].y, sums[n].z, sums[n].w};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float *x = out + MINE + 4 * n + 2 * half;
            float first = fmaf(x[0], mine[half], sent[2 * half] * theirs[half]);
            float second = fmaf(x[1], mine[half], sent[2 * half + 1] * theirs[half]);
            words[half][n] = Math::pair(first, second);
            if (REST) {
                float2 o = unpack(words[half][n], E{});
                rests[half][n] = Math::pair(first - o.x, second - o.y);
            }
        }
    }
    // Eight columns of one row lie beside each other in a lane: sixteen bytes.
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        turn(words[half]);
        if (REST)
            turn(rests[half]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
        if (places.is_there[half]) {
            write(places.out + 8 * half * p.out.row + D / GROUPS * GROUP, words[half]);
            if (REST)
                write(places.rest + 8 * half * p.rest.row + D / GROUPS * GROUP, rests[half]);
        }
}

// Both steps again, against the largest score that was seen.
static THERIA_DEVICE void take_care(const Forward &p, const Work &work, const Memory &memory, const Places &places, int group,
                                    float factor, Rows &rows, float (&out)[SUMS]) {
    rows = Rows();
#pragma unroll
    for (int n = 0; n < SUMS; ++n)
        out[n] = 0;
#pragma unroll 1
    for (int step = group; step < STEPS; step += GROUPS) {
        Scores s;
        Weights weights;
        float top[2], against[2], shrink[2];
        begin_scores(s, memory.queries(), memory.keys(step));
        await_products<0>();
        hold(s);
        if (!work.is_whole(p.score, step))
            look<INTERVALS>(s, p.score, places.row, work.key(step), work.length);
        top_of<SCORES / 2>(top, s);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            top[half] = fmaxf(rows.top[half], top[half]);
            shrink[half] = shrink_of(rows.top[half], top[half], factor);
            rows.top[half] = top[half];
            rows.sum[half] *= shrink[half];
            rows.rounded[half] *= shrink[half];
            against[half] = reference(top[half], factor);
        }
        lower(s, top, against);
#pragma unroll
        for (int n = 0; n < SUMS; ++n)
            out[n] *= shrink[n / 2 % 2];
        weigh(rows, weights, s, factor, against);
        hold_weights(weights);
        hold(out);
        begin_values<true>(out, weights, memory.values(step));
        await_products<0>();
        hold(out);
        hold_weights(weights);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Given given) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    let_next_launch_start();
    const Forward &p = given.forward;
    Memory memory{shared_address(bytes)};
    // Each of the first warps has one thing to do, so that none is waited for long.
    if (threadIdx.x / WARP == 1 && is_elected())
        memory.make_barriers();
    if (threadIdx.x / WARP == 2 && is_elected()) {
        prefetch(given.q);
        prefetch(given.k);
        prefetch(given.v);
    }
    Work work(p);
    __syncthreads();
    if (threadIdx.x / WARP == 2 && is_elected() && !p.score.lengths)
        call_near(given, work);
    await_launches_ahead();
    if (p.score.lengths)
        work.see(p.score, p.score.keys_of(work.b));
    if (threadIdx.x < WARP && is_elected())
        bring_keys(given, work, memory);
    __syncwarp();

    int group = uniform(threadIdx.x / WARPGROUP), warp = uniform(threadIdx.x % WARPGROUP / WARP);
    Places places(p, work, work.row + warp * 16 + threadIdx.x % WARP / 4);
    float factor = float(p.score.scale) * LOG2_E;
    Rows rows;
    Scores s, next;
    Weights weights, next_weights;
    float out[SUMS], against[2];

    memory.q_full().await(0);
    memory.k_full(group).await(0);
    begin_scores(s, memory.queries(), memory.keys(group));
    if (threadIdx.x < WARP && is_elected())
        bring_values(given, work, memory);
    __syncwarp();
    await_products<0>();
    hold(s);
    if (work.is_whole(p.score, group)) {
        top_of<SAMPLE>(rows.top, s);
    } else {
        look<INTERVALS>(s, p.score, places.row, work.key(group), work.length);
        top_of<SCORES / 2>(rows.top, s);
    }
    bool is_odd = guess(rows.top, factor, against);

    memory.k_full(group + 2).await(0);
    begin_scores(next, memory.queries(), memory.keys(group + 2));
    weigh(rows, weights, s, factor, against);
    finish_weights(rows.sum[0] + rows.sum[1]);
    await_products<0>();
    hold(next);
    hold_weights(weights);
    if (!work.is_whole(p.score, group + 2))
        look<INTERVALS>(next, p.score, places.row, work.key(group + 2), work.length);

    memory.v_full(group).await(0);
    begin_values<false>(out, weights, memory.values(group));
    memory.v_full(group + 2).await(0);
    weigh(rows, next_weights, next, factor, against);
    finish_weights(rows.sum[0] + rows.sum[1]);
    hold_weights(next_weights);
    await_products<0>();
    hold(out);
    hold_weights(weights);

    begin_values<true>(out, next_weights, memory.values(group + 2));
    is_odd = is_odd || !(rows.sum[0] <= LIMIT && rows.sum[1] <= LIMIT);
    gather(rows);
    is_odd = any_says(is_odd, JUDGED + group);
    await_products<0>();
    hold(out);
    hold_weights(next_weights);
    if (is_odd) {
        take_care(p, work, memory, places, group, factor, rows, out);
        gather(rows);
        meet(JUDGED + group, WARPGROUP);
    }
    // Nobody of the warpgroup reads its keys any more.
    if (group == 0)
        merge<0>(p, work, memory, places, rows, out, factor);
    else
        merge<1>(p, work, memory, places, rows, out, factor);
}
