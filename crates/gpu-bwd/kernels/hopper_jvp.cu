// JVP of `cuda-fused`, family of sm_90a: one sweep over the keys.
//
//     S  = scale·Q·Kᵀ                       P = exp(S - lse)
//     S' = scale·(Q'·Kᵀ + Q·K'ᵀ)            H = P ∘ (S' - c)
//     A += H·V + P·V'                       Σ += rowsum(P)        m += rowsum(H)
//
//     μ = c + rowsum(H)                     O' = A / Σ - (m / Σ)·(O + rest)
//
// What c is, and why any c will do, stands in fused_jvp.cu. Here Σ and m are sums of the weights as they were rounded
// to be multiplied: what V has in common over the keys leaves O' then, whatever rounding did. They cost no additions:
// V has a column more, which is one for the products with H, and V' has another, which is one for those with P. The sum
// of H that μ is made of is that of H before it was rounded: a row of few keys would have the rounding of a few weights
// in its μ, and the second order in all its weights.
//
// Was c good enough? What is subtracted in the end is known then, and so is the largest weight of a row: few weights
// make the rounding of H show. Tiles with a row for which c was not good are noted, and swept once more when the block
// has done all others, with c = μ.
//
// The second order takes δ' from O', and P·δ' is to leave nothing of dS' where its terms cancel, as they do where two
// keys have about half of a row each. What rounding P and H has left in O' stands alone then. So tiles with a large
// weight are noted, too, and a noted tile goes over its keys twice: A gets the products with P and H as they are
// rounded, and then those with what rounding took from them.
//
// A block works on tiles of 128 queries, one after the other: 64 of them for each of two warpgroups that multiply. A
// third one brings operands.
//
//                 Q, Q' of a tile          K, K' of a step       V, V' of a step
//     barriers    queries_full             keys_full             values_full             bytes have come
//                 queries_free             keys_free             values_free             all of it has been read
//
// A warpgroup that multiplies, at step n; on the right what runs in the meantime:
//
//     await keys of n + 1, and the turn                |
//     begin S, then S' of n + 1                        |
//     await values of n, begin A += H·V + P·V' of n    |  S of n + 1
//     pass the turn                                    |
//     P of n + 1                                       |  S' of n + 1
//     free the keys; H of n + 1                        |  A
//     free the values; round P and H                   |
//
// Turns, at a width of 64: one warpgroup begins all its products before the other one does, so that one of them has
// products to do while the other one has exponents. At 128 products take longer, and each goes at its own pace over the
// steps that concern its own queries.
//
// In the end O and its rest come into the places of Q and Q', and O' and its rest leave from there.
#include "hopper.cuh"
#include "rules.cuh"

using namespace theria;

using E = THERIA_ELEMENT;
constexpr int D = THERIA_D, KEYS = THERIA_KEYS;
constexpr int CONSUMERS = 2, STAGES = 2;
constexpr bool TURNS = D == 64;
constexpr int THREADS = WARPGROUP * (1 + CONSUMERS);
constexpr int OWN_ROWS = 64, ROWS = OWN_ROWS * CONSUMERS; // queries of a warpgroup, and of a block
constexpr int PANELS = D / PANEL;
constexpr int PRODUCER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
constexpr float LOG2_E = 1.4426950408889634f;
// From here on lse is subtracted before scores are turned into exponents of 2: see `Reference` in warp.cuh.
constexpr float LARGE = 1 << 24;
// What is summed with another c than the last may be this part of a row's weight: less than what rounding takes, though
// one c may be a hundred from the next.
constexpr float NEGLIGIBLE = 1.0f / (1 << 18);
// Rounding of a weight from here on shows in δ'.
constexpr float LARGE_WEIGHT = 1.0f / 3;
// Tiles of a block that are noted, each by a bit. Tiles that share one are swept again together.
constexpr unsigned NOTES = 1024;
static_assert(PANELS == 1 || PANELS == 2, "widths that are served");

struct alignas(64) Parameters {
    TensorMap q, k, v, q_tangent, k_tangent, v_tangent;
    TensorMap out, rest; // saved by the forward
    TensorMap out_tangent, rest_tangent;
    Rules rules;
};

// Where things lie in shared memory.
struct Memory {
    static constexpr unsigned QUERY_PANEL = ROWS * PANEL_ROW, KEY_PANEL = KEYS * PANEL_ROW;
    static constexpr unsigned QUERIES = PANELS * QUERY_PANEL, TILE = PANELS * KEY_PANEL;
    static constexpr unsigned UNIT = 16 * PANEL_ROW; // sixteen rows of a column that is one
    unsigned base;

    THERIA_DEVICE unsigned queries() const { return base; }
    THERIA_DEVICE unsigned queries_tangent() const { return base + QUERIES; }
    THERIA_DEVICE unsigned keys(int slot) const { return base + 2 * QUERIES + slot * 2 * TILE; }
    THERIA_DEVICE unsigned values(int slot) const { return keys(STAGES) + slot * 2 * TILE; }
    THERIA_DEVICE unsigned units() const { return values(STAGES); }
    THERIA_DEVICE Barrier barrier(int n) const { return {units() + 2 * UNIT + 8 * n}; }
    THERIA_DEVICE Barrier queries_full(int consumer) const { return barrier(consumer); }
    THERIA_DEVICE Barrier queries_free(int consumer) const { return barrier(CONSUMERS + consumer); }
    THERIA_DEVICE Barrier saved_full(int consumer) const { return barrier(2 * CONSUMERS + consumer); }
    THERIA_DEVICE Barrier keys_full(int slot) const { return barrier(3 * CONSUMERS + slot); }
    THERIA_DEVICE Barrier keys_free(int slot) const { return barrier(3 * CONSUMERS + STAGES + slot); }
    THERIA_DEVICE Barrier values_full(int slot) const { return barrier(3 * CONSUMERS + 2 * STAGES + slot); }
    THERIA_DEVICE Barrier values_free(int slot) const { return barrier(3 * CONSUMERS + 3 * STAGES + slot); }
    THERIA_DEVICE Barrier all_noted() const { return barrier(3 * CONSUMERS + 4 * STAGES); }
    THERIA_DEVICE unsigned notes() const { return units() + 2 * UNIT + 128; }
    THERIA_DEVICE void note(unsigned tile) const {
        unsigned bit = tile % NOTES;
        asm volatile("red.shared.or.b32 [%0], %1;" ::"r"(notes() + bit / 32 * 4), "r"(1u << bit % 32) : "memory");
    }
    THERIA_DEVICE bool is_noted(unsigned tile) const {
        unsigned word, bit = tile % NOTES;
        asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(notes() + bit / 32 * 4) : "memory");
        return word >> bit % 32 & 1;
    }
};

// Slots of operands, one after the other. Every tile of queries begins at slot 0, which the compiler knows then: so
// each slot has a parity of its own.
struct Ring {
    int index = 0;
    unsigned parities = 0; // of the barriers that wait for data

    THERIA_DEVICE unsigned parity() const { return parities >> index & 1; }
    THERIA_DEVICE void advance() {
        parities ^= 1u << index;
        index = index + 1 == STAGES ? 0 : index + 1;
    }
};

// Makes barriers, and the columns that are one: the first of eight for V, the second for V'. The chunk of eight columns
// lies where the order of a tile has it.
static THERIA_DEVICE void prepare(const Memory &memory) {
    if (threadIdx.x == 0) {
        for (int n = 0; n < CONSUMERS; ++n) {
            memory.queries_full(n).make(1);
            memory.queries_free(n).make(1);
            memory.saved_full(n).make(1);
        }
        for (int slot = 0; slot < STAGES; ++slot) {
            memory.keys_full(slot).make(1);
            memory.values_full(slot).make(1);
            memory.keys_free(slot).make(CONSUMERS * WARPGROUP / WARP);
            memory.values_free(slot).make(CONSUMERS * WARPGROUP / WARP);
        }
        memory.all_noted().make(CONSUMERS * WARPGROUP / WARP);
        publish_barriers();
    }
    if (threadIdx.x < NOTES / 32)
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(memory.notes() + 4 * threadIdx.x), "r"(0) : "memory");
    unsigned one = unsigned(Element<E>::from_acc(1).bits);
    for (unsigned n = threadIdx.x; n < 2 * Memory::UNIT / 4; n += THREADS) {
        unsigned unit = n / (Memory::UNIT / 4), row = n / (PANEL_ROW / 4) % 16, word = n % (PANEL_ROW / 4);
        unsigned x = word == row % 8 * 4 ? (unit == 0 ? one : one << 16) : 0;
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(memory.units() + 4 * n), "r"(x) : "memory");
    }
    publish_stores();
}

// Where a block works, and which keys its queries see.
struct Work {
    int turn;              // sweeps of this block before this one
    bool again;            // whether c is μ, and the keys are gone over twice: the second time for what rounding takes
    int b, h, h_kv, first; // the first query
    int length;            // keys of the batch entry
    int begin, count;      // the first key that one of them sees, and steps from there until all are done
    int steps;             // of the sweep

    // Tile `n` in the order of `Place`.
    THERIA_DEVICE Work(const Forward &p, unsigned n, int turn, bool again) : turn(turn), again(again) {
        unsigned section = p.work.quotient(n), rest = n - section * p.work.number;
        unsigned late = p.section.quotient(rest), pair = section * p.section.number + rest - late * p.section.number;
        first = (p.tiles - 1 - late) * ROWS;
        b = p.heads.quotient(pair);
        h = pair - b * p.heads.number;
        h_kv = p.group.quotient(h);
        length = p.score.keys_of(b);
        begin = p.score.first_key(first, length);
        count = steps_to(p.score.end_key(min_of(first + ROWS, p.score.t) - 1, length));
        steps = again ? 2 * count : count;
    }
    // Steps until all keys before `end` are done.
    THERIA_DEVICE int steps_to(int end) const { return end > begin ? (end - begin + KEYS - 1) / KEYS : 0; }
    THERIA_DEVICE int key(int step) const { return begin + (step < count ? step : step - count) * KEYS; }
};

// ---- The warpgroup that brings operands: one thread of it. ----

static THERIA_DEVICE void bring_tile(unsigned to, unsigned panel_bytes, const TensorMap &map, Barrier full, int row,
                                     int h, int b) {
#pragma unroll
    for (int n = 0; n < PANELS; ++n)
        bring(to + n * panel_bytes, map, full, n * PANEL, row, h, b);
}

static THERIA_DEVICE void bring_queries(const Parameters &all, const Memory &memory, const Work &work) {
#pragma unroll
    for (int n = 0; n < CONSUMERS; ++n) {
        Barrier full = memory.queries_full(n);
        unsigned to = memory.queries() + n * OWN_ROWS * PANEL_ROW;
        int row = work.first + n * OWN_ROWS;
        memory.queries_free(n).await((work.turn & 1) ^ 1);
        full.arrive_and_expect(2 * PANELS * OWN_ROWS * PANEL_ROW);
        bring_tile(to, Memory::QUERY_PANEL, all.q, full, row, work.h, work.b);
        bring_tile(to + Memory::QUERIES, Memory::QUERY_PANEL, all.q_tangent, full, row, work.h, work.b);
    }
    for (int n = 0; n < CONSUMERS * PANELS; ++n) {
        int row = work.first + n / PANELS * OWN_ROWS, column = n % PANELS * PANEL;
        bring_near(all.out, column, row, work.h, work.b);
        if (all.rules.forward.rest.data)
            bring_near(all.rest, column, row, work.h, work.b);
    }
}

static THERIA_DEVICE void produce(const Parameters &all, const Memory &memory, const Work &work, Ring &at) {
    // Keys and values of the next tile come while the last one is still being finished, in the place of Q.
    at.index = 0;
    int queries_at = work.turn == 0 ? 0 : min_of(STAGES, work.steps);
    for (int step = 0; step < work.steps; ++step) {
        if (step == queries_at)
            bring_queries(all, memory, work);
        Barrier keys = memory.keys_full(at.index), values = memory.values_full(at.index);
        unsigned k = memory.keys(at.index), v = memory.values(at.index);
        memory.keys_free(at.index).await(at.parity() ^ 1);
        keys.arrive_and_expect(2 * Memory::TILE);
        bring_tile(k, Memory::KEY_PANEL, all.k, keys, work.key(step), work.h_kv, work.b);
        bring_tile(k + Memory::TILE, Memory::KEY_PANEL, all.k_tangent, keys, work.key(step), work.h_kv, work.b);
        memory.values_free(at.index).await(at.parity() ^ 1);
        values.arrive_and_expect(2 * Memory::TILE);
        bring_tile(v, Memory::KEY_PANEL, all.v, values, work.key(step), work.h_kv, work.b);
        bring_tile(v + Memory::TILE, Memory::KEY_PANEL, all.v_tangent, values, work.key(step), work.h_kv, work.b);
        at.advance();
    }
    if (queries_at >= work.steps)
        bring_queries(all, memory, work);
}

// ---- The warpgroups that multiply. ----

using Scores = float[KEYS / 2];
using Weights = unsigned[KEYS / 16][4];

// A and, in columns of their own behind it, m and Σ.
struct Sums {
    float first[32]; // of the first of two panels
    float last[36];  // of the last one

    THERIA_DEVICE Sums() : first{}, last{} {}
    THERIA_DEVICE void hold_all() {
        if (PANELS == 2)
            hold(first);
        hold(last);
    }
    // Element c of the piece of columns 8 n and what follows.
    THERIA_DEVICE float at(int n, int c) const {
        constexpr int BEFORE = 8 * (PANELS - 1);
        return n < BEFORE ? first[4 * n + c] : last[4 * (n - BEFORE) + c];
    }
};

// Queries of this thread: row 16 warp + lane / 4 of its warpgroup's, and eight further.
struct Own {
    const Parameters &all;
    const Memory &memory;
    const Work &work;
    int consumer; // which of the warpgroups
    int row;      // the first of the two
    int from, to; // steps that concern this warpgroup
    int low, high; // keys that all its queries see
    float scale, factor; // exponent of 2: S·factor - origin
    float origin[2];
    float centre[2];     // c
    float before[2];     // weight that was seen while c was not settled
    float moved[2];      // this thread's part of rowsum(H)
    unsigned top;        // the largest weights of both rows, as they were rounded: a pair
    bool large, settled; // the same in all lanes

    THERIA_DEVICE Own(const Parameters &all, const Memory &memory, const Work &work, int consumer)
        : all(all), memory(memory), work(work), consumer(consumer), centre{}, before{}, moved{},
          top(0), large(false), settled(false) {
        const Score &score = all.rules.forward.score;
        int first = work.first + consumer * OWN_ROWS, last = min_of(first + OWN_ROWS, score.t) - 1;
        row = first + threadIdx.x % WARPGROUP / WARP * 16 + threadIdx.x % WARP / 4;
        bool there = first < score.t; // what becomes of queries that do not exist does not matter
        bool all_steps = TURNS || (work.again && there);
        from = all_steps || !there ? 0 : min_of((score.first_key(first, work.length) - work.begin) / KEYS, work.steps);
        to = all_steps ? work.steps : !there ? 0 : max_of(from, work.steps_to(score.end_key(last, work.length)));
        low = there ? score.first_key(last, work.length) : 0;
        high = there ? score.end_key(first, work.length) : Score::UNBOUNDED;
        scale = float(score.scale);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float lse = this->lse(half);
            bool blind = lse == -infinity();
            lse = blind ? 0 : lse;
            origin[half] = lse * LOG2_E;
            if (work.again && row + 8 * half < score.t)
                centre[half] = *all.rules.mu.at<float>(work.b, work.h, row + 8 * half);
            before[half] = blind || work.again ? infinity() : 0; // infinity: nothing is to be settled
            large = large || !(fabsf(origin[half]) < LARGE);
            if (row + 8 * half >= score.t)
                origin[half] = infinity(); // no weight, which would seem a large one
        }
        large = __any_sync(FULL_WARP, large);
        factor = large ? LOG2_E : scale * LOG2_E;
        if (large)
            origin[0] = origin[1] = 0;
    }
    // -inf where there is no such query.
    THERIA_DEVICE float lse(int half) const {
        const Forward &p = all.rules.forward;
        return row + 8 * half < p.score.t ? *p.lse.at<float>(work.b, work.h, row + 8 * half) : -infinity();
    }
    THERIA_DEVICE bool whole(int step) const { return work.key(step) >= low && work.key(step) + KEYS <= high; }
};

// The first column of this thread is this, and c of piece n is 8 n + c further.
static THERIA_DEVICE int column() { return 2 * (threadIdx.x % 4); }

static THERIA_DEVICE float sum_of_row(float x) {
    x += __shfl_xor_sync(FULL_WARP, x, 1);
    return x + __shfl_xor_sync(FULL_WARP, x, 2);
}

// Puts `instead` where a query does not see a key.
static THERIA_DEVICE void look(Scores &s, const Own &own, int step, float instead) {
    const Score &score = own.all.rules.forward.score;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int start = own.work.key(step) + column(), row = own.row + 8 * half;
        int first = score.first_key(row, own.work.length) - start, end = score.end_key(row, own.work.length) - start;
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c)
                if (8 * n + c < first || 8 * n + c >= end)
                    s[4 * n + 2 * half + c] = instead;
    }
}

// P in place of S.
static THERIA_DEVICE void weigh(Scores &s, const Own &own, int step) {
    if (!own.whole(step))
        look(s, own, step, -infinity());
    if (own.large)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float lse = own.lse(half);
            lse = lse == -infinity() ? 0 : lse;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int c = 2 * half; c < 2 * half + 2; ++c)
                    s[4 * n + c] = fmaf(s[4 * n + c], own.scale, -lse);
        }
#pragma unroll
    for (int n = 0; n < KEYS / 2; ++n)
        s[n] = exp2_of(fmaf(s[n], own.factor, -own.origin[n / 2 % 2]));
}

// Finds c of rows that have next to no weight yet: the mean of S' over the keys of this step.
static THERIA_DEVICE void settle(Own &own, const Scores &p, const Scores &s_tangent) {
    bool settled = true;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float here = 0, moved = 0;
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int c = 2 * half; c < 2 * half + 2; ++c) {
                here += p[4 * n + c];
                moved += p[4 * n + c] * s_tangent[4 * n + c];
            }
        here = sum_of_row(here);
        moved = sum_of_row(moved);
        if (own.before[half] < NEGLIGIBLE) {
            if (here > own.before[half])
                own.centre[half] = __fdividef(moved, here) * own.scale;
            own.before[half] += here;
        }
        settled = settled && !(own.before[half] < NEGLIGIBLE);
    }
    own.settled = __all_sync(FULL_WARP, settled);
}

// H in place of S'.
static THERIA_DEVICE void move(Own &own, const Scores &p, Scores &s_tangent, int step) {
    if (!own.whole(step))
        look(s_tangent, own, step, 0);
    if (!own.settled)
        settle(own, p, s_tangent);
#pragma unroll
    for (int n = 0; n < KEYS / 2; n += 2) {
#pragma unroll
        for (int c = n; c < n + 2; ++c)
            s_tangent[c] = p[c] * fmaf(s_tangent[c], own.scale, -own.centre[n / 2 % 2]);
        own.moved[n / 2 % 2] += s_tangent[n] + s_tangent[n + 1];
    }
}

// Rounded, as operands.
static THERIA_DEVICE void round_to(Weights &to, const Scores &s) {
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k)
#pragma unroll
        for (int n = 0; n < 4; ++n)
            to[k][n] = Half<E>::pair(s[8 * k + 2 * n], s[8 * k + 2 * n + 1]);
}

// What rounding takes, where it is.
static THERIA_DEVICE void keep_rests(Scores &s) {
#pragma unroll
    for (int n = 0; n < KEYS / 2; ++n)
        s[n] -= Element<E>::to_acc(Element<E>::from_acc(s[n]));
}

// The larger ones of two pairs.
template <class X> THERIA_DEVICE unsigned larger(unsigned a, unsigned b);
template <> THERIA_DEVICE unsigned larger<bf16>(unsigned a, unsigned b) {
    asm("max.bf16x2 %0, %0, %1;" : "+r"(a) : "r"(b));
    return a;
}
template <> THERIA_DEVICE unsigned larger<f16>(unsigned a, unsigned b) {
    asm("max.f16x2 %0, %0, %1;" : "+r"(a) : "r"(b));
    return a;
}
static THERIA_DEVICE void keep_top(Own &own, const Weights &p) {
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k)
#pragma unroll
        for (int n = 0; n < 4; ++n)
            own.top = larger<E>(own.top, p[k][n]);
}

// x (+)= A·Bᵀ of the queries at `a` and the keys at `b`.
static THERIA_DEVICE void multiply_keys(Scores &x, unsigned a, unsigned b, bool adds) {
    unsigned long long left = panel(a), right = panel(b);
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
        Product<KEYS, E>::add<false, false>(x, ahead(left, k / 4 * Memory::QUERY_PANEL + k % 4 * 32),
                                            ahead(right, k / 4 * Memory::KEY_PANEL + k % 4 * 32), adds || k > 0);
}

// S and then S' of the keys in a slot, each as a group.
static THERIA_DEVICE void begin_scores(Scores &s, Scores &s_tangent, const Own &own, int slot) {
    unsigned q = own.memory.queries() + own.consumer * OWN_ROWS * PANEL_ROW, q_tangent = q + Memory::QUERIES;
    unsigned k = own.memory.keys(slot), k_tangent = k + Memory::TILE;
    begin_products();
    multiply_keys(s, q, k, false);
    commit_products();
    multiply_keys(s_tangent, q_tangent, k, false);
    multiply_keys(s_tangent, q, k_tangent, true);
    commit_products();
}

// The values of a slot as operands: those of the first of two panels, and of the last one with the column at `unit`.
struct Values {
    unsigned long long first, last;

    THERIA_DEVICE Values(unsigned values, unsigned unit) : first(panel(values)) {
        unsigned at = values + (PANELS - 1) * Memory::KEY_PANEL;
        last = panel(at, unit - at);
    }

    // A += W·V of piece k of sixteen keys. The column stays where it is, so it is nearer for later pieces.
    THERIA_DEVICE void add_to(Sums &sums, const unsigned (&w)[4], int k) const {
        constexpr unsigned long long FURTHER = 16 * PANEL_ROW >> 4;
        if (PANELS == 2)
            Product<64, E>::add<true>(sums.first, w, first + k * FURTHER, true);
        Product<72, E>::add<true>(sums.last, w, last + k * FURTHER - (k * FURTHER << 16), true);
    }
};

// A += H·V + P·V' of the values in a slot, as a group.
static THERIA_DEVICE void begin_values(Sums &sums, const Weights &h, const Weights &p, const Memory &memory, int slot) {
    Values v(memory.values(slot), memory.units());
    Values v_tangent(memory.values(slot) + Memory::TILE, memory.units() + Memory::UNIT);
    begin_products();
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) {
        v.add_to(sums, h[k], k);
        v_tangent.add_to(sums, p[k], k);
    }
    commit_products();
}

// All threads of this warpgroup meet.
static THERIA_DEVICE void meet_own(int consumer) { meet(1 + consumer, WARPGROUP); }

// Values of keys that do not exist may be anything, and a weight of zero does not save from that. Every warpgroup
// clears them for itself: what the other one may be reading there at the moment is zero already.
static THERIA_DEVICE void clear_values(const Own &own, int slot, int step) {
    int first = own.work.length - own.work.key(step);
    if (first >= KEYS)
        return;
    for (int n = 0; n < 2 * PANELS; ++n) {
        unsigned values = own.memory.values(slot) + n * Memory::KEY_PANEL;
        unsigned at = first * PANEL_ROW + 4 * (threadIdx.x % WARPGROUP);
        for (; at < Memory::KEY_PANEL; at += 4 * WARPGROUP)
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(values + at), "r"(0) : "memory");
    }
    publish_stores();
    meet_own(own.consumer);
}

// A warp has read what lies in a slot.
static THERIA_DEVICE void free(Barrier barrier) {
    __syncwarp();
    if (threadIdx.x % WARP == 0)
        barrier.arrive();
}

static THERIA_DEVICE void await_turn(int consumer) {
    if (TURNS)
        meet(1 + CONSUMERS + consumer, 2 * WARPGROUP);
}
static THERIA_DEVICE void pass_turn(int consumer) {
    if (TURNS)
        pass(1 + CONSUMERS + (consumer + 1) % CONSUMERS, 2 * WARPGROUP);
}

// Steps that do not concern this warpgroup.
static THERIA_DEVICE void pass_over(const Memory &memory, Ring &at, int count) {
    for (int n = 0; n < count; ++n) {
        memory.keys_full(at.index).await(at.parity());
        free(memory.keys_free(at.index));
        memory.values_full(at.index).await(at.parity());
        free(memory.values_free(at.index));
        at.advance();
    }
}

// P and H of a step, when all but LATER of the groups of products that were begun since its scores are done.
template <int LATER>
static THERIA_DEVICE void make_weights(Scores &s, Scores &s_tangent, Own &own, int slot, int step) {
    await_products<LATER + 1>();
    hold(s);
    weigh(s, own, step);
    await_products<LATER>();
    hold(s_tangent);
    free(own.memory.keys_free(slot));
    move(own, s, s_tangent, step);
}

// P and H as operands; or what rounding takes from them, when the keys come once more.
static THERIA_DEVICE void round_weights(Weights &p, Weights &h, Scores &s, Scores &s_tangent, Own &own, int step) {
    bool again = step >= own.work.count;
    if (again)
        keep_rests(s);
    round_to(p, s);
    keep_top(own, p);
    if (again)
        keep_rests(s_tangent);
    round_to(h, s_tangent);
}

// The sweep over the keys that concern a warpgroup; there are some.
static THERIA_DEVICE void sweep(Sums &sums, Own &own, Ring &at) {
    const Memory &memory = own.memory;
    Scores s, s_tangent;
    Weights p, h;
    if (own.consumer == CONSUMERS - 1)
        pass_turn(own.consumer); // the first one begins
    memory.keys_full(at.index).await(at.parity());
    await_turn(own.consumer);
    begin_scores(s, s_tangent, own, at.index);
    pass_turn(own.consumer);
    make_weights<0>(s, s_tangent, own, at.index, own.from);
    round_weights(p, h, s, s_tangent, own, own.from);
    Ring next = at; // slots of keys: a step ahead of those of values
    for (int step = own.from; step < own.to - 1; ++step) {
        if (step == own.work.count - 1) { // the keys come once more
            memory.values_full(at.index).await(at.parity());
            clear_values(own, at.index, step);
        }
        next.advance();
        memory.keys_full(next.index).await(next.parity());
        await_turn(own.consumer);
        begin_scores(s, s_tangent, own, next.index);
        memory.values_full(at.index).await(at.parity());
        begin_values(sums, h, p, memory, at.index);
        pass_turn(own.consumer);
        make_weights<1>(s, s_tangent, own, next.index, step + 1);
        await_products<0>();
        sums.hold_all();
        hold(s);
        hold(s_tangent);
        free(memory.values_free(at.index));
        round_weights(p, h, s, s_tangent, own, step + 1);
        at = next;
    }
    memory.values_full(at.index).await(at.parity());
    clear_values(own, at.index, own.to - 1);
    await_turn(own.consumer);
    begin_values(sums, h, p, memory, at.index);
    pass_turn(own.consumer);
    await_products<0>();
    sums.hold_all();
    free(memory.values_free(at.index));
    at.advance();
    if (own.consumer == 0)
        await_turn(own.consumer); // the last one has passed it
}

// Two neighbours of a tile of saved or made rows: `row` counts from the first query of the block.
static THERIA_DEVICE unsigned place_of(unsigned tile, int row, int n) {
    return tile + n / 8 * Memory::QUERY_PANEL + row * PANEL_ROW + (n % 8 ^ row % 8) * 16 + threadIdx.x % 4 * 4;
}

// How a row ends.
struct End {
    float part, shift, mu; // O' = part·A - shift·(O + rest)
    float top;             // at least the largest weight

    // Of a row of this lane; all lanes of the warp ask together. The first of its four lanes has both of its sums.
    THERIA_DEVICE End(const Sums &sums, const Own &own, int half) {
        float moved = __shfl_sync(FULL_WARP, sums.last[32 + 2 * half], threadIdx.x % WARP & ~3);
        float weight = __shfl_sync(FULL_WARP, sums.last[33 + 2 * half], threadIdx.x % WARP & ~3);
        float whole = sum_of_row(own.moved[half]) * (own.work.again ? 0.5f : 1.0f); // of both times
        // A row without weight and without lse sees nothing. One that has but one of the two was handed over wrongly.
        bool no_lse = own.lse(half) == -infinity(), blind = no_lse && weight == 0;
        bool wrong = !blind && (no_lse || weight == 0);
        shift = blind ? 0 : wrong ? not_a_number() : __fdividef(moved, weight);
        part = blind ? 0 : __fdividef(1.0f, weight);
        mu = blind ? 0 : wrong ? not_a_number() : whole + own.centre[half];
        E low{(unsigned short)own.top}, high{(unsigned short)(own.top >> 16)};
        top = fmaxf(Element<E>::to_acc(low), Element<E>::to_acc(high));
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
    }
    // Whether one sweep was enough: no weight is large, and c was good, given the squares of O and of O'. What H was
    // rounded by stands in O' as the subtracted part does, but for how many keys share it: the root of the largest
    // weight is a bound. Where O has no rest, its own rounding stands there, too.
    THERIA_DEVICE bool good(float saved, float left, bool has_rest) const {
        return !(top > LARGE_WEIGHT || shift * shift * saved * (has_rest ? 0.25f * top : 1.0f) > left);
    }
};

// O' and its rest in the places of O and of its rest, and μ into memory. Whether one sweep was enough for all rows of
// the warp.
static THERIA_DEVICE bool combine(const Sums &sums, const Own &own, bool has_rest, bool makes_rest) {
    const Rules &rules = own.all.rules;
    unsigned queries = own.memory.queries();
    bool good = true;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        End end(sums, own, half);
        int i = own.row + 8 * half;
        if (threadIdx.x % 4 == 0 && i < rules.forward.score.t)
            *rules.mu.at<float>(own.work.b, own.work.h, i) = end.mu;
        float saved = 0, left = 0;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            unsigned place = place_of(queries, i - own.work.first, n), beside = place + Memory::QUERIES;
            float2 o = Half<E>::load_pair(place);
            if (has_rest) {
                float2 more = Half<E>::load_pair(beside);
                o.x += more.x;
                o.y += more.y;
            }
            float x = fmaf(sums.at(n, 2 * half), end.part, -end.shift * o.x);
            float y = fmaf(sums.at(n, 2 * half + 1), end.part, -end.shift * o.y);
            Half<E>::store_pair(place, x, y);
            if (makes_rest)
                Half<E>::store_pair(beside, x - Element<E>::to_acc(Element<E>::from_acc(x)),
                                    y - Element<E>::to_acc(Element<E>::from_acc(y)));
            saved += o.x * o.x + o.y * o.y;
            left += x * x + y * y;
        }
        saved = sum_of_row(saved);
        left = sum_of_row(left);
        if (i < rules.forward.score.t)
            good = good && end.good(saved, left, has_rest);
    }
    return __all_sync(FULL_WARP, good);
}

// Brings what the forward saved, and takes away what is made of it.
static THERIA_DEVICE void finish(const Sums &sums, const Own &own, unsigned tile) {
    const Parameters &all = own.all;
    const Memory &memory = own.memory;
    bool leads = threadIdx.x % WARPGROUP == 0, has_rest = all.rules.forward.rest.data;
    bool makes_rest = all.rules.rest_tangent.data;
    int first = own.consumer * OWN_ROWS, row = own.work.first + first, h = own.work.h, b = own.work.b;
    unsigned out = memory.queries() + first * PANEL_ROW, rest = out + Memory::QUERIES;
    Barrier saved = memory.saved_full(own.consumer);
    meet_own(own.consumer); // nobody reads Q and Q' any more
    if (leads) {
        saved.arrive_and_expect((has_rest ? 2 : 1) * PANELS * OWN_ROWS * PANEL_ROW);
        bring_tile(out, Memory::QUERY_PANEL, all.out, saved, row, h, b);
        if (has_rest)
            bring_tile(rest, Memory::QUERY_PANEL, all.rest, saved, row, h, b);
    }
    saved.await(own.work.turn & 1);
    if (!combine(sums, own, has_rest, makes_rest) && threadIdx.x % WARP == 0)
        memory.note(tile);
    publish_stores();
    meet_own(own.consumer);
    if (leads) {
#pragma unroll
        for (int n = 0; n < PANELS; ++n) {
            take_away(all.out_tangent, out + n * Memory::QUERY_PANEL, n * PANEL, row, h, b);
            if (makes_rest)
                take_away(all.rest_tangent, rest + n * Memory::QUERY_PANEL, n * PANEL, row, h, b);
        }
        commit_taken();
        await_left<0>();
        memory.queries_free(own.consumer).arrive();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Parameters all) {
    extern __shared__ __align__(1024) unsigned char shared[];
    let_next_launch_start();
    Memory memory{shared_address(shared)};
    prepare(memory);
    __syncthreads();
    await_launches_ahead();
    const Forward &p = all.rules.forward;
    unsigned tiles = all.rules.batch * all.rules.heads * p.tiles;
    Ring at;
    int warpgroup = __shfl_sync(FULL_WARP, threadIdx.x / WARPGROUP, 0);
    if (warpgroup == 0) {
        give_registers_back<PRODUCER_REGISTERS>();
        if (threadIdx.x < WARP && is_elected()) {
            int turn = 0;
            for (int sweep = 0; sweep < 2; ++sweep) {
                unsigned tile = 0;
                for (unsigned n = blockIdx.x; n < tiles; n += gridDim.x, ++tile)
                    if (sweep == 0 || memory.is_noted(tile))
                        produce(all, memory, Work(p, n, turn++, sweep), at);
                memory.all_noted().await(0);
            }
        }
    } else {
        take_registers<CONSUMER_REGISTERS>();
        int turn = 0;
#pragma unroll 1
        for (int pass = 0; pass < 2; ++pass) {
            unsigned tile = 0;
            for (unsigned n = blockIdx.x; n < tiles; n += gridDim.x, ++tile) {
                if (pass == 1 && !memory.is_noted(tile))
                    continue;
                Work work(p, n, turn++, pass);
                Own own(all, memory, work, warpgroup - 1);
                Sums sums;
                memory.queries_full(own.consumer).await(work.turn & 1);
                at.index = 0;
                pass_over(memory, at, own.from);
                if (own.from < own.to)
                    sweep(sums, own, at);
                pass_over(memory, at, work.steps - own.to);
                finish(sums, own, tile);
            }
            if (threadIdx.x % WARPGROUP == 0)
                await_taken<0>(); // what comes again comes later
            if (pass == 0)
                free(memory.all_noted());
            memory.all_noted().await(0);
        }
    }
}
