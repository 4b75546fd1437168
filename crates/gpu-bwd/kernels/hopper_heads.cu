// Backward on sm_90a of heads with few keys, in one launch: a block has all keys of a head, so dQ is whole where it is
// made, and what is known of a query is worked out beside the products. Blocks go from head to head.
//
//     δ = rowsum(G ∘ (O + rest))
//     Sᵀ = K Qᵀ    dPᵀ = V Gᵀ    P = exp(scale·S - lse)    dS = P ∘ (dP - δ)
//     dV += Pᵀ G   dK += dSᵀ Q   dQ = dS K
//
//     shared memory    K, V        KEYS of them, of this head and of the next one; dK and dV leave from there
//                      Q, G        64 queries, a ring of two stages, with the records of the queries
//                      O, rest     of the tile whose records are made
//                      dSᵀ         KEYS × 64
//                      dQ          64 queries, on its way out
//
//     warpgroup 0      warp 0 brings tiles, warps 1 and 2 make records, warp 3 takes results away
//     warpgroups 1, 2  have half of the keys each, 64 at a time (hopper_keys.cuh). Only dS is shared: each makes its
//                      half of the columns of dQ from that of all keys.
//
// What a warpgroup does for a tile, and which products run beside it:
//
//     products    | dP              | dV            | dK, S of the next 64 keys ... | dQ, S of the next tile
//     itself      | P = exp(S-lse)  | dS, shares it |                               | gives dQ away
//
// Barriers, one for each stage or buffer: `k_full`, `v_full`, `q_full`, `g_full` and `out_full` count bytes; the others
// count the warps that have written (`full`) or read (`empty`). A head ends with both warpgroups meeting: dK lies over K.
#include "hopper_keys.cuh"

using namespace theria;

using E = THERIA_ELEMENT;
using Math = Half<E>;
constexpr int D = 64, QUERIES = 64, KEYS = THERIA_KEYS;
constexpr bool INTERVALS = THERIA_INTERVALS; // causal masks and windows
constexpr int CONSUMERS = 2, OWN_KEYS = KEYS / CONSUMERS, PARTS = OWN_KEYS / 64, STAGES = 2;
constexpr int CONSUMER_WARPS = CONSUMERS * 4, CONSUMER_THREADS = CONSUMERS * WARPGROUP, HELPERS = 2;
constexpr int THREADS = WARPGROUP + CONSUMER_THREADS;
static_assert(KEYS == 128 || KEYS == 256, "64 or 128 for a warpgroup: dK and dV are in registers");

// Bytes of tiles, each of which is one panel.
constexpr int KEY_BYTES = KEYS * PANEL_ROW, PART_BYTES = 64 * PANEL_ROW, QUERY_BYTES = QUERIES * PANEL_ROW;
constexpr int RECORD_BYTES = QUERIES * int(sizeof(Known));
// A warpgroup's columns of dQ, and a thread's sums of them.
constexpr int COLUMNS = D / CONSUMERS, SUMS = COLUMNS / 2;
constexpr int CHUNKS = QUERIES / 16;

struct alignas(64) Parameters {
    TensorMap q, k, v, g, out, rest, dq, dk, dv;
    Rules rules;
};

// Addresses in shared memory.
struct Memory {
    static constexpr int K = 0, V = K + 2 * KEY_BYTES, Q = V + 2 * KEY_BYTES, G = Q + STAGES * QUERY_BYTES;
    static constexpr int OUT = G + STAGES * QUERY_BYTES, REST = OUT + QUERY_BYTES, SHARED = REST + QUERY_BYTES;
    static constexpr int MADE = SHARED + KEY_BYTES, RECORDS = MADE + QUERY_BYTES;
    static constexpr int BARRIERS = RECORDS + STAGES * RECORD_BYTES, BARRIER_COUNT = 6 + 4 * STAGES + 7;

    unsigned base;

    THERIA_DEVICE unsigned k(int buffer) const { return base + K + buffer * KEY_BYTES; }
    THERIA_DEVICE unsigned v(int buffer) const { return base + V + buffer * KEY_BYTES; }
    THERIA_DEVICE unsigned q(int stage) const { return base + Q + stage * QUERY_BYTES; }
    THERIA_DEVICE unsigned g(int stage) const { return base + G + stage * QUERY_BYTES; }
    THERIA_DEVICE unsigned out() const { return base + OUT; }
    THERIA_DEVICE unsigned rest() const { return base + REST; }
    THERIA_DEVICE unsigned shared() const { return base + SHARED; }
    THERIA_DEVICE unsigned made() const { return base + MADE; }
    THERIA_DEVICE unsigned records(int stage) const { return base + RECORDS + stage * RECORD_BYTES; }

    THERIA_DEVICE Barrier barrier(int n) const { return {base + BARRIERS + 8 * n}; }
    THERIA_DEVICE Barrier k_full(int buffer) const { return barrier(buffer); }
    THERIA_DEVICE Barrier v_full(int buffer) const { return barrier(2 + buffer); }
    THERIA_DEVICE Barrier keys_empty(int buffer) const { return barrier(4 + buffer); }
    THERIA_DEVICE Barrier q_full(int stage) const { return barrier(6 + stage); }
    THERIA_DEVICE Barrier g_full(int stage) const { return barrier(6 + STAGES + stage); }
    THERIA_DEVICE Barrier records_full(int stage) const { return barrier(6 + 2 * STAGES + stage); }
    THERIA_DEVICE Barrier stage_empty(int stage) const { return barrier(6 + 3 * STAGES + stage); }
    THERIA_DEVICE Barrier out_full() const { return barrier(6 + 4 * STAGES); }
    THERIA_DEVICE Barrier out_empty() const { return barrier(7 + 4 * STAGES); }
    THERIA_DEVICE Barrier shared_full() const { return barrier(8 + 4 * STAGES); }
    THERIA_DEVICE Barrier shared_empty() const { return barrier(9 + 4 * STAGES); }
    THERIA_DEVICE Barrier made_full() const { return barrier(10 + 4 * STAGES); }
    THERIA_DEVICE Barrier made_empty() const { return barrier(11 + 4 * STAGES); }
    THERIA_DEVICE Barrier sums_full() const { return barrier(12 + 4 * STAGES); } // dK and dV, where K and V were

    THERIA_DEVICE void make_barriers() const {
        for (int n = 0; n < 2; ++n) {
            k_full(n).make(1);
            v_full(n).make(1);
            keys_empty(n).make(1);
        }
        for (int n = 0; n < STAGES; ++n) {
            q_full(n).make(1);
            g_full(n).make(1);
            records_full(n).make(HELPERS);
            stage_empty(n).make(CONSUMER_WARPS + HELPERS);
        }
        out_full().make(1);
        out_empty().make(HELPERS);
        shared_full().make(CONSUMER_WARPS);
        shared_empty().make(CONSUMER_WARPS);
        made_full().make(CONSUMER_WARPS);
        made_empty().make(1);
        sums_full().make(CONSUMER_WARPS);
        publish_barriers();
    }
};

// The way of a block: heads of keys at a distance of the grid, and in each all tiles of queries of all heads that share
// it. Everybody but the warpgroups that multiply keeps one; those count.
struct Way {
    const Rules &all;
    int pair, nth;  // a head of keys, counted over all batch entries, and how many were before it here
    int b, h;       // the entry, and the head in it
    int head, tile; // of queries
    int tiles, left; // of a head; and visits of this head of keys still to come, this one too
    unsigned step;  // visits before this one

    THERIA_DEVICE explicit Way(const Rules &all)
        : all(all), pair(blockIdx.x), nth(0), tiles((all.forward.score.t + QUERIES - 1) / QUERIES), step(0) {
        enter();
    }
    THERIA_DEVICE void enter() {
        b = all.forward.heads.quotient(pair);
        h = pair - b * all.forward.heads.number;
        head = h * all.forward.group.number;
        tile = 0;
        left = tiles * all.forward.group.number;
    }
    THERIA_DEVICE bool goes_on() const { return pair < all.batch * int(all.forward.heads.number); }
    THERIA_DEVICE void next_head() {
        pair += gridDim.x;
        ++nth;
        enter();
    }
    THERIA_DEVICE void next_visit() {
        ++step;
        --left;
        if (++tile == tiles) {
            tile = 0;
            ++head;
        }
    }
    THERIA_DEVICE int buffer() const { return nth % 2; }
    THERIA_DEVICE unsigned buffer_parity() const { return nth / 2 % 2; }
    THERIA_DEVICE int stage() const { return step % STAGES; }
    THERIA_DEVICE unsigned stage_parity() const { return step / STAGES % 2; }
    THERIA_DEVICE unsigned parity() const { return step % 2; } // of what there is one of
};

// ---- The warp that brings tiles: one lane of it. ----

static THERIA_DEVICE void bring_keys(const Parameters &p, Memory at, const Way &way) {
    int n = way.buffer();
    at.keys_empty(n).await(way.buffer_parity() ^ 1);
    at.k_full(n).arrive_and_expect(KEY_BYTES);
    bring(at.k(n), p.k, at.k_full(n), 0, 0, way.h, way.b);
    at.v_full(n).arrive_and_expect(KEY_BYTES);
    bring(at.v(n), p.v, at.v_full(n), 0, 0, way.h, way.b);
}

static THERIA_DEVICE void bring_tiles(const Parameters &p, Memory at) {
    Way way(p.rules);
    bring_keys(p, at, way);
    for (; way.goes_on(); way.next_head())
        for (bool first = true; way.left; way.next_visit(), first = false) {
            int s = way.stage(), row = way.tile * QUERIES;
            at.stage_empty(s).await(way.stage_parity() ^ 1);
            at.q_full(s).arrive_and_expect(QUERY_BYTES);
            bring(at.q(s), p.q, at.q_full(s), 0, row, way.head, way.b);
            at.g_full(s).arrive_and_expect(QUERY_BYTES);
            bring(at.g(s), p.g, at.g_full(s), 0, row, way.head, way.b);
            at.out_empty().await(way.parity() ^ 1);
            at.out_full().arrive_and_expect(2 * QUERY_BYTES);
            bring(at.out(), p.out, at.out_full(), 0, row, way.head, way.b);
            bring(at.rest(), p.rest, at.out_full(), 0, row, way.head, way.b);
            // Keys of the next head, as soon as those of the last one have left.
            Way next = way;
            next.next_head();
            if (first && next.goes_on())
                bring_keys(p, at, next);
        }
}

// ---- The warp that takes results away: one lane of it. ----

static THERIA_DEVICE void take_results(const Parameters &p, Memory at) {
    for (Way way(p.rules); way.goes_on(); way.next_head()) {
        for (; way.left; way.next_visit()) {
            at.made_full().await(way.parity());
            take_away(p.dq, at.made(), 0, way.tile * QUERIES, way.head, way.b);
            commit_taken();
            await_left<0>();
            at.made_empty().arrive();
        }
        int buffer = way.buffer();
        at.sums_full().await(way.nth % 2);
        for (int n = 0; n < KEYS / 64 && 64 * n < p.rules.forward.score.m; ++n) {
            take_away(p.dv, at.v(buffer) + n * PART_BYTES, 0, 64 * n, way.h, way.b);
            take_away(p.dk, at.k(buffer) + n * PART_BYTES, 0, 64 * n, way.h, way.b);
        }
        commit_taken();
        await_left<0>();
        at.keys_empty(buffer).arrive();
    }
}

// ---- A warp that makes records of 32 queries of a tile: eight lanes for a row. ----

static THERIA_DEVICE void load(unsigned (&x)[4], unsigned from) {
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(from));
}

// The lower number of a pair.
static THERIA_DEVICE float lower(unsigned pair) {
    E x{(unsigned short)pair};
    return Element<E>::to_acc(x);
}

static THERIA_DEVICE void add_product(float &delta, unsigned g, unsigned out, unsigned rest) {
    delta = fmaf(lower(g), lower(out) + lower(rest), delta);
    delta = fmaf(lower(g >> 16), lower(out >> 16) + lower(rest >> 16), delta);
}

// lse in powers of two. A row that sees nothing has none, and weights of zero whatever is put there; one that says so
// and sees keys was handed over wrongly, and nothing of it is known.
static THERIA_DEVICE float known_lse(const Forward &p, int b, int head, int i, int length) {
    float lse = i < p.score.t ? *p.lse.at<float>(b, head, i) : 0;
    if (lse != minus_infinity<float>())
        return lse * LOG2_E;
    bool sees = INTERVALS ? p.score.first_key(i, length) < p.score.end_key(i, length) : length > 0;
    return sees ? not_a_number() : 0;
}

static THERIA_DEVICE void make_records(const Parameters &p, Memory at, int helper) {
    int lane = threadIdx.x % WARP, own = helper * 32;
    for (Way way(p.rules); way.goes_on(); way.next_head()) {
        int length = p.rules.forward.score.keys_of(way.b);
        for (; way.left; way.next_visit()) {
            int s = way.stage();
            float lse = known_lse(p.rules.forward, way.b, way.head, way.tile * QUERIES + own + lane, length);
            at.g_full(s).await(way.stage_parity());
            at.out_full().await(way.parity());
#pragma unroll 2
            for (int n = 0; n < 8; ++n) {
                int row = own + 4 * n + lane / 8;
                unsigned place = row * PANEL_ROW + (lane % 8 ^ row % 8) * 16, g[4], out[4], rest[4];
                load(g, at.g(s) + place);
                load(out, at.out() + place);
                load(rest, at.rest() + place);
                float delta = 0;
#pragma unroll
                for (int c = 0; c < 4; ++c)
                    add_product(delta, g[c], out[c], rest[c]);
#pragma unroll
                for (int apart = 1; apart < 8; apart *= 2)
                    delta += __shfl_xor_sync(FULL_WARP, delta, apart);
                float lse_of_row = __shfl_sync(FULL_WARP, lse, 4 * n + lane / 8);
                if (lane % 8 == 0)
                    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at.records(s) + row * int(sizeof(Known))),
                                 "f"(lse_of_row), "f"(delta)
                                 : "memory");
            }
            __syncwarp();
            if (is_elected()) {
                at.records_full(s).arrive();
                at.stage_empty(s).arrive();
                at.out_empty().arrive();
            }
        }
    }
}

// ---- A warpgroup that multiplies. ----

// The first row of a warp in its part of the keys.
static THERIA_DEVICE int warp_row() { return thread_now() % WARPGROUP / WARP * 16; }

// What is not seen of the 64 keys from `first` on: P comes to 0.
static THERIA_DEVICE void hide(float (&s)[QUERIES / 2], const Score &score, int first, int length, int tile) {
    if (!INTERVALS && first + 64 <= length)
        return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        constexpr int FAR = 1 << 30; // further than any query
        int thread = thread_now(), key = first + warp_row() + 8 * half + thread % WARP / 4, near = -FAR, end = FAR - 1;
        if (INTERVALS && score.ahead != Score::UNBOUNDED)
            near = max_of(near, key - score.origin - score.ahead);
        if (INTERVALS && score.back != Score::UNBOUNDED)
            end = key - score.origin + score.back + 1;
        // Queries from `near` on see the key, so many of them.
        unsigned query = tile * QUERIES + 2 * (thread % 4) - near, width = key < length ? end - near : 0;
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
static THERIA_DEVICE void clear_keys(Memory at, int buffer, int there) {
    constexpr int VECTORS = PANEL_ROW / 16;
    for (int n = there * VECTORS + threadIdx.x - WARPGROUP; n < KEYS * VECTORS; n += CONSUMER_THREADS)
#pragma unroll
        for (int which = 0; which < 2; ++which)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"((which ? at.v(buffer) : at.k(buffer)) + n * 16),
                         "r"(0)
                         : "memory");
    publish_stores();
    meet(1, CONSUMER_THREADS);
}

// Rows of dK or dV, over those of K or V.
static THERIA_DEVICE void put(float (&x)[D / 2], float scale, unsigned to) {
    unsigned words[D / 16][4];
#pragma unroll
    for (int n = 0; n < D / 2; ++n)
        x[n] *= scale;
    pack<Math, 0, D / 16>(words, x);
    store<KEY_BYTES, 0, D / 16>(to, warp_row(), words);
}

// Sᵀ or dPᵀ of 64 keys and a tile.
static THERIA_DEVICE void multiply_tile(float (&x)[QUERIES / 2], unsigned keys, unsigned queries) {
    multiply_rows<E, 1, KEY_BYTES, QUERY_BYTES>(x, keys, queries);
}
static THERIA_DEVICE void add_tile(float (&x)[D / 2], const unsigned (&a)[CHUNKS][4], unsigned queries) {
    add_rows<E, 0, CHUNKS, QUERY_BYTES>(x, a, queries);
}

// All that it needs of the problem is read where it is needed: registers are few.
static THERIA_DEVICE void visit_heads(const Parameters &p, Memory at, int group) {
    const Forward &all = p.rules.forward;
    const unsigned own = group * OWN_KEYS * PANEL_ROW;
    const int tiles = (all.score.t + QUERIES - 1) / QUERIES;
    float s[QUERIES / 2];
    at.k_full(0).await(0);
    at.q_full(0).await(0);
    multiply_tile(s, at.k(0) + own, at.q(0));
    await_products<0>();
    hold(s);
    unsigned step = 0;
    int heads = (p.rules.batch * int(all.heads.number) - int(blockIdx.x) + int(gridDim.x) - 1) / int(gridDim.x);
    for (int nth = 0; heads; ++nth) {
        --heads;
        int buffer = nth % 2, length = all.score.keys_of(all.heads.quotient(blockIdx.x + nth * gridDim.x));
        at.v_full(buffer).await(nth / 2 % 2);
        if (length < min_of(all.score.m, KEYS))
            clear_keys(at, buffer, length);
        float dk[PARTS][D / 2] = {}, dv[PARTS][D / 2] = {};
        for (int visits = tiles * all.group.number; visits; ++step) {
            int here = step % STAGES, next = (step + 1) % STAGES;
            at.g_full(here).await(step / STAGES % 2);
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                const unsigned mine = own + part * PART_BYTES;
                float dp[QUERIES / 2];
                multiply_tile(dp, at.v(buffer) + mine, at.g(here));
                if (part == 0) {
                    at.records_full(here).await(step / STAGES % 2);
                } else {
                    await_products<1>();
                    hold(s);
                }
                int tile = INTERVALS ? (tiles * all.group.number - visits) % tiles : 0;
                hide(s, all.score, group * OWN_KEYS + part * 64, length, tile);
                exponentials(s, at.records(here), float(all.score.scale) * LOG2_E, 1);
                unsigned weights[CHUNKS][4], derived[CHUNKS][4];
                pack<Math, 0, CHUNKS>(weights, s);
                add_tile(dv[part], weights, at.g(here));
                await_products<0>(); // of dV too: its weights are as many registers as dS needs
                hold(dp);
                derive<0, CHUNKS>(dp, s, at.records(here));
                pack<Math, 0, CHUNKS>(derived, dp);
                if (part == 0)
                    at.shared_empty().await(step % 2 ^ 1);
                store<KEY_BYTES, 0, CHUNKS>(at.shared() + mine, warp_row(), derived);
                if (part == PARTS - 1) {
                    publish_stores();
                    arrive_as_warp(at.shared_full());
                }
                add_tile(dk[part], derived, at.q(here));
                if (part < PARTS - 1)
                    multiply_tile(s, at.k(buffer) + mine + PART_BYTES, at.q(here));
            }
            at.shared_full().await(step % 2);
            float dq[SUMS];
            multiply_shared<E, KEYS>(dq, panel(at.shared()), panel(at.k(buffer) + group * COLUMNS * 2));

            // The scores of the next tile, which may be of the next head. After the last one nobody looks at what comes
            // out: the compiler lets no product run on where a branch may have skipped it.
            int keys = buffer;
            if (--visits == 0 && heads) {
                keys ^= 1;
                at.k_full(keys).await((nth + 1) / 2 % 2);
            }
            if (visits || heads)
                at.q_full(next).await((step + 1) / STAGES % 2);
            multiply_tile(s, at.k(keys) + own, at.q(next));
            await_products<1>();
            hold(dq);
            __syncwarp();
            if (is_elected()) {
                at.stage_empty(here).arrive();
                at.shared_empty().arrive();
            }
            unsigned words[SUMS / 8][4];
#pragma unroll
            for (int n = 0; n < SUMS; ++n)
                dq[n] *= float(all.score.scale);
            pack<Math, 0, SUMS / 8>(words, dq);
            at.made_empty().await(step % 2 ^ 1);
            store<QUERY_BYTES, 0, SUMS / 8>(at.made(), warp_row(), words, group * (SUMS / 8));
            publish_stores();
            arrive_as_warp(at.made_full());
            await_products<0>();
            hold(s);
        }
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            hold(dk[part]);
            hold(dv[part]);
            put(dv[part], 1, at.v(buffer) + own + part * PART_BYTES);
        }
        meet(1, CONSUMER_THREADS); // nobody reads K any more
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
            put(dk[part], float(all.score.scale), at.k(buffer) + own + part * PART_BYTES);
        publish_stores();
        arrive_as_warp(at.sums_full());
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Parameters p) {
    extern __shared__ __align__(1024) unsigned char memory[];
    let_next_launch_start();
    Memory at{shared_address(memory)};
    if (threadIdx.x == 0) {
        at.make_barriers();
        prefetch(p.q);
        prefetch(p.k);
        prefetch(p.v);
        prefetch(p.g);
    }
    __syncthreads();
    await_launches_ahead();
    int group = __shfl_sync(FULL_WARP, int(threadIdx.x) / WARPGROUP, 0);
    if (group == 0) {
        give_registers_back<24>();
        int warp = __shfl_sync(FULL_WARP, int(threadIdx.x) / WARP, 0);
        // Whole warps take these ways, so that what is the same for a warp stays in uniform registers.
        if (warp == 0) {
            if (is_elected())
                bring_tiles(p, at);
        } else if (warp == 3) {
            if (is_elected())
                take_results(p, at);
        } else {
            make_records(p, at, warp - 1);
        }
    } else {
        take_registers<240>();
        visit_heads(p, at, group - 1);
    }
}
