// Backward on sm_90a in one sweep: a block owns 128 keys of a head and visits the queries that see them.
//
//     Sᵀ = K Qᵀ    dPᵀ = V Gᵀ    P = exp(scale·S - lse)    dS = P ∘ (dP - δ)
//     dV += Pᵀ G   dK += dSᵀ Q   dQ = dS K, which is added to sums in memory when it is this block's turn
//
//     shared memory    K, V        128 keys, for good
//                      Q, G        QUERIES of them, a ring of two stages, with the records of the queries
//                      dSᵀ         128 keys, QUERIES: two buffers
//                      sums of dQ  f32, a buffer for each writer
//
//     warpgroup 0      warp 0 brings tiles, the next WRITERS warps add sums of dQ to memory in turn
//     warpgroups 1, 2  have 64 keys each. Pᵀ and dSᵀ come out of products as the operands that the next ones take from
//                      registers. Only dS is shared: each makes its half of dQ from that of all keys.
//
// What a warpgroup does for a tile, and which products run beside it. At D = 128 dS is made in two halves, so that a
// part of dV is under way meanwhile; at D = 64, where tiles are of 128 queries, registers do not hold that.
//
//     products    | S    | dP              | (half of dV) | dV, dK      | dQ, S of the next tile
//     itself      |      | P = exp(S-lse)  | dS, shares it | awaits dS  | gives dQ away
//
// Barriers, one for each stage or buffer: `q_full` and `g_full` count bytes, `q_empty`, `g_empty`, `shared_full` and
// `sums_full` the eight warps that have read or written, `sums_empty` is the writer's. A buffer of dS needs no barrier
// for being empty: who has written the one after it has read this one.
#include "hopper_keys.cuh"
#include "hopper_sweep.cuh"
#include "hopper_turns.cuh"

using namespace theria;

using E = THERIA_ELEMENT;
using Math = Half<E>;
constexpr int D = THERIA_D, QUERIES = THERIA_QUERIES, WRITERS = 2;
constexpr bool INTERVALS = THERIA_INTERVALS; // causal masks and windows
constexpr int KEYS = 128, CONSUMERS = 2, OWN_KEYS = KEYS / CONSUMERS, STAGES = 2, BUFFERS = 2;
constexpr int CONSUMER_WARPS = CONSUMERS * 4, CONSUMER_THREADS = CONSUMERS * WARPGROUP;
constexpr int THREADS = WARPGROUP + CONSUMER_THREADS;
static_assert(D == 64 || D == 128, "whole panels, and sums that registers hold");
static_assert(QUERIES == 64 || (QUERIES == 128 && D == 64), "what registers hold");

// Panels of a tile, and their bytes.
constexpr int PANELS = D / PANEL, KEY_PANEL = KEYS * PANEL_ROW, QUERY_PANEL = QUERIES * PANEL_ROW;
constexpr int KEY_BYTES = PANELS * KEY_PANEL, QUERY_BYTES = PANELS * QUERY_PANEL;
constexpr int SHARED_BYTES = QUERIES / PANEL * KEY_PANEL, SUM_BYTES = QUERIES * D * 4;
constexpr int RECORD_BYTES = QUERIES * int(sizeof(Known));

// A warpgroup's half of dQ: queries of its own, or columns of its own.
constexpr bool OWN_QUERIES = QUERIES == 128;
constexpr int SUM_COLUMNS = OWN_QUERIES ? D : D / 2;
constexpr int SUMS = SUM_COLUMNS / 2; // of a thread

// Queries of a tile in sixteens, and for how many of them dS is made at a time.
constexpr int CHUNKS = QUERIES / 16, PIECE = D == 128 ? CHUNKS / 2 : CHUNKS;

struct alignas(64) Parameters {
    TensorMap q, k, v, g, dk, dv;
    Rules rules;
};

// Addresses in shared memory.
struct Memory {
    static constexpr int K = 0, V = K + KEY_BYTES, Q = V + KEY_BYTES, G = Q + STAGES * QUERY_BYTES;
    static constexpr int SHARED = G + STAGES * QUERY_BYTES, SUMS = SHARED + BUFFERS * SHARED_BYTES;
    static constexpr int RECORDS = SUMS + WRITERS * SUM_BYTES, BARRIERS = RECORDS + STAGES * RECORD_BYTES;
    static constexpr int BARRIER_COUNT = 2 + 4 * STAGES + BUFFERS + 2 * WRITERS;
    static constexpr int NOTES = BARRIERS + 8 * BARRIER_COUNT, BYTES = NOTES + 48;

    unsigned base;

    THERIA_DEVICE unsigned k() const { return base + K; }
    THERIA_DEVICE unsigned v() const { return base + V; }
    THERIA_DEVICE unsigned q(int stage) const { return base + Q + stage * QUERY_BYTES; }
    THERIA_DEVICE unsigned g(int stage) const { return base + G + stage * QUERY_BYTES; }
    THERIA_DEVICE unsigned shared(int buffer) const { return base + SHARED + buffer * SHARED_BYTES; }
    THERIA_DEVICE unsigned sums(int writer) const { return base + SUMS + writer * SUM_BYTES; }
    THERIA_DEVICE unsigned records(int stage) const { return base + RECORDS + stage * RECORD_BYTES; }

    THERIA_DEVICE Barrier barrier(int n) const { return {base + BARRIERS + 8 * n}; }
    THERIA_DEVICE Barrier k_full() const { return barrier(0); }
    THERIA_DEVICE Barrier v_full() const { return barrier(1); }
    THERIA_DEVICE Barrier q_full(int stage) const { return barrier(2 + stage); }
    THERIA_DEVICE Barrier g_full(int stage) const { return barrier(2 + STAGES + stage); }
    THERIA_DEVICE Barrier q_empty(int stage) const { return barrier(2 + 2 * STAGES + stage); }
    THERIA_DEVICE Barrier g_empty(int stage) const { return barrier(2 + 3 * STAGES + stage); }
    THERIA_DEVICE Barrier shared_full(int buffer) const { return barrier(2 + 4 * STAGES + buffer); }
    THERIA_DEVICE Barrier sums_full(int writer) const { return barrier(2 + 4 * STAGES + BUFFERS + writer); }
    THERIA_DEVICE Barrier sums_empty(int writer) const { return barrier(2 + 4 * STAGES + BUFFERS + WRITERS + writer); }

    THERIA_DEVICE void make_barriers() const {
        k_full().make(1);
        v_full().make(1);
        for (int n = 0; n < STAGES; ++n) {
            q_full(n).make(1);
            g_full(n).make(1);
            q_empty(n).make(CONSUMER_WARPS);
            g_empty(n).make(CONSUMER_WARPS);
        }
        for (int n = 0; n < BUFFERS; ++n)
            shared_full(n).make(CONSUMER_WARPS);
        for (int n = 0; n < WRITERS; ++n) {
            sums_full(n).make(CONSUMER_WARPS);
            sums_empty(n).make(1);
        }
        publish_barriers();
    }
};

using Block = Sweep<KEYS, QUERIES, INTERVALS>;

// ---- The warp that brings tiles: one lane of it. ----

static THERIA_DEVICE void bring_tiles(const Parameters &p, const Block &block, Memory at) {
    Walk walk(block, p.rules.forward);
    if (!walk.left)
        return;
    at.k_full().arrive_and_expect(KEY_BYTES);
#pragma unroll
    for (int n = 0; n < PANELS; ++n)
        bring(at.k() + n * KEY_PANEL, p.k, at.k_full(), n * PANEL, block.first_key(), block.h, block.b);
    const Known *records = static_cast<const Known *>(p.rules.statistics);
    bool first = true;
    for (Slot<STAGES> slot; walk.left; walk.advance(), slot.advance()) {
        int row = walk.tile * QUERIES, s = slot.index;
        at.q_empty(s).await(slot.parity ^ 1);
        at.q_full(s).arrive_and_expect(QUERY_BYTES + RECORD_BYTES);
#pragma unroll
        for (int n = 0; n < PANELS; ++n)
            bring(at.q(s) + n * QUERY_PANEL, p.q, at.q_full(s), n * PANEL, row, walk.head, block.b);
        long long head = block.b * p.rules.heads + walk.head;
        bring(at.records(s), records + (head * p.rules.padded + row), at.q_full(s), RECORD_BYTES);
        if (first) {
            first = false;
            at.v_full().arrive_and_expect(KEY_BYTES);
#pragma unroll
            for (int n = 0; n < PANELS; ++n)
                bring(at.v() + n * KEY_PANEL, p.v, at.v_full(), n * PANEL, block.first_key(), block.h, block.b);
        }
        at.g_empty(s).await(slot.parity ^ 1);
        at.g_full(s).arrive_and_expect(QUERY_BYTES);
#pragma unroll
        for (int n = 0; n < PANELS; ++n)
            bring(at.g(s) + n * QUERY_PANEL, p.g, at.g_full(s), n * PANEL, row, walk.head, block.b);
    }
}

// ---- A warp that adds sums of dQ: one lane of it, every WRITERS-th tile of the walk. ----

static THERIA_DEVICE void add_sums(const Parameters &p, const Block &block, Memory at, int writer) {
    const Rules &all = p.rules;
    Walk walk(block, all.forward);
    unsigned parity = 0;
    for (int skip = writer; walk.left; walk.advance()) {
        if (skip--)
            continue;
        skip = WRITERS - 1;
        long long head = block.b * all.heads + walk.head;
        const Score &score = all.forward.score;
        Strand strand(all, head, walk.tile, Block::places(score), block.before(score, walk.tile));
        char *to = static_cast<char *>(all.turn_rows) + strand.at * SUM_BYTES;
        unsigned *counter = static_cast<unsigned *>(all.turns) + strand.at;
        at.sums_full(writer).await(parity);
        add_in_turn(counter, strand.turn, to, at.sums(writer), SUM_BYTES, [&] { at.sums_empty(writer).arrive(); });
        parity ^= 1;
    }
}

// ---- A warpgroup with 64 keys. ----

// Sᵀ = K Qᵀ, or dPᵀ = V Gᵀ, of own keys.
static THERIA_DEVICE void multiply_tile(float (&x)[QUERIES / 2], unsigned keys, unsigned queries) {
    multiply_rows<E, PANELS, KEY_PANEL, QUERY_PANEL>(x, keys, queries);
}

// dV += Pᵀ G, or dK += dSᵀ Q, of some queries.
template <int BEGIN, int END>
static THERIA_DEVICE void add_tile(float (&x)[D / 2], const unsigned (&a)[CHUNKS][4], unsigned queries) {
    add_rows<E, BEGIN, END, QUERY_PANEL>(x, a, queries);
}

// dQ = dS K: own queries, or own columns.
static THERIA_DEVICE void multiply_own(float (&x)[SUMS], unsigned shared, unsigned keys, int group) {
    constexpr int OWN_COLUMN_BYTES = SUM_COLUMNS == PANEL ? KEY_PANEL : SUM_COLUMNS * 2;
    unsigned long long a = panel(shared + (OWN_QUERIES ? group * KEY_PANEL : 0));
    unsigned long long b = panel(keys + (OWN_QUERIES ? 0 : group * OWN_COLUMN_BYTES));
    multiply_shared<E, KEYS>(x, a, b);
}

// The first of the block's keys that a thread's warp has.
static THERIA_DEVICE int warp_row(int thread) { return (thread - WARPGROUP) / WARP * 16; }

// What a warpgroup seldom needs to know of its block lies in shared memory: registers are few.
struct Notes {
    // Key n of the block is seen by the queries from n + NEAR on, WIDTH of them, if n is below THERE.
    enum { FIRST_KEY, HEAD, ENTRY, LOW, HIGH, FIRST_TILE, LAST_TILE, NEAR, WIDTH, THERE };
    unsigned at;

    THERIA_DEVICE void write(int which, int x) const {
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(at + 4 * which), "r"(x) : "memory");
    }
    THERIA_DEVICE int operator[](int which) const {
        int x;
        asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(at + 4 * which));
        return x;
    }
    THERIA_DEVICE void write(const Block &block, const Forward &p) const {
        constexpr int FAR = 1 << 30; // further than any query
        Walk walk(block, p);
        long long zero = (long long)block.first_key() - p.score.origin, near = -FAR, end = FAR;
        if (INTERVALS && p.score.ahead != Score::UNBOUNDED && zero - p.score.ahead > near)
            near = zero - p.score.ahead;
        if (INTERVALS && p.score.back != Score::UNBOUNDED && zero + p.score.back + 1 < end)
            end = zero + p.score.back + 1;
        write(FIRST_KEY, block.first_key());
        write(HEAD, block.h);
        write(ENTRY, block.b);
        write(LOW, block.low);
        write(HIGH, block.high);
        write(FIRST_TILE, walk.first);
        write(LAST_TILE, walk.last);
        write(NEAR, int(near));
        write(WIDTH, int(end - near));
        write(THERE, block.length - block.first_key());
    }
};

// What of a tile is not seen: P comes to 0. Without INTERVALS all tiles have something to hide, or none.
static THERIA_DEVICE void hide(float (&s)[QUERIES / 2], const Notes &notes, int tile) {
    bool whole = INTERVALS ? tile * QUERIES >= notes[Notes::LOW] && tile * QUERIES + QUERIES <= notes[Notes::HIGH]
                           : notes[Notes::THERE] >= KEYS;
    if (whole)
        return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int thread = thread_now(), key = warp_row(thread) + 8 * half + thread % WARP / 4;
        unsigned query = tile * QUERIES + 2 * (thread % 4) - key - notes[Notes::NEAR];
        unsigned width = key < notes[Notes::THERE] ? notes[Notes::WIDTH] : 0;
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                float &x = s[4 * n + 2 * half + c];
                x = query + 8 * n + c < width ? x : -infinity();
            }
    }
}

// Keys beyond the length of the entry hold anything: zeros, so that a weight of zero makes zero of them.
static THERIA_DEVICE void clear_keys(Memory at, int there) {
    constexpr int VECTORS = PANEL_ROW / 16;
    unsigned from = at.k() + there * PANEL_ROW;
    for (int n = threadIdx.x - WARPGROUP; n < (KEYS - there) * VECTORS; n += CONSUMER_THREADS)
#pragma unroll
        for (int m = 0; m < 2 * PANELS; ++m)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(from + m * KEY_PANEL + n * 16), "r"(0)
                         : "memory");
    publish_stores();
    meet(1, CONSUMER_THREADS);
}

// A warpgroup's half of dQ, in the order of its threads' registers: hopper_finish.cu knows it.
static THERIA_DEVICE void give_sums(const float (&x)[SUMS], unsigned to, int group) {
    to += group * (SUM_BYTES / CONSUMERS) + threadIdx.x % WARPGROUP * 16;
#pragma unroll
    for (int n = 0; n < SUMS / 4; ++n)
        asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + n * WARPGROUP * 16), "f"(x[4 * n]),
                     "f"(x[4 * n + 1]), "f"(x[4 * n + 2]), "f"(x[4 * n + 3])
                     : "memory");
}

// Own rows of dK or dV, over those of K or V.
static THERIA_DEVICE void put(float (&x)[D / 2], float scale, const TensorMap &to, unsigned tile, const Notes &notes,
                              int group) {
    unsigned own = tile + group * OWN_KEYS * PANEL_ROW, words[D / 16][4];
#pragma unroll
    for (int n = 0; n < D / 2; ++n)
        x[n] *= scale;
    pack<Math, 0, D / 16>(words, x);
    store<KEY_PANEL, 0, D / 16>(tile, warp_row(thread_now()), words);
    publish_stores();
    meet(2 + group, WARPGROUP);
    if (threadIdx.x % WARPGROUP == 0) {
#pragma unroll
        for (int n = 0; n < PANELS; ++n)
            take_away(to, own + n * KEY_PANEL, n * PANEL, notes[Notes::FIRST_KEY] + group * OWN_KEYS,
                      notes[Notes::HEAD], notes[Notes::ENTRY]);
        commit_taken();
    }
}

static THERIA_DEVICE void visit_queries(const Parameters &p, const Block &block, Memory at, int group) {
    const Score &score = p.rules.forward.score;
    float scale = float(score.scale), factor = scale * LOG2_E;
    unsigned own_k = at.k() + group * OWN_KEYS * PANEL_ROW, own_v = at.v() + group * OWN_KEYS * PANEL_ROW;
    float dk[D / 2] = {}, dv[D / 2] = {};
    Notes notes{at.base + Memory::NOTES};
    if (threadIdx.x == WARPGROUP)
        notes.write(block, p.rules.forward);
    meet(1, CONSUMER_THREADS);
    int tile = INTERVALS ? notes[Notes::LAST_TILE] : 0;
    int left = block.count * p.rules.forward.group.number;
    if (left) {
        at.k_full().await(0);
        if (notes[Notes::THERE] < KEYS) {
            at.v_full().await(0);
            clear_keys(at, notes[Notes::THERE]);
        }
        float s[QUERIES / 2];
        at.q_full(0).await(0);
        multiply_tile(s, own_k, at.q(0));
        at.v_full().await(0);
        await_products<0>();
        hold(s);
        for (int step = 0; left; ++step) {
            int here = step % STAGES, next = (step + 1) % STAGES;
            unsigned parity = step / STAGES % 2;
            float dp[QUERIES / 2];
            at.g_full(here).await(parity);
            multiply_tile(dp, own_v, at.g(here));

            hide(s, notes, tile);
            exponentials(s, at.records(here), factor, LOG2_E);
            unsigned weights[CHUNKS][4], derived[CHUNKS][4];
            pack<Math, 0, PIECE>(weights, s);
            if (PIECE < CHUNKS)
                add_tile<0, PIECE>(dv, weights, at.g(here));

            await_products<PIECE < CHUNKS>();
            hold(dp);
            derive<0, PIECE>(dp, s, at.records(here));
            pack<Math, 0, PIECE>(derived, dp);
            store<KEY_PANEL, 0, PIECE>(at.shared(here), warp_row(thread_now()), derived);
            if constexpr (PIECE < CHUNKS) {
                pack<Math, PIECE, CHUNKS>(weights, s);
                add_tile<0, PIECE>(dk, derived, at.q(here));
                derive<PIECE, CHUNKS>(dp, s, at.records(here));
                pack<Math, PIECE, CHUNKS>(derived, dp);
                store<KEY_PANEL, PIECE, CHUNKS>(at.shared(here), warp_row(thread_now()), derived);
            }
            publish_stores();
            arrive_as_warp(at.shared_full(here));
            add_tile<CHUNKS - PIECE, CHUNKS>(dv, weights, at.g(here));
            add_tile<CHUNKS - PIECE, CHUNKS>(dk, derived, at.q(here));

            await_products<1>();
            arrive_as_warp(at.g_empty(here));
            at.shared_full(here).await(parity);
            float dq[SUMS];
            multiply_own(dq, at.shared(here), at.k(), group);

            // The scores of the next tile. After the last one nobody looks at what comes out: the product is made
            // whether it is wanted or not, because the compiler lets none run on where a branch may have skipped it.
            // Nor must a loop stand between the wait for a product and its sums while another one runs.
            if (--left)
                at.q_full(next).await((step + 1) / STAGES % 2);
            int writer = step % WRITERS;
            at.sums_empty(writer).await(step / WRITERS % 2 ^ 1);
            multiply_tile(s, own_k, at.q(next));
            await_products<1>();
            hold(dq);
            arrive_as_warp(at.q_empty(here));
            give_sums(dq, at.sums(writer), group);
            publish_stores();
            arrive_as_warp(at.sums_full(writer));
            await_products<0>();
            hold(s);
            if (INTERVALS)
                tile = tile == notes[Notes::FIRST_TILE] ? notes[Notes::LAST_TILE] : tile - 1;
        }
        hold(dk);
        hold(dv);
        meet(1, CONSUMER_THREADS); // nobody reads K any more
    }
    put(dv, 1, p.dv, at.v(), notes, group);
    put(dk, scale, p.dk, at.k(), notes, group);
    await_left<0>();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Parameters p) {
    extern __shared__ __align__(1024) unsigned char memory[];
    let_next_launch_start();
    Memory at{shared_address(memory)};
    Block block(p.rules.forward);
    if (threadIdx.x == 0) {
        at.make_barriers();
        prefetch(p.q);
        prefetch(p.k);
        prefetch(p.v);
        prefetch(p.g);
    }
    __syncthreads();
    await_launches_ahead();
    block.look(p.rules.forward.score);
    int group = __shfl_sync(FULL_WARP, int(threadIdx.x) / WARPGROUP, 0);
    if (group == 0) {
        give_registers_back<24>();
        int warp = __shfl_sync(FULL_WARP, int(threadIdx.x) / WARP, 0);
        if (warp == 0 && is_elected())
            bring_tiles(p, block, at);
        else if (warp >= 1 && warp <= WRITERS && is_elected())
            add_sums(p, block, at, warp - 1);
    } else {
        take_registers<240>();
        visit_queries(p, block, at, group - 1);
    }
}
