// Gradients of keys and values, or their tangents: a block owns some keys, and walks along the queries that see them.
//
//     S  = scale·Q·Kᵀ + bias                    dP  = Z ∘ (G·Vᵀ)
//     S' = scale·(Q'·Kᵀ + Q·K'ᵀ) + bias'        dP' = Z ∘ (G'·Vᵀ + G·V'ᵀ)
//
//     dK  += scale·dSᵀ·Q                        dV  += (P ∘ Z)ᵀ·G
//     dK' += scale·(dS'ᵀ·Q + dSᵀ·Q')            dV' += (P' ∘ Z)ᵀ·G + (P ∘ Z)ᵀ·G'
//
// Everything is made transposed: rows are keys. So weights and cotangents of scores are left operands of the products
// that sum over queries where they lie, and nothing but operands passes through shared memory. Keys and values of a
// head that serves several query heads are summed over these, one after the other.
#include "curve.cuh"

using namespace theria;

// Which of the two gradients: 1, keys; 2, values; 3, both. Registers do not hold both sums of the widest heads.
constexpr bool MAKES_KEYS = THERIA_MAKES & 1, MAKES_VALUES = THERIA_MAKES & 2;
constexpr int KINDS = ORDER;                    // operands with their tangents
constexpr int ROW_BYTES = QueryTile::BYTES;     // one operand of a block's keys
constexpr int COLUMN_BYTES = KeyTile::BYTES;    // one operand of a stage's queries
constexpr int RECORD_BYTES = STAGE_KEYS * int(sizeof(Known));
constexpr int STAGE_BYTES = 2 * KINDS * COLUMN_BYTES + RECORD_BYTES;

// The queries that see a key of a block, and those that see all of them.
struct Seeing {
    int begin, end; // `begin` starts a piece of sixteen
    int low, high;

    THERIA_DEVICE Seeing(const Forward &p, int first, int last, int length) {
        const Score &score = p.score;
        begin = 0, end = score.t, low = 0, high = score.t;
        // A query sees keys from i + origin - back to i + origin + ahead.
        auto query = [&](long long i) { return int(i < 0 ? 0 : i > score.t ? score.t : i); };
        if (MASKING != LENGTHS && score.ahead != Score::UNBOUNDED) {
            begin = query((long long)first - score.origin - score.ahead) & ~15;
            low = query((long long)last - score.origin - score.ahead);
        }
        if (MASKING != LENGTHS && score.back != Score::UNBOUNDED) {
            end = query((long long)last - score.origin + score.back + 1);
            high = query((long long)first - score.origin + score.back + 1);
        }
        if (first >= length)
            end = 0;
        if (last >= length)
            high = 0; // keys that are not there are seen by nobody
    }
    THERIA_DEVICE bool concerned(int i) const { return i < end && i + STEP > begin; }
    THERIA_DEVICE bool whole(int i) const { return i >= low && i + STEP <= high; }
};

// A warp's rows of the four operands that stay.
struct Stay {
    Queries k, v, k_tangent, v_tangent;

    THERIA_DEVICE Stay(unsigned memory, int warp)
        : k(memory, warp), v(memory + ROW_BYTES, warp), k_tangent(memory + 2 * ROW_BYTES, warp),
          v_tangent(memory + 3 * ROW_BYTES, warp) {}
};

// Scale, bias and visibility of scores whose rows are keys.
template <bool WHOLE>
static THERIA_DEVICE void look_at(Scores &s, Scores &s_tangent, const Rules &p, int b, int h, int j0, int i0, int length) {
    if (WHOLE && MASKING != EVERYTHING)
        return;
    const Score &score = p.forward.score;
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            int i = i0 + 8 * n + 2 * (lane % 4) + c;
            int first = MASKING == LENGTHS ? 0 : score.first_key(i, length);
            int end = MASKING == LENGTHS ? length : score.end_key(i, length);
#pragma unroll
            for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    int j = j0 + 16 * r + 8 * half + lane / 4;
                    float &x = s[r][n].x[2 * half + c];
                    bool seen = i < score.t && j < end && (MASKING == LENGTHS || j >= first);
                    if (MASKING == EVERYTHING) {
                        x *= float(score.scale);
                        seen = seen && score.lets_see(b, h, i, j);
                        if (seen && score.bias.data)
                            x += score.bias_at<E>(b, h, i, j);
                        if (ORDER == 2) {
                            float &y = s_tangent[r][n].x[2 * half + c];
                            y *= float(score.scale);
                            if (seen && p.bias_tangent.data)
                                y += Element<E>::to_acc(
                                    static_cast<const E *>(p.bias_tangent.data)[p.bias_tangent.offset(b, h, i, j)]);
                        }
                    }
                    x = seen ? x : -infinity();
                }
        }
}

// A step of queries: `q` and what follows it in shared memory are the stage's operands, `records` its statistics.
template <bool WHOLE>
static THERIA_DEVICE void step(Sums &dk, Sums &dv, const Stay &stay, unsigned q, const Known *records, const Rules &p, int b,
                               int h, int j0, int i0, int count, int length, float scale) {
    unsigned g = q + COLUMN_BYTES, q_tangent = g + COLUMN_BYTES, g_tangent = q_tangent + COLUMN_BYTES;
    int lane = threadIdx.x % WARP;
    Scores s, dp, s_tangent, dp_tangent;
    multiply_keys<WHOLE>(s, stay.k, q, count);
    clear(dp);
    if (MAKES_KEYS)
        add_keys<WHOLE>(dp, stay.v, g, count);
    if (ORDER == 2) {
        clear(s_tangent);
        clear(dp_tangent);
        if (p.q_tangent.data)
            add_keys<WHOLE>(s_tangent, stay.k, q_tangent, count);
        if (p.k_tangent.data)
            add_keys<WHOLE>(s_tangent, stay.k_tangent, q, count);
        if (MAKES_KEYS && p.g_tangent.data)
            add_keys<WHOLE>(dp_tangent, stay.v, g_tangent, count);
        if (MAKES_KEYS && p.v_tangent.data)
            add_keys<WHOLE>(dp_tangent, stay.v_tangent, g, count);
    }
    look_at<WHOLE>(s, s_tangent, p, b, h, j0, i0, length);
    // Weights of dropout: 1, or 0.
    float kept = MASKING == EVERYTHING ? float(p.forward.score.kept) : 1;
#pragma unroll
    for (int n = 0; n < STEP / 8; ++n) {
        Known record[2] = {records[8 * n + 2 * (lane % 4)], records[8 * n + 2 * (lane % 4) + 1]};
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                float &x = s[r][n].x[c], &y = dp[r][n].x[c], &xt = s_tangent[r][n].x[c], &yt = dp_tangent[r][n].x[c];
                bool drops = false;
                if (MASKING == EVERYTHING && p.forward.score.threshold) {
                    int i = i0 + 8 * n + 2 * (lane % 4) + c % 2, j = j0 + 16 * r + 8 * (c / 2) + lane / 4;
                    drops = !kept_by_dropout(p.forward.score, b, h, i, j);
                }
                float z = drops ? 0 : kept;
                Curved made(record[c % 2], scale, x, MASKING == EVERYTHING ? y * z : y, xt,
                            MASKING == EVERYTHING ? yt * z : yt);
                x = drops ? 0 : made.p;
                y = made.ds;
                if (ORDER == 2) {
                    xt = drops ? 0 : made.p_tangent;
                    yt = made.ds_tangent;
                }
            }
    }
    if (MAKES_VALUES) {
        add_values<WHOLE>(dv, ORDER == 1 ? s : s_tangent, g, count);
        if (ORDER == 2 && p.g_tangent.data)
            add_values<WHOLE>(dv, s, g_tangent, count);
    }
    if (MAKES_KEYS) {
        add_values<WHOLE>(dk, ORDER == 1 ? dp : dp_tangent, q, count);
        if (ORDER == 2 && p.q_tangent.data)
            add_values<WHOLE>(dk, dp, q_tangent, count);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, THERIA_BLOCKS) kernel(const __grid_constant__ Rules p) {
    extern __shared__ __align__(16) unsigned char memory[];
    let_next_launch_start();
    const Forward &f = p.forward;
    int warp = threadIdx.x / WARP;
    Place place(f); // of key heads: `tile` is one of keys
    int b = place.b, h_kv = place.h, block_key = place.tile * BLOCK_ROWS, j0 = block_key + warp * WARP_ROWS;
    unsigned stay_at = shared_address(memory), ring = stay_at + 2 * KINDS * ROW_BYTES;
    bool vectors = MASKING != EVERYTHING || f.vectors;
    await_launches_ahead();
    int length = f.score.keys_of(b);
    Seeing all(f, block_key, min_of(block_key + BLOCK_ROWS, f.score.m) - 1, length);
    Seeing mine(f, j0, min_of(j0 + WARP_ROWS, f.score.m) - 1, length);
    if (j0 + WARP_ROWS > f.score.m)
        mine.high = 0;

    auto bring_rows = [&](int kind, const View &from, int width) {
        if (from.data)
            QueryLoader(from, b, h_kv, block_key).bring(stay_at + kind * ROW_BYTES, from, length - block_key, width, vectors);
    };
    bring_rows(0, f.k, f.d);
    bring_rows(1, f.v, f.dv);
    if (ORDER == 2) {
        bring_rows(2, p.k_tangent, f.d);
        bring_rows(3, p.v_tangent, f.dv);
    }

    int stages = all.end > all.begin ? (all.end - all.begin + STAGE_KEYS - 1) / STAGE_KEYS : 0;
    int group = f.group.number, total = stages * group; // stages of all query heads that share these keys
    auto bring = [&](int turn, int slot) {
        if (turn < total) {
            int h = h_kv * group + turn / stages, i0 = all.begin + turn % stages * STAGE_KEYS, left = f.score.t - i0;
            unsigned at = ring + slot * STAGE_BYTES;
            using L = Loader<Math, STAGE_KEYS, D, THREADS>;
            L(f.q, b, h, i0).bring(at, f.q, left, f.d, vectors);
            L(p.g, b, h, i0).bring(at + COLUMN_BYTES, p.g, left, f.dv, vectors);
            if (ORDER == 2 && p.q_tangent.data)
                L(p.q_tangent, b, h, i0).bring(at + 2 * COLUMN_BYTES, p.q_tangent, left, f.d, vectors);
            if (ORDER == 2 && p.g_tangent.data)
                L(p.g_tangent, b, h, i0).bring(at + 3 * COLUMN_BYTES, p.g_tangent, left, f.dv, vectors);
            const float4 *from = reinterpret_cast<const float4 *>(
                reinterpret_cast<const Known *>(p.statistics) + ((long long)(b * p.heads + h) * p.padded + i0));
            for (int n = threadIdx.x; n < RECORD_BYTES / 16; n += THREADS)
                copy_async(at + 2 * KINDS * COLUMN_BYTES + 16 * n, from + n, true);
        }
        commit_copies();
    };
#pragma unroll
    for (int turn = 0; turn < STAGES - 1; ++turn)
        bring(turn, turn);

    Stay stay(stay_at, warp);
    if (Q_IN_REGISTERS) {
        await_copies<STAGES - 2>();
        __syncthreads();
        stay.k.keep();
        stay.v.keep();
        if (ORDER == 2 && p.k_tangent.data)
            stay.k_tangent.keep();
        if (ORDER == 2 && p.v_tangent.data)
            stay.v_tangent.keep();
    }
    Sums dk = {}, dv = {};
    float scale = MASKING == EVERYTHING ? 1 : float(f.score.scale);
    for (int turn = 0; turn < total; ++turn) {
        await_copies<STAGES - 2>();
        __syncthreads();
        bring(turn + STAGES - 1, (turn + STAGES - 1) % STAGES);
        unsigned at = ring + turn % STAGES * STAGE_BYTES;
        const Known *records = reinterpret_cast<const Known *>(memory + (at - stay_at) + 2 * KINDS * COLUMN_BYTES);
        int h = h_kv * group + turn / stages, stage0 = all.begin + turn % stages * STAGE_KEYS;
#pragma unroll
        for (int n = 0; n < KEYS; n += STEP) {
            int i0 = stage0 + n;
            if (!mine.concerned(i0))
                continue;
            unsigned q = KeyTile::at(at, n, 0);
            if (MASKING != EVERYTHING && mine.whole(i0))
                step<true>(dk, dv, stay, q, records + n, p, b, h, j0, i0, STEP, length, scale);
            else
                step<false>(dk, dv, stay, q, records + n, p, b, h, j0, i0, mine.end - i0, length, scale);
        }
    }
    await_copies<0>();
    __syncthreads();
    float scale_k[ROW_TILES][2], scale_v[ROW_TILES][2];
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
        for (int half = 0; half < 2; ++half) {
            scale_k[r][half] = float(f.score.scale);
            scale_v[r][half] = float(f.score.kept);
        }
    using OutTile = Tile<Math, WARP_ROWS, D>;
    auto put_rows = [&](const Sums &x, const float (&weight)[ROW_TILES][2], const View &to, int width, unsigned tile) {
        int lane = threadIdx.x % WARP;
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int n = 0; n < D / 8; ++n)
                    Math::store_pair(OutTile::at(tile, 16 * r + 8 * half + lane / 4, 8 * n + 2 * (lane % 4)),
                                     x[r][n].x[2 * half] * weight[r][half], x[r][n].x[2 * half + 1] * weight[r][half]);
        __syncwarp();
        OutTile::write(tile, to, b, h_kv, j0, f.score.m - j0, width, f.vectors);
        __syncwarp();
    };
    unsigned tile = stay_at + warp * OutTile::BYTES;
    if (MAKES_KEYS)
        put_rows(dk, scale_k, p.dk, f.d, tile);
    if (MAKES_VALUES)
        put_rows(dv, scale_v, p.dv, f.dv, tile);
}
