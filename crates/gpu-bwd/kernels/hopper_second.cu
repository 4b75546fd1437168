// Second order on sm_90a: the tangents of the gradients of queries, keys and values, in one sweep.
//
//     S' = scale·(Q'·Kᵀ + Q·K'ᵀ)        dP' = G·V'ᵀ + G'·Vᵀ
//     P' = P ∘ (S' - μ)                 dS' = P ∘ ((S' - μ) ∘ (dP - δ) - δ' + dP')
//
//     dV' = P'ᵀ·G + Pᵀ·G'    dK' = scale·(dS'ᵀ·Q + dSᵀ·Q')    dQ' = scale·(dS'·K + dS·K')
//
// A block owns 128 keys and walks along the queries that see them, QUERIES at a time. Two warpgroups multiply, 64 keys
// each; of the third, one warp asks the copy engine for operands and another adds to dQ'.
//
//     shared memory                                        barriers
//
//     K, K', V, V'   128 rows each, stay                   stay: they are there
//     Q, Q', G, G'   QUERIES rows each, a ring of stages   full, empty: of a stage
//     records        of the stage's queries                (with it)
//     visits         which queries, if some are not seen   (with it)
//     dS', dS        keys × queries                        stored, read: by both warpgroups
//     dQ'            in f32, on its way out                made, left
//
// Everything is made transposed: rows are keys. So P, P', dS and dS' are left operands where they lie in registers,
// and only dS' and dS pass through shared memory, for dQ', which sums over the keys of both warpgroups. That product
// comes one step late: neither warpgroup waits for what the other has just made. It is transposed too: rows are columns
// of Q. Wide heads are shared out by columns of Q, narrow ones by queries, 64 × 32 to each warpgroup.
//
//     a step    multiply                            meanwhile
//               S, dP | S'
//               | dSᵀ·Q', Pᵀ·G'                      P and dS, as soon as S and dP are there
//               dP' | dQ' of the step before | P'ᵀ·G S' - μ and P'
//               dS'ᵀ·Q                               dS'
//
// Few sums live at a time. What dP' is added to begins with (S' - μ) ∘ (dP - δ) - δ', so dS' is P ∘ that, and lies
// where S' lay.
#include "hopper_sweep.cuh"
#include "hopper_turns.cuh"

using namespace theria;

using E = THERIA_ELEMENT;
constexpr int D = THERIA_D;
constexpr int STAGES = THERIA_STAGES;
constexpr bool INTERVALS = THERIA_INTERVALS; // a causal mask or a window
constexpr bool WITH_COTANGENT_TANGENT = THERIA_WITH_COTANGENT_TANGENT;
constexpr int QUERIES = D == 64 ? 64 : 32; // of a step
constexpr int KEYS = 128;                  // of a block
constexpr int PANELS = D / PANEL;
// Whether K is in registers too, where there is room: products with it read half as much.
constexpr bool KEEPS_KEYS = D == 64 && !WITH_COTANGENT_TANGENT;
constexpr float LOG2_E = 1.4426950408889634f;
static_assert(D == 64 || D == 128, "what registers hold");

constexpr int CONSUMERS = 2;
constexpr int CONSUMER_WARPS = CONSUMERS * WARPGROUP / WARP;
constexpr int KEY_PANEL = KEYS * PANEL_ROW, QUERY_PANEL = QUERIES * PANEL_ROW; // bytes
constexpr int KEY_BYTES = PANELS * KEY_PANEL, QUERY_BYTES = PANELS * QUERY_PANEL;
constexpr int OPERANDS = WITH_COTANGENT_TANGENT ? 4 : 3; // of a stage
constexpr int STAGE_BYTES = OPERANDS * QUERY_BYTES;
constexpr int CURVED_BYTES = 2 * KEYS * QUERIES * 2;     // dS' and dS
constexpr int PART = 64 * 32 / WARPGROUP;                // numbers of dQ' that a thread has
constexpr int ROWS_BYTES = D * QUERIES * 4;              // dQ'
static_assert(CONSUMERS * WARPGROUP * PART * 4 == ROWS_BYTES, "both warpgroups make dQ'");
using Known = Record<float, 2, false>;
constexpr int RECORD_BYTES = QUERIES * int(sizeof(Known));
using Block = Sweep<KEYS, QUERIES, INTERVALS>;

struct Parameters {
    TensorMap q, k, v, q_tangent, k_tangent, v_tangent, g, g_tangent, dk, dv;
    Rules rules;
};

// Where things lie in shared memory, and in a stage.
constexpr int K_AT = 0, K_TANGENT_AT = KEY_BYTES, V_AT = 2 * KEY_BYTES, V_TANGENT_AT = 3 * KEY_BYTES;
constexpr int RING_AT = 4 * KEY_BYTES, CURVED_AT = RING_AT + STAGES * STAGE_BYTES;
constexpr int ROWS_AT = CURVED_AT + CURVED_BYTES, RECORDS_AT = ROWS_AT + ROWS_BYTES;
constexpr int BARRIERS_AT = RECORDS_AT + STAGES * RECORD_BYTES, VISITS_AT = BARRIERS_AT + 40 + 16 * STAGES;
constexpr int Q_AT = 0, Q_TANGENT_AT = QUERY_BYTES, G_AT = 2 * QUERY_BYTES, G_TANGENT_AT = 3 * QUERY_BYTES;

struct Barriers {
    unsigned at;

    THERIA_DEVICE Barrier stay() const { return {at}; }
    THERIA_DEVICE Barrier stored() const { return {at + 8}; }
    THERIA_DEVICE Barrier read() const { return {at + 16}; }
    THERIA_DEVICE Barrier made() const { return {at + 24}; }
    THERIA_DEVICE Barrier left() const { return {at + 32}; }
    THERIA_DEVICE Barrier full(int slot) const { return {at + 40 + 8 * slot}; }
    THERIA_DEVICE Barrier empty(int slot) const { return {at + 40 + 8 * (STAGES + slot)}; }

    THERIA_DEVICE void make() const {
        stay().make(1);
        stored().make(CONSUMER_WARPS);
        read().make(CONSUMER_WARPS);
        made().make(CONSUMER_WARPS);
        left().make(1);
        for (int slot = 0; slot < STAGES; ++slot) {
            full(slot).make(1);
            empty(slot).make(CONSUMER_WARPS);
        }
        publish_barriers();
    }
};

// What a stage is: its first query, or WHOLE where all its pairs with the block count. So those who multiply need not
// know the walk.
constexpr int WHOLE = -1;
static THERIA_DEVICE void store_visit(unsigned to, int visit) {
    asm volatile("st.shared.s32 [%0], %1;" ::"r"(to), "r"(visit) : "memory");
}
static THERIA_DEVICE int load_visit(unsigned from) {
    int visit;
    asm volatile("ld.shared.s32 %0, [%1];" : "=r"(visit) : "r"(from) : "memory");
    return visit;
}

static THERIA_DEVICE float2 load_pair(unsigned from) {
    float2 x;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(from));
    return x;
}
static THERIA_DEVICE void store_vector(unsigned to, float4 x) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w)
                 : "memory");
}
// Four 8 × 8 matrices, as they lie in sums; rows at the addresses of the lanes.
static THERIA_DEVICE void store_matrices(unsigned to, const unsigned (&x)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x[0]), "r"(x[1]),
                 "r"(x[2]), "r"(x[3])
                 : "memory");
}

// One thread asks for everything that the block reads.
static THERIA_DEVICE void produce(const Parameters &p, const Block &sweep, unsigned memory, Barriers barriers) {
    barriers.stay().arrive_and_expect(4 * KEY_BYTES);
    auto stay = [&](int to, const TensorMap &map) {
        for (int n = 0; n < PANELS; ++n)
            bring(memory + to + n * KEY_PANEL, map, barriers.stay(), n * PANEL, sweep.first_key(), sweep.h, sweep.b);
    };
    stay(K_AT, p.k);
    stay(K_TANGENT_AT, p.k_tangent);
    stay(V_AT, p.v);
    stay(V_TANGENT_AT, p.v_tangent);
    const Known *records = static_cast<const Known *>(p.rules.statistics);
    Slot<STAGES> slot;
    for (Walk walk(sweep, p.rules.forward); walk.left > 0; walk.advance(), slot.advance()) {
        barriers.empty(slot.index).await(slot.parity ^ 1);
        int i0 = walk.tile * QUERIES;
        store_visit(memory + VISITS_AT + 4 * slot.index, sweep.whole(walk.tile) ? WHOLE : i0);
        Barrier full = barriers.full(slot.index);
        full.arrive_and_expect(STAGE_BYTES + RECORD_BYTES);
        unsigned stage = memory + RING_AT + slot.index * STAGE_BYTES;
        auto pass_by = [&](int to, const TensorMap &map) {
            for (int n = 0; n < PANELS; ++n)
                bring(stage + to + n * QUERY_PANEL, map, full, n * PANEL, i0, walk.head, sweep.b);
        };
        pass_by(Q_AT, p.q);
        pass_by(G_AT, p.g);
        pass_by(Q_TANGENT_AT, p.q_tangent);
        if (WITH_COTANGENT_TANGENT)
            pass_by(G_TANGENT_AT, p.g_tangent);
        bring(memory + RECORDS_AT + slot.index * RECORD_BYTES,
              records + ((long long)(sweep.b * p.rules.heads + walk.head) * p.rules.padded + i0), full, RECORD_BYTES);
    }
}

// One thread adds what was made to dQ' when it is this block's turn.
static THERIA_DEVICE void write_rows(const Parameters &p, const Block &sweep, unsigned memory, Barriers barriers) {
    const Rules &rules = p.rules;
    const Score &score = rules.forward.score;
    unsigned parity = 0;
    for (Walk walk(sweep, rules.forward); walk.left > 0; walk.advance(), parity ^= 1) {
        long long head = sweep.b * rules.heads + walk.head;
        Strand strand(rules, head, walk.tile, Block::places(score), sweep.before(score, walk.tile));
        unsigned *counter = static_cast<unsigned *>(rules.turns) + strand.at;
        float *to = static_cast<float *>(rules.turn_rows) + strand.at * (D * QUERIES);
        barriers.made().await(parity);
        add_in_turn(counter, strand.turn, to, memory + ROWS_AT, ROWS_BYTES, [&] { barriers.left().arrive(); });
    }
}

// A panel as products name it, but for the half of its name that is always the same: so many bytes further is one
// addition.
struct Operand {
    unsigned low;

    THERIA_DEVICE explicit Operand(unsigned address, unsigned next = 16) : low(unsigned(panel(address, next))) {}
    THERIA_DEVICE unsigned long long at(unsigned bytes) const {
        constexpr unsigned long long HIGH = 1ull << 62 | 1024ull >> 4 << 32;
        return HIGH | (low + (bytes >> 4));
    }
};

// The compiler is not told that this stays the same. What follows from it, in many places, is then worked out again in
// each step, and takes no registers from one to the next.
static THERIA_DEVICE unsigned forget(unsigned x) {
    asm volatile("" : "+r"(x));
    return x;
}

// Sums over a step's queries, as left operand: rows are keys.
using Left = unsigned[QUERIES / 16][4];
using Scores = float[QUERIES / 2];
using Sums = float[D / 2];

// x (+)= A·Bᵀ over D: 64 rows of an operand that stays, and a step's queries.
static THERIA_DEVICE void multiply(Scores &x, unsigned a, unsigned b, bool adds) {
    Operand left(a), right(b);
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
        Product<QUERIES, E>::template add<false, false>(x, left.at(k / 4 * KEY_PANEL + k % 4 * 32),
                                                        right.at(k / 4 * QUERY_PANEL + k % 4 * 32), adds || k > 0);
}
// The same with rows that are in registers.
static THERIA_DEVICE void multiply(Scores &x, const unsigned (&a)[D / 16][4], unsigned b, bool adds) {
    Operand right(b);
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
        Product<QUERIES, E>::template add<false>(x, a[k], right.at(k / 4 * QUERY_PANEL + k % 4 * 32), adds || k > 0);
}

// sums += A·B over a step's queries.
static THERIA_DEVICE void add_product(Sums &sums, const Left &a, unsigned b) {
    Operand right(b, QUERY_PANEL);
#pragma unroll
    for (int k = 0; k < QUERIES / 16; ++k)
        Product<D, E>::template add<true>(sums, a[k], right.at(k * 16 * PANEL_ROW), true);
}

// The warpgroups that multiply.
struct Consumer {
    const Parameters &p;
    const Block &sweep;
    unsigned memory;
    Barriers barriers;
    int group, thread; // which of the two, and a thread's number in it

    // Of this warp, among the block's keys.
    THERIA_DEVICE int first_row() const { return 64 * group + thread / WARP * 16; }

    // Where this lane's row begins in a panel of keys as eight columns from `chunk` on: for four matrices at a time.
    THERIA_DEVICE unsigned matrix_at(unsigned chunk) const {
        unsigned lane = forget(thread % WARP), row = first_row() + lane % 16;
        return row * PANEL_ROW + ((chunk + lane / 16) ^ row % 8) * 16;
    }

    // One lane for its warp, whose lanes are done.
    THERIA_DEVICE void tell(Barrier barrier) const {
        __syncwarp();
        if (thread % WARP == 0)
            barrier.arrive();
    }

    // Keys that are not there take part in nothing, whatever lies in their place.
    THERIA_DEVICE void clear_missing_keys() const {
        int left = sweep.length - sweep.first_key();
        if (left >= KEYS)
            return;
        for (int n = group * WARPGROUP + thread; n < 4 * KEY_BYTES / 16; n += CONSUMERS * WARPGROUP)
            if (n / 8 % KEYS >= left)
                store_vector(memory + K_AT + 16 * n, float4{0, 0, 0, 0});
        publish_stores();
        meet(1, CONSUMERS * WARPGROUP);
    }

    // dQ' of the step before, transposed: both terms, over all keys of the block. In the first step that is of nothing,
    // and nobody takes it.
    THERIA_DEVICE void begin_rows(float (&rows)[PART], int step) const {
        if (step)
            barriers.stored().await((step - 1) & 1);
        begin_products();
        unsigned wide = D == 128 ? group * KEY_PANEL : 0; // this group's columns of K
        int column = D == 128 ? 0 : 32 * group;           // and its queries
#pragma unroll
        for (int kind = 0; kind < 2; ++kind) {
            Operand keys(memory + (kind ? K_TANGENT_AT : K_AT) + wide);
            Operand curved(memory + curved_at(kind, step - 1) + column * 2);
#pragma unroll
            for (int k = 0; k < KEYS / 16; ++k)
                Product<32, E>::template add<true, true>(rows, keys.at(k * 16 * PANEL_ROW),
                                                         curved.at(k * 16 * PANEL_ROW), kind + k > 0);
        }
        commit_products();
    }
    // It goes to the warp that adds it to the others: each thread's numbers in fours.
    THERIA_DEVICE void hand_rows_over(const float (&rows)[PART], int step) const {
        barriers.left().await(~step & 1);
#pragma unroll
        for (int n = 0; n < PART / 4; ++n)
            store_vector(memory + ROWS_AT + ((group * (PART / 4) + n) * WARPGROUP + thread) * 16,
                         float4{rows[4 * n], rows[4 * n + 1], rows[4 * n + 2], rows[4 * n + 3]});
        publish_stores();
        tell(barriers.made());
    }

    // Right operands of dQ'. Rows are keys and columns queries: a panel of dS' and one of dS, or, with 32 queries, a
    // half each.
    static THERIA_DEVICE unsigned curved_at(int kind, int step) {
        return CURVED_AT + kind * (QUERIES == 64 ? KEY_PANEL : 64);
    }
    THERIA_DEVICE void store_curved(int kind, const Left &x, int step) const {
        unsigned first = memory + curved_at(0, step) + matrix_at(0);
#pragma unroll
        for (int k = 0; k < QUERIES / 16; ++k)
            store_matrices(QUERIES == 64 ? (first ^ 32 * k) + kind * KEY_PANEL : first ^ (32 * k + 64 * kind), x[k]);
    }

    // Pairs that do not see each other.
    THERIA_DEVICE void hide(Scores &s, int i0) const {
        const Score &score = p.rules.forward.score;
        int lane = thread % WARP, j0 = sweep.first_key() + first_row() + lane / 4;
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                int i = i0 + 8 * n + 2 * (lane % 4) + c;
                int first = INTERVALS ? score.first_key(i, sweep.length) : 0;
                int end = INTERVALS ? score.end_key(i, sweep.length) : sweep.length;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    int j = j0 + 8 * half;
                    float &x = s[4 * n + 2 * half + c];
                    x = j >= first && j < end ? x : -infinity();
                }
            }
    }

    // S becomes P, and dP loses δ. dS is an operand, and P where G has a tangent.
    THERIA_DEVICE void weigh(Scores &s, Scores &dp, Left &weights, Left &curved, unsigned records, float factor) const {
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n) {
            float2 known[2] = {load_pair(records + 8 * n * int(sizeof(Known))),
                               load_pair(records + (8 * n + 1) * int(sizeof(Known)))}; // lse and δ
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int e = 4 * n + 2 * half, word = 2 * (n % 2) + half;
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    s[e + c] = exp2_of(fmaf(s[e + c], factor, -known[c].x * LOG2_E));
                    dp[e + c] -= known[c].y;
                }
                if (WITH_COTANGENT_TANGENT)
                    weights[n / 2][word] = Half<E>::pair(s[e], s[e + 1]);
                curved[n / 2][word] = Half<E>::pair(s[e] * dp[e], s[e + 1] * dp[e + 1]);
            }
        }
    }

    // S' becomes what dP' is added to. P' is an operand.
    THERIA_DEVICE void shift(const Scores &s, Scores &s_tangent, const Scores &dp, Left &weights_tangent,
                             unsigned records, float scale) const {
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n) {
            float2 known[2] = {load_pair(records + 8 * n * int(sizeof(Known)) + 8),
                               load_pair(records + (8 * n + 1) * int(sizeof(Known)) + 8)}; // μ and δ'
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int e = 4 * n + 2 * half;
                float shifted[2];
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    shifted[c] = fmaf(s_tangent[e + c], scale, -known[c].x);
                    s_tangent[e + c] = fmaf(shifted[c], dp[e + c], -known[c].y);
                }
                weights_tangent[n / 2][2 * (n % 2) + half] = Half<E>::pair(s[e] * shifted[0], s[e + 1] * shifted[1]);
            }
        }
    }

    // dS', with dP' in.
    static THERIA_DEVICE void curve(const Scores &s, const Scores &s_tangent, Left &curved_tangent) {
#pragma unroll
        for (int n = 0; n < QUERIES / 4; ++n)
            curved_tangent[n / 4][n % 4] =
                Half<E>::pair(s[2 * n] * s_tangent[2 * n], s[2 * n + 1] * s_tangent[2 * n + 1]);
    }

    // Writes a gradient of this group's keys, through `at`, which nobody reads any more.
    THERIA_DEVICE void write(const TensorMap &map, const Sums &sums, float scale, unsigned at) const {
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
            unsigned x[4];
#pragma unroll
            for (int n = 0; n < 4; ++n)
                x[n] = Half<E>::pair(sums[8 * k + 2 * n] * scale, sums[8 * k + 2 * n + 1] * scale);
            store_matrices(at + k / 4 * KEY_PANEL + matrix_at(k % 4 * 2), x);
        }
        publish_stores();
        meet(2 + group, WARPGROUP);
        if (thread == 0) {
            for (int n = 0; n < PANELS; ++n)
                take_away(map, at + n * KEY_PANEL + 64 * group * PANEL_ROW, n * PANEL, sweep.first_key() + 64 * group,
                          sweep.h, sweep.b);
            commit_taken();
        }
    }

    THERIA_DEVICE void work() {
        float scale = float(p.rules.forward.score.scale), factor = scale * LOG2_E;
        Sums dk = {}, dv = {};
        float rows[PART] = {};
        unsigned keys[D / 16][4];
        barriers.stay().await(0);
        clear_missing_keys();
        if (KEEPS_KEYS)
            for (int k = 0; k < D / 16; ++k)
                load_matrices(keys[k], memory + K_AT + k / 4 * KEY_PANEL + matrix_at(k % 4 * 2));
        int step = 0;
        Slot<STAGES> slot;
        for (int steps = sweep.count * p.rules.forward.group.number; step < steps; slot.advance(), ++step) {
            memory = forget(memory);
            unsigned own = memory + 64 * group * PANEL_ROW; // this group's rows of what stays
            unsigned stage = memory + RING_AT + slot.index * STAGE_BYTES;
            unsigned records = memory + RECORDS_AT + slot.index * RECORD_BYTES + thread % 4 * 2 * int(sizeof(Known));
            Scores s, s_tangent, dp;
            Left weights, weights_tangent, curved, curved_tangent;
            auto multiply_keys = [&](Scores &x, int b) {
                if (KEEPS_KEYS)
                    multiply(x, keys, stage + b, false);
                else
                    multiply(x, own + K_AT, stage + b, false);
            };

            barriers.full(slot.index).await(slot.parity);
            begin_products();
            multiply_keys(s, Q_AT);
            multiply(dp, own + V_AT, stage + G_AT, false);
            commit_products();
            multiply_keys(s_tangent, Q_TANGENT_AT);
            multiply(s_tangent, own + K_TANGENT_AT, stage + Q_AT, true);
            commit_products();

            await_products<1>();
            hold(s);
            hold(dp);
            int visit = load_visit(memory + VISITS_AT + 4 * slot.index);
            if (visit != WHOLE)
                hide(s, visit);
            weigh(s, dp, weights, curved, records, factor);
            begin_products();
            add_product(dk, curved, stage + Q_TANGENT_AT);
            if (WITH_COTANGENT_TANGENT)
                add_product(dv, weights, stage + G_TANGENT_AT);
            commit_products();

            await_products<1>();
            hold(s_tangent);
            shift(s, s_tangent, dp, weights_tangent, records, scale);
            hold(s_tangent);
            begin_products();
            multiply(s_tangent, own + V_TANGENT_AT, stage + G_AT, true);
            if (WITH_COTANGENT_TANGENT)
                multiply(s_tangent, own + V_AT, stage + G_TANGENT_AT, true);
            commit_products();
            begin_rows(rows, step);
            begin_products();
            add_product(dv, weights_tangent, stage + G_AT);
            commit_products();

            await_products<2>();
            hold(s_tangent);
            curve(s, s_tangent, curved_tangent);
            await_products<1>();
            hold(rows);
            tell(barriers.read());
            if (step)
                hand_rows_over(rows, step - 1);
            barriers.read().await(step & 1);
            store_curved(1, curved, step);
            store_curved(0, curved_tangent, step);
            publish_stores();
            tell(barriers.stored());
            begin_products();
            add_product(dk, curved_tangent, stage + Q_AT);
            commit_products();
            await_products<0>();
            hold(dk);
            hold(dv);
            tell(barriers.empty(slot.index));
        }
        if (step) {
            begin_rows(rows, step);
            await_products<0>();
            hold(rows);
            hand_rows_over(rows, step - 1);
        }
        // Nobody reads keys any more when both are here.
        meet(1, CONSUMERS * WARPGROUP);
        write(p.dk, dk, scale, memory + K_AT);
        write(p.dv, dv, 1, memory + V_AT);
        if (thread == 0)
            await_taken<0>();
    }
};

extern "C" __global__ void __launch_bounds__((CONSUMERS + 1) * WARPGROUP, 1)
    kernel(const __grid_constant__ Parameters p) {
    extern __shared__ __align__(1024) unsigned char shared[];
    let_next_launch_start();
    unsigned memory = shared_address(shared);
    Barriers barriers{memory + BARRIERS_AT};
    int warp = __shfl_sync(FULL_WARP, threadIdx.x / WARP, 0);
    if (warp == 0 && is_elected()) {
        barriers.make();
        prefetch(p.q), prefetch(p.k), prefetch(p.v), prefetch(p.g), prefetch(p.dk), prefetch(p.dv);
        prefetch(p.q_tangent), prefetch(p.k_tangent), prefetch(p.v_tangent);
        if (WITH_COTANGENT_TANGENT)
            prefetch(p.g_tangent);
    }
    Block sweep(p.rules.forward);
    __syncthreads();
    await_launches_ahead();
    sweep.look(p.rules.forward.score);
    if (warp < WARPGROUP / WARP) {
        give_registers_back<24>();
        if (warp == 0 && is_elected())
            produce(p, sweep, memory, barriers);
        else if (warp == 1 && is_elected())
            write_rows(p, sweep, memory, barriers);
    } else {
        take_registers<240>();
        Consumer{p, sweep, memory, barriers, warp / 4 - 1, int(threadIdx.x % WARPGROUP)}.work();
    }
}
