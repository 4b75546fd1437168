// Forward of `cuda-fused` on Hopper (sm_90a): tiles come and go by the copy engine, products are those of warpgroups,
// and a warpgroup of its own does nothing but ask for what comes next.
//
//     S = Q·Kᵀ                       a tile of 64 rows and KEYS columns, in registers
//     r                              a reference for each row, near its maximum
//     P = 2^(S·scale·log2 e - r)     in registers; rounded to 16 bits it is the operand of the next product
//     l = l + Σ_j P_j,  O = O + P·V
//     O / l,  lse = ln l + r·ln 2
//
// A block has ROWS = 64·GROUPS rows of one head. Its keys are worked on from right to left, KEYS in a step:
//
//            begin                                              end
//              |...|-- step 2 --|-- step 1 --|-- step 0 --|        no key from `end` on is ever brought
//
//     shared memory   | Q: QUERIES × ROWS × D | K: STAGES × KEYS × D | V: the same | O, if APART | ones | barriers |
//
//     producer        full(K 0)  full(Q)  full(K 1)  full(V 0)  full(K 2)  full(V 1) ...
//     consumers       one warpgroup for 64 rows each: await full, multiply, arrive at empty
//
// Barriers: `full` of Q, K and V says that bytes have come, `empty` that each consumer warp has let go of them. Keys and
// values have their own, as keys are done with a product earlier than values.
//
// What hides what: S of the next step is begun before P·V of this one, and exponentials are taken while P·V runs.
//
//     tensor cores    | S'  P·V      | S''  P'·V'       |
//     other units     |     exp S'   |      exp S''     |
//
// Where warpgroups take TURNS, one begins its products when the one before has begun its own: then the exponentials
// of one meet the products of the other.
//
// Short heads have few steps, and the last one may have few keys: 197 are three steps of 64 and five more. Where they are
// no more than a FRINGE of sixteen, and all see all, that step multiplies sixteen.
//
// Few rows do not fill a device with blocks. With SPLIT both warpgroups have the same 64 rows and every second step each;
// what the second one found is added to what the first one found.
//
// A block takes one tile of rows after the other. The producer runs ahead of the consumers into the next one, whose queries
// have a place of their own where O has.
#include "forward.cuh"
#include "hopper_rows.cuh"

using namespace theria;

using Math = THERIA_MATH;
using E = Math::Element;
constexpr int D = THERIA_D, KEYS = THERIA_KEYS, STAGES = THERIA_STAGES;
constexpr int GROUPS = THERIA_GROUPS;
constexpr bool INTERVALS = THERIA_INTERVALS; // whether there are causal masks and windows, or lengths alone
constexpr bool REST = THERIA_REST, TURNS = THERIA_TURNS, APART = THERIA_APART, SPLIT = THERIA_SPLIT;
constexpr int QUERIES = APART ? 2 : 1;       // tiles of rows whose queries are in shared memory

constexpr int THREADS = (GROUPS + 1) * WARPGROUP, GROUP_WARPS = WARPGROUP / WARP;
constexpr int GROUP_ROWS = 64; // of a product, and so of a warpgroup
constexpr int ROWS = SPLIT ? GROUP_ROWS : GROUP_ROWS * GROUPS;
constexpr int PANELS = D / PANEL, DEPTHS = D / 16, KEY_DEPTHS = KEYS / 16;
constexpr int SCORES = KEYS / 2, SUMS = D / 2; // of a thread
// Registers of a thread: all of 64 Ki, in steps of eight.
constexpr int PRODUCER_REGISTERS = GROUPS == 3 ? 32 : 24;
constexpr int CONSUMER_REGISTERS = GROUPS == 2 ? 240 : GROUPS == 3 ? 160 : 112;
// Whether P becomes an operand while the one before is still being multiplied: there are registers for both. The sum of
// its rounded numbers is taken from them then. Else it is one more column of the product, beside a panel of ones.
constexpr bool EARLY = GROUPS == 2, ONES = REST && !EARLY;
// Keys of a last step that is shorter than others; 0: there is none.
constexpr int FRINGE = GROUPS == 4 && !INTERVALS ? 16 : 0;

static_assert(GROUPS >= 2 && GROUPS <= 4, "as registers are divided");
static_assert(APART || GROUPS < 4, "barriers of warps do not meet");
static_assert(!SPLIT || (GROUPS == 2 && STAGES % 2 == 0 && !TURNS), "two warpgroups share rows, and nothing else");
static_assert(KEYS % 16 == 0 && D % PANEL == 0, "whole products");

// Shared memory, in bytes from its beginning.
constexpr unsigned QUERY_PANEL = ROWS * PANEL_ROW, KEY_PANEL = KEYS * PANEL_ROW;
constexpr unsigned QUERY_BYTES = PANELS * QUERY_PANEL, KEY_BYTES = PANELS * KEY_PANEL;
constexpr unsigned KEYS_AT = QUERIES * QUERY_BYTES, VALUES_AT = KEYS_AT + STAGES * KEY_BYTES;
constexpr unsigned OUT_AT = APART ? VALUES_AT + STAGES * KEY_BYTES : 0; // else in the place of the queries
constexpr unsigned ONES_AT = VALUES_AT + STAGES * KEY_BYTES + (APART ? QUERY_BYTES : 0), ONES_BYTES = 1024;
constexpr unsigned MERGE_AT = ONES_AT + (REST ? ONES_BYTES : 0), MERGE_BYTES = WARPGROUP * (D / 2 + 8) * 4;
constexpr unsigned BARRIERS_AT = MERGE_AT + (SPLIT ? MERGE_BYTES : 0);

// Barriers of warps: turns have 1 to GROUPS.
constexpr int TOGETHER = 4; // and one more for each warpgroup
constexpr int SENT = 8, READ = 9;

struct Given {
    TensorMap q, k, v, out, rest;
    Forward forward;
    int blocks; // tiles of rows, of all heads and entries
};

struct Barriers {
    unsigned memory;

    THERIA_DEVICE explicit Barriers(unsigned memory) : memory(memory) {}

    THERIA_DEVICE Barrier q_full(int n) const { return {memory + 8 * n}; }
    THERIA_DEVICE Barrier q_empty(int n) const { return {memory + 8 * (2 + n)}; }
    THERIA_DEVICE Barrier k_full(int n) const { return {memory + 32 + 8 * n}; }
    THERIA_DEVICE Barrier k_empty(int n) const { return {memory + 32 + 8 * (STAGES + n)}; }
    THERIA_DEVICE Barrier v_full(int n) const { return {memory + 32 + 8 * (2 * STAGES + n)}; }
    THERIA_DEVICE Barrier v_empty(int n) const { return {memory + 32 + 8 * (3 * STAGES + n)}; }

    THERIA_DEVICE void make() const {
        for (int n = 0; n < QUERIES; ++n) {
            q_full(n).make(1);
            q_empty(n).make(GROUPS * GROUP_WARPS);
        }
        for (int n = 0; n < STAGES; ++n) {
            k_full(n).make(1);
            v_full(n).make(1);
            k_empty(n).make((SPLIT ? 1 : GROUPS) * GROUP_WARPS);
            v_empty(n).make((SPLIT ? 1 : GROUPS) * GROUP_WARPS);
        }
        publish_barriers();
    }
};
static_assert(32 + 32 * STAGES <= 256, "as the host has it");

// A tile of rows of a head. The order is that of `Place`.
struct Work {
    int b, h, h_kv, row; // the first row
    int length;          // keys of the entry
    int end, steps;      // step n has the keys [end - (n + 1) KEYS, end - n KEYS), those below 0 being zeros

    THERIA_DEVICE Work(const Forward &p, unsigned index) {
        unsigned section = p.work.quotient(index), left = index - section * p.work.number;
        unsigned late = p.section.quotient(left), pair = section * p.section.number + left - late * p.section.number;
        row = (p.tiles - 1 - int(late)) * ROWS;
        b = p.heads.quotient(pair);
        h = pair - b * p.heads.number;
        h_kv = p.group.quotient(h);
        length = p.score.keys_of(b);
        int begin = INTERVALS ? p.score.first_key(row, length) : 0;
        end = INTERVALS ? p.score.end_key(min_of(row + ROWS, p.score.t) - 1, length) : length;
        steps = begin < end ? unsigned(end - begin + KEYS - 1) / KEYS : 0;
    }
    THERIA_DEVICE int key(int step) const { return end - (step + 1) * KEYS; }
};

// Steps of a warpgroup: [first, last) concern it, and in [whole, part) all of its rows see all keys.
struct Steps {
    int first, whole, part, last;
    bool ends_early; // the last step, which is not the first one, has no more than FRINGE keys

    THERIA_DEVICE Steps(const Forward &p, const Work &work, int group_row) {
        int row = work.row + group_row;
        first = whole = part = last = 0;
        ends_early = false;
        if (row >= p.score.t)
            return;
        if (!INTERVALS) {
            part = unsigned(work.end) / KEYS;
            last = work.steps;
            ends_early = part > 0 && last > part && work.end - part * KEYS <= FRINGE;
            return;
        }
        int below = min_of(row + GROUP_ROWS, p.score.t) - 1;
        int from = p.score.first_key(row, work.length), to = p.score.end_key(below, work.length);
        int low = p.score.first_key(below, work.length), high = p.score.end_key(row, work.length);
        if (from >= to)
            return;
        first = unsigned(work.end - to) / KEYS;
        last = min_of(unsigned(work.end - from + KEYS - 1) / KEYS, work.steps);
        whole = min_of(unsigned(work.end - high + KEYS - 1) / KEYS, last);
        part = max_of(min_of(unsigned(max_of(work.end - low, 0)) / KEYS, last), whole);
    }
};

// The compiler does not know that this is what it was.
THERIA_DEVICE unsigned anew(unsigned x) {
    asm volatile("" : "+r"(x));
    return x;
}

// Four 8×8 matrices of 16-bit elements into memory, rows at the addresses of the lanes, eight lanes each.
THERIA_DEVICE void store_matrices(unsigned at, const unsigned (&from)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(from[0]), "r"(from[1]),
                 "r"(from[2]), "r"(from[3])
                 : "memory");
}

// ---- The producer: one thread. ----

static THERIA_DEVICE void produce(const Given &given, unsigned memory, const Barriers &barriers) {
    const Forward &p = given.forward;
    Slot<QUERIES> q;
    Slot<STAGES> k, v;
    for (unsigned index = blockIdx.x; index < given.blocks; index += gridDim.x) {
        Work work(p, index);
        // The keys of a step, or the values.
        auto bring_step = [&](const TensorMap &from, unsigned to, Barrier empty, Barrier full, Slot<STAGES> &slot, int step) {
            empty.await(slot.parity ^ 1);
            full.arrive_and_expect(KEY_BYTES);
#pragma unroll
            for (int n = 0; n < PANELS; ++n)
                bring(to + slot.index * KEY_BYTES + n * KEY_PANEL, from, full, n * PANEL, work.key(step), work.h_kv, work.b);
            slot.advance();
        };
        auto bring_keys = [&](int step) {
            bring_step(given.k, memory + KEYS_AT, barriers.k_empty(k.index), barriers.k_full(k.index), k, step);
        };
        auto bring_values = [&](int step) {
            bring_step(given.v, memory + VALUES_AT, barriers.v_empty(v.index), barriers.v_full(v.index), v, step);
        };
        if (work.steps > 0)
            bring_keys(0);
        Barrier full = barriers.q_full(q.index);
        barriers.q_empty(q.index).await(q.parity ^ 1);
        full.arrive_and_expect(QUERY_BYTES);
#pragma unroll
        for (int n = 0; n < PANELS; ++n)
            bring(memory + q.index * QUERY_BYTES + n * QUERY_PANEL, given.q, full, n * PANEL, work.row, work.h, work.b);
        q.advance();
        for (int step = 1; step < work.steps; ++step) {
            bring_keys(step);
            bring_values(step - 1);
        }
        if (work.steps > 0)
            bring_values(work.steps - 1);
    }
}

// ---- Consumers. ----

// What a thread carries along the keys: two rows, eight apart, a quarter of their columns.
struct State {
    float out[SUMS];
    float top[2]; // the score that exponents are taken against; -inf until a key is seen
    float sum[2]; // of the columns of this thread
    float rounded[4]; // of P as it is multiplied: the first and the third number; with ONES whole in every thread

    THERIA_DEVICE State() : out{}, top{-infinity(), -infinity()}, sum{}, rounded{} {}
};

using Scores = float[SCORES];
using Weights = unsigned[KEY_DEPTHS][4];

// S = Q·Kᵀ begins.
template <int N> static THERIA_DEVICE void begin_scores(float (&s)[N], unsigned queries, unsigned keys) {
    begin_products();
#pragma unroll
    for (int k = 0; k < DEPTHS; ++k)
        Product<2 * N, E>::template add<false, false>(s, ahead(panel(queries), k / 4 * QUERY_PANEL + k % 4 * 32),
                                                      ahead(panel(keys), k / 4 * KEY_PANEL + k % 4 * 32), k != 0);
    commit_products();
}

// O += P·V begins, and with it the sum of P as it is multiplied.
template <int K>
static THERIA_DEVICE void begin_values(State &state, const unsigned (&weights)[K][4], unsigned values, unsigned ones) {
    begin_products();
#pragma unroll
    for (int k = 0; k < K; ++k) {
        Product<D, E>::add<true>(state.out, weights[k], ahead(panel(values, KEY_PANEL), k * 16 * PANEL_ROW), true);
        if (ONES)
            Product<8, E>::add<false>(state.rounded, weights[k], panel(ones), true);
    }
    commit_products();
}

template <int K> static THERIA_DEVICE void hold_weights(unsigned (&weights)[K][4]) {
#pragma unroll
    for (int k = 0; k < K; ++k)
        hold(weights[k]);
}
static THERIA_DEVICE void hold_sums(State &state) {
    hold(state.out);
    if (ONES)
        hold(state.rounded);
}

// P in place of S, and its sums in l. Whether a reference of this warp has moved: then O must be multiplied by `shrink`.
template <int N> static THERIA_DEVICE bool weigh(State &state, float (&s)[N], float factor, float (&shrink)[2]) {
    float old[2], against[2];
    bool moves = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float top[2] = {s[2 * half], s[2 * half + 1]};
#pragma unroll
        for (int n = 1; n < N / 4; ++n) {
            top[0] = fmaxf(top[0], s[4 * n + 2 * half]);
            top[1] = fmaxf(top[1], s[4 * n + 2 * half + 1]);
        }
        top[0] = fmaxf(top[0], top[1]);
        top[0] = fmaxf(top[0], __shfl_xor_sync(FULL_WARP, top[0], 1));
        top[0] = fmaxf(top[0], __shfl_xor_sync(FULL_WARP, top[0], 2));
        old[half] = state.top[half];
        if ((top[0] - old[half]) * factor > ROOM) {
            state.top[half] = top[0];
            moves = true;
        }
        against[half] = reference(state.top[half], factor);
    }
    moves = __any_sync(FULL_WARP, moves);
    if (moves) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            shrink[half] = shrink_of(old[half], state.top[half], factor);
            state.sum[half] *= shrink[half];
            if (REST && !ONES)
                state.rounded[2 * half] *= shrink[half];
        }
    }
    lower(s, state.top, against);
#pragma unroll
    for (int n = 0; n < N / 4; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            float x = exp2_of(fmaf(s[4 * n + c], factor, -against[c / 2]));
            s[4 * n + c] = x;
            state.sum[c / 2] += x;
        }
    return moves;
}

// P as an operand, and where it is EARLY the sum of it.
template <int K>
static THERIA_DEVICE void round(State &state, unsigned (&weights)[K][4], const float (&s)[8 * K]) {
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            weights[k][n] = Math::pair(s[8 * k + 2 * n], s[8 * k + 2 * n + 1]);
            if (REST && !ONES) {
                float2 x = unpack(weights[k][n], E{});
                state.rounded[n % 2 * 2] += x.x + x.y;
            }
        }
}

static THERIA_DEVICE void scale(State &state, const float (&shrink)[2]) {
#pragma unroll
    for (int n = 0; n < SUMS; ++n)
        state.out[n] *= shrink[n / 2 % 2];
    if (ONES) {
        state.rounded[0] *= shrink[0];
        state.rounded[2] *= shrink[1];
    }
}

// What a consumer warpgroup knows.
struct Consumer {
    static constexpr unsigned STRIDE = SPLIT ? 2 : 1;

    const Given &given;
    Barriers barriers;
    unsigned memory;
    int own_group;
    float factor;
    unsigned tiles = 0; // of rows, before this one
    unsigned past = 0; // steps of the tiles before
    unsigned count;    // of the ring: the step that this warpgroup is at

    THERIA_DEVICE Consumer(const Given &given, unsigned memory, const Barriers &barriers)
        : given(given), barriers(barriers), memory(memory), own_group(uniform(threadIdx.x / WARPGROUP) - 1),
          factor(float(given.forward.score.scale) * LOG2_E), count(SPLIT ? group() : 0) {}

    THERIA_DEVICE int group() const { return own_group; }
    THERIA_DEVICE static int warp() { return threadIdx.x / WARP % GROUP_WARPS; } // of the warpgroup
    THERIA_DEVICE static int lane() { return threadIdx.x % WARP; }
    // The first row of the warpgroup, and those of this thread, in the block.
    THERIA_DEVICE int group_row() const { return SPLIT ? 0 : group() * GROUP_ROWS; }
    THERIA_DEVICE int own_row() const { return group_row() + warp() * 16 + lane() / 4; }

    // Places of this step (0), and of the next one (1).
    THERIA_DEVICE unsigned place(int ahead) const { return (count + ahead * STRIDE) % STAGES; }
    THERIA_DEVICE unsigned parity(int ahead) const { return (count + ahead * STRIDE) / STAGES % 2; }
    THERIA_DEVICE unsigned tile_slot() const { return tiles % QUERIES; }
    THERIA_DEVICE unsigned queries() const { return memory + tile_slot() * QUERY_BYTES + group_row() * PANEL_ROW; }
    THERIA_DEVICE unsigned keys(int ahead) const { return memory + KEYS_AT + place(ahead) * KEY_BYTES; }
    THERIA_DEVICE unsigned values() const { return memory + VALUES_AT + place(0) * KEY_BYTES; }
    THERIA_DEVICE unsigned ones() const { return memory + ONES_AT; }

    THERIA_DEVICE void await_keys(int ahead) const { barriers.k_full(place(ahead)).await(parity(ahead)); }
    THERIA_DEVICE void await_values() const { barriers.v_full(place(0)).await(parity(0)); }
    THERIA_DEVICE static void let_go(Barrier empty) {
        if (lane() == 0)
            empty.arrive();
    }
    THERIA_DEVICE void let_keys_go(int ahead) const { let_go(barriers.k_empty(place(ahead))); }
    THERIA_DEVICE void let_values_go() const { let_go(barriers.v_empty(place(0))); }
    // Early where O has memory of its own, else when it has left.
    THERIA_DEVICE void let_queries_go() const {
        if (APART)
            let_go(barriers.q_empty(tile_slot()));
    }

    // Turns go round. Each warpgroup has one in every step, whether the step concerns it or not.
    THERIA_DEVICE void await_turn() const {
        if (TURNS)
            meet(1 + group(), 2 * WARPGROUP);
    }
    THERIA_DEVICE void pass_turn() const {
        if (TURNS)
            pass(1 + (group() + 1) % GROUPS, 2 * WARPGROUP);
    }

    // Of split rows each warpgroup has every second step that there is, whatever tile it belongs to.
    THERIA_DEVICE bool has(int step) const { return !SPLIT || (past + step) % 2 == unsigned(group()); }

    // Steps that do not concern this warpgroup.
    THERIA_DEVICE void skip(int from, int to) {
        for (int step = from; step < to; ++step) {
            if (!has(step))
                continue;
            await_turn();
            await_keys(0);
            let_keys_go(0);
            await_values();
            let_values_go();
            count += STRIDE;
            pass_turn();
        }
    }

    // Where steps are looked at, which is rare, what is known of them is worked out anew: registers are few.
    THERIA_DEVICE bool look_and_weigh(State &state, Scores &s, unsigned index, const Steps &steps, int step,
                                      float (&shrink)[2]) const {
        if (step < steps.whole || step >= steps.part) {
            Work work(given.forward, anew(index));
            look<INTERVALS>(s, given.forward.score, work.row + own_row(), work.key(step), work.length);
        }
        return weigh(state, s, factor, shrink);
    }

    // The steps of this warpgroup. P of a step is there when the next one begins.
    THERIA_DEVICE void sweep(State &state, unsigned index, const Steps &steps) {
        int step = steps.first + (has(steps.first) ? 0 : 1);
        if (step >= steps.last) {
            let_queries_go();
            return;
        }
        Scores s;
        Weights weights;
        begin(state, s, weights, index, steps, step);
        if (EARLY) {
            Weights next;
            while ((step += STRIDE) < steps.last) {
                go_on(state, s, weights, next, index, steps, step);
                if ((step += STRIDE) >= steps.last) {
                    end(state, next, 0);
                    return;
                }
                go_on(state, s, next, weights, index, steps, step);
            }
        } else {
            int last = steps.last - (FRINGE && steps.ends_early);
            while ((step += STRIDE) < last)
                go_on(state, s, weights, weights, index, steps, step);
            if (FRINGE && steps.ends_early) {
                end_early(state, weights, index, step);
                return;
            }
        }
        end(state, weights, 0);
    }

    THERIA_DEVICE void begin(State &state, Scores &s, Weights &weights, unsigned index, const Steps &steps,
                             int step) const {
        float shrink[2];
        await_keys(0);
        await_turn();
        begin_scores(s, queries(), keys(0));
        pass_turn();
        await_products<0>();
        hold(s);
        let_keys_go(0);
        look_and_weigh(state, s, index, steps, step, shrink);
        round(state, weights, s);
    }

    // P·V of the step before is added to O, and P of this one is made: `next` may be `weights`, but not where it is EARLY.
    THERIA_DEVICE void go_on(State &state, Scores &s, Weights &weights, Weights &next, unsigned index, const Steps &steps,
                             int step) {
        float shrink[2];
        await_keys(1);
        await_turn();
        begin_scores(s, queries(), keys(1));
        await_values();
        begin_values(state, weights, values(), ones());
        pass_turn();
        await_products<1>();
        hold(s);
        let_keys_go(1);
        bool moved = look_and_weigh(state, s, index, steps, step, shrink);
        if (EARLY)
            round(state, next, s);
        finish(state.sum[0] + state.sum[1]);
        if (EARLY)
            hold_weights(next);
        await_products<0>();
        hold_sums(state);
        hold_weights(weights);
        let_values_go();
        count += STRIDE;
        if (moved)
            scale(state, shrink);
        if (!EARLY)
            round(state, next, s);
    }

    // The last step, of FRINGE keys: the last ones of its tile, those before them being zeros.
    THERIA_DEVICE void end_early(State &state, Weights &weights, unsigned index, int step) {
        constexpr int BEFORE = KEYS - FRINGE, DEPTHS_LEFT = FRINGE ? FRINGE / 16 : 1;
        float shrink[2], s[8 * DEPTHS_LEFT];
        await_keys(1);
        await_turn();
        begin_scores(s, queries(), keys(1) + BEFORE * PANEL_ROW);
        await_values();
        begin_values(state, weights, values(), ones());
        pass_turn();
        await_products<1>();
        hold(s);
        let_keys_go(1);
        Work work(given.forward, anew(index));
        look<INTERVALS>(s, given.forward.score, work.row + own_row(), work.key(step) + BEFORE, work.length);
        bool moved = weigh(state, s, factor, shrink);
        finish(state.sum[0] + state.sum[1]);
        await_products<0>();
        hold_sums(state);
        hold_weights(weights);
        let_values_go();
        ++count;
        if (moved)
            scale(state, shrink);
        unsigned left[DEPTHS_LEFT][4];
        round(state, left, s);
        end(state, left, BEFORE);
    }

    // The last weights are of the values of this step from `before` on.
    template <int K> THERIA_DEVICE void end(State &state, unsigned (&weights)[K][4], int before) {
        let_queries_go();
        await_values();
        begin_values(state, weights, values() + before * PANEL_ROW, ones());
        await_products<0>();
        hold_sums(state);
        hold_weights(weights);
        let_values_go();
        count += STRIDE;
    }

    // Steps that concern this warpgroup, and those that do not.
    THERIA_DEVICE void sweep_all(State &state, unsigned index) {
        Steps steps(given.forward, Work(given.forward, index), group_row());
        barriers.q_full(tile_slot()).await(tiles / QUERIES % 2);
        steps.first = uniform(steps.first);
        steps.whole = uniform(steps.whole);
        steps.part = uniform(steps.part);
        steps.last = uniform(steps.last);
        if (FRINGE)
            steps.ends_early = uniform(steps.ends_early);
        skip(0, steps.first);
        sweep(state, index, steps);
        Work work(given.forward, anew(index));
        skip(steps.last, work.steps);
        if (SPLIT)
            past += work.steps;
    }

    // What the second warpgroup found of split rows goes to the first. Each thread meets the one in its place.
    THERIA_DEVICE void send(const State &state) const {
        unsigned at = memory + MERGE_AT + threadIdx.x % WARPGROUP * 16;
        meet(READ, 2 * WARPGROUP);
        store(at, state.top[0], state.top[1], state.sum[0], state.sum[1]);
#pragma unroll
        for (int n = 0; n < SUMS; n += 4)
            store(at + (1 + n / 4) * WARPGROUP * 16, state.out[n], state.out[n + 1], state.out[n + 2], state.out[n + 3]);
        if (REST)
            store(at + (1 + SUMS / 4) * WARPGROUP * 16, state.rounded[0], state.rounded[2], 0, 0);
        meet(SENT, 2 * WARPGROUP);
    }
    THERIA_DEVICE void receive(State &state) const {
        unsigned at = memory + MERGE_AT + threadIdx.x % WARPGROUP * 16;
        meet(SENT, 2 * WARPGROUP);
        float4 theirs = load(at);
        float mine[2], share[2], tops[2] = {theirs.x, theirs.y}, sums[2] = {theirs.z, theirs.w};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = fmaxf(state.top[half], tops[half]);
            mine[half] = shrink_of(state.top[half], top, factor);
            share[half] = shrink_of(tops[half], top, factor);
            state.top[half] = top;
            state.sum[half] = state.sum[half] * mine[half] + sums[half] * share[half];
        }
#pragma unroll
        for (int n = 0; n < SUMS; n += 4) {
            float4 x = load(at + (1 + n / 4) * WARPGROUP * 16);
            state.out[n] = state.out[n] * mine[0] + x.x * share[0];
            state.out[n + 1] = state.out[n + 1] * mine[0] + x.y * share[0];
            state.out[n + 2] = state.out[n + 2] * mine[1] + x.z * share[1];
            state.out[n + 3] = state.out[n + 3] * mine[1] + x.w * share[1];
        }
        if (REST) {
            float4 x = load(at + (1 + SUMS / 4) * WARPGROUP * 16);
            state.rounded[0] = state.rounded[0] * mine[0] + x.x * share[0];
            state.rounded[2] = state.rounded[2] * mine[1] + x.y * share[1];
        }
        pass(READ, 2 * WARPGROUP);
    }

    // O, its rest and lse of this warpgroup's rows.
    THERIA_DEVICE void write(State &state, const Work &work) const {
        const Forward &p = given.forward;
        int row = work.row + own_row();
        float weight[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int i = row + 8 * half;
            float sum = state.sum[half];
            sum += __shfl_xor_sync(FULL_WARP, sum, 1);
            sum += __shfl_xor_sync(FULL_WARP, sum, 2);
            if (REST && !ONES) {
                float &x = state.rounded[2 * half];
                x += __shfl_xor_sync(FULL_WARP, x, 1);
                x += __shfl_xor_sync(FULL_WARP, x, 2);
            }
            float lse = lse_of(state.top[half], sum, factor);
            weight[half] = __fdividef(1, REST ? state.rounded[2 * half] : sum);
            if (sum == 0) {
                // Of a row that sees a key all scores have overflowed, and nobody knows it.
                bool lost =
                    INTERVALS ? p.score.first_key(i, work.length) < p.score.end_key(i, work.length) : work.length > 0;
                lse = lost ? not_a_number() : -infinity();
                weight[half] = lost ? not_a_number() : 0;
#pragma unroll
                for (int n = 0; n < SUMS; n += 4)
                    state.out[n + 2 * half] = state.out[n + 2 * half + 1] = 0;
            }
            if (lane() % 4 == 0 && i < p.score.t)
                *p.lse.at<float>(work.b, work.h, i) = lse;
        }
#pragma unroll
        for (int n = 0; n < SUMS; ++n)
            state.out[n] *= weight[n / 2 % 2];
        put<false>(state, given.out, work);
        if (REST)
            put<true>(state, given.rest, work);
    }

    // Rows of a warp, or what rounding takes from them, by way of shared memory of theirs.
    template <bool OF_REST>
    THERIA_DEVICE void put(const State &state, const TensorMap &to, const Work &work) const {
        int first = group_row() + warp() * 16;
        unsigned rows = memory + OUT_AT + first * PANEL_ROW;
        if (APART || OF_REST) {
            if (lane() == 0)
                await_left<0>();
            __syncwarp();
        }
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
            unsigned words[4];
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                float x = state.out[8 * n + 2 * c], y = state.out[8 * n + 2 * c + 1];
                if (OF_REST) {
                    x -= Element<E>::to_acc(Element<E>::from_acc(x));
                    y -= Element<E>::to_acc(Element<E>::from_acc(y));
                }
                words[c] = Math::pair(x, y);
            }
            // Lanes have the rows of four matrices: upper and lower rows of eight columns, then of the next eight.
            unsigned row = lane() % 16, chunk = n % 4 * 2 + lane() / 16;
            store_matrices(rows + n / 4 * QUERY_PANEL + row * PANEL_ROW + (chunk ^ row % 8) * 16, words);
        }
        publish_stores();
        __syncwarp();
        if (lane() == 0) {
#pragma unroll
            for (int n = 0; n < PANELS; ++n)
                take_away(to, rows + n * QUERY_PANEL, n * PANEL, work.row + first, work.h, work.b);
            commit_taken();
        }
    }

    THERIA_DEVICE void run() {
        const Forward &p = given.forward;
        if (TURNS && group() == GROUPS - 1)
            pass_turn();
        if (SPLIT && group() == 0)
            pass(READ, 2 * WARPGROUP);
        for (unsigned index = blockIdx.x; index < given.blocks; index += gridDim.x) {
            State state;
            sweep_all(state, index);
            Work work(p, anew(index));
            if (SPLIT && group() == 1)
                send(state);
            else if (SPLIT)
                receive(state);
            if (!APART)
                meet(TOGETHER + group(), WARPGROUP); // nobody reads queries any more
            if (work.row + group_row() < p.score.t && (!SPLIT || group() == 0))
                write(state, work);
            if (!APART && lane() == 0) {
                await_left<0>();
                barriers.q_empty(tile_slot()).arrive();
            }
            ++tiles;
        }
        if (lane() == 0)
            await_left<0>();
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Given given) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    let_next_launch_start();
    unsigned memory = shared_address(bytes);
    Barriers barriers(memory + BARRIERS_AT);
    if (threadIdx.x == 0) {
        prefetch(given.q);
        prefetch(given.k);
        prefetch(given.v);
        prefetch(given.out);
        barriers.make();
    }
    if (REST)
        for (unsigned n = threadIdx.x; n < ONES_BYTES / 4; n += THREADS)
            reinterpret_cast<unsigned *>(bytes + ONES_AT)[n] = Math::pair(1, 1);
    if (REST)
        publish_stores();
    __syncthreads();
    await_launches_ahead();
    if (threadIdx.x < WARPGROUP) {
        give_registers_back<PRODUCER_REGISTERS>();
        if (threadIdx.x / WARP == 0 && is_elected())
            produce(given, memory, barriers);
    } else {
        take_registers<CONSUMER_REGISTERS>();
        Consumer(given, memory, barriers).run();
    }
}
