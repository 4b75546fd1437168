// Gradient of queries, or its tangent: a block owns some queries, and walks along the keys that they see.
//
//     S  = scale·Q·Kᵀ + bias                    dP  = Z ∘ (G·Vᵀ)
//     S' = scale·(Q'·Kᵀ + Q·K'ᵀ) + bias'        dP' = Z ∘ (G'·Vᵀ + G·V'ᵀ)
//
//     dQ += scale·dS·K          dQ' += scale·(dS'·K + dS·K')
//
// Weights are made a second time here, so that every sum has one owner and one order, and none goes to memory
// before it is whole.
//
// δ and δ' came from O and O', which were rounded. What they are off is the sum of a row of dS, or of dS': without
// rounding these are zero. So a sweep finds it out and corrects the records for those who read them next. In 16-bit
// types it may be too much for a row of the block: then the block sweeps once more with what is right. Where what
// rounding took from O and O' was kept, it is too much for next to no row.
#include "curve.cuh"

using namespace theria;

constexpr int ROW_BYTES = QueryTile::BYTES, COLUMN_BYTES = KeyTile::BYTES;
constexpr int STAGE_BYTES = 2 * ORDER * COLUMN_BYTES;

// A warp's rows of the operands that stay.
struct Stay {
    Queries q, g, q_tangent, g_tangent;

    THERIA_DEVICE Stay(unsigned memory, int warp)
        : q(memory, warp), g(memory + ROW_BYTES, warp), q_tangent(memory + 2 * ROW_BYTES, warp),
          g_tangent(memory + 3 * ROW_BYTES, warp) {}
};

// Whether what is known of the rows stays in registers, or is read again in every step: wide sums leave no room.
constexpr bool ROWS_STAY = D <= 192;
// Whether a block sweeps once more where δ and δ' were too far off. Those of f32 came from an O that is as exact as the
// sums: dQ is good enough, and who reads the records next, the bias in a row of few keys above all, has the right ones.
constexpr bool REPEATS = !FACTORED;
// What an error of δ and δ' may be of dS and dS', in the norm of a row: a few roundings of the element type.
template <class> constexpr float TOLERATED = 1.0f / 512;
template <> constexpr float TOLERATED<f16> = 1.0f / 4096;
// The same where what rounding took from O and O' was kept: so many times as much. What is left comes from P, which the
// forward rounded to multiply it. It is in dS what a rounding or two of the element type are: √2 of TOLERATED at most in
// a row of two keys, twice that were seen in others. What O and O' lack beside it, 2^-17 of rowsum(|G ∘ O|) in bf16,
// comes to more in those rows alone whose dP are all but one number, and they are lost without another sweep.
constexpr float BESIDE_RESTS = 4;

// Sums along a row that show what δ and δ' are off, in the columns of a lane.
struct Check {
    float x[(REPEATS ? 3 : 1) * ORDER];

    // Of P and dS, or of their tangents.
    THERIA_DEVICE float &ds(int kind) { return x[kind]; }                    // Σ dS
    THERIA_DEVICE float &ds_square(int kind) { return x[ORDER + kind]; }     // Σ dS², where sweeps are repeated
    THERIA_DEVICE float &p_square(int kind) { return x[2 * ORDER + kind]; }  // Σ P²

    THERIA_DEVICE void add(const Curved &made) {
        float made_ds[2] = {made.ds, made.ds_tangent}, made_p[2] = {made.p, made.p_tangent};
#pragma unroll
        for (int kind = 0; kind < ORDER; ++kind) {
            ds(kind) += made_ds[kind];
            if (REPEATS) {
                ds_square(kind) += made_ds[kind] * made_ds[kind];
                p_square(kind) += made_p[kind] * made_p[kind];
            }
        }
    }
    THERIA_DEVICE void add(const Check &other) {
#pragma unroll
        for (int n = 0; n < int(sizeof(x) / sizeof(float)); ++n)
            x[n] += other.x[n];
    }
    // Of the whole row.
    THERIA_DEVICE void gather() {
#pragma unroll
        for (int step = 1; step < 4; step *= 2)
#pragma unroll
            for (int n = 0; n < int(sizeof(x) / sizeof(float)); ++n)
                x[n] += __shfl_xor_sync(FULL_WARP, x[n], step);
    }
    // Whether δ and δ' were good enough. NaN is: it does not get better.
    THERIA_DEVICE bool good(float tolerated) {
        if (!REPEATS)
            return true;
        float least = tolerated * tolerated;
        bool bad = ds(0) * ds(0) * p_square(0) > least * ds_square(0);
        if (ORDER == 2)
            bad = bad || ds(0) * ds(0) * p_square(1) + ds(1) * ds(1) * p_square(0) > least * ds_square(1);
        return !bad;
    }
};

static_assert(sizeof(Check) == (FACTORED ? 4 : 12) * ORDER, "as the host counts it");

// Those of a lane's rows: in registers, or in shared memory where registers have no room.
constexpr bool CHECKS_STAY = ROWS_STAY && !FACTORED;
struct Checks {
    Check in_registers[ROW_TILES][2];

    THERIA_DEVICE Check &of(int r, int half) {
        if (CHECKS_STAY)
            return in_registers[r][half];
        extern __shared__ __align__(16) unsigned char memory[];
        auto *in_memory = reinterpret_cast<Check *>(memory + 2 * ORDER * ROW_BYTES + STAGES * STAGE_BYTES);
        return in_memory[(threadIdx.x * ROW_TILES + r) * 2 + half];
    }
};

static THERIA_DEVICE Known *record_of(const Rules &p, const Rows &at, int i) {
    return static_cast<Known *>(p.statistics) + (long long)(at.b * p.heads + at.h) * p.padded + i;
}

// A step of keys: `k` and what follows it in shared memory are the stage's operands.
template <bool WHOLE>
static THERIA_DEVICE void step(Sums &dq, Checks &checks, const Stay &stay, unsigned k,
                               const Known (&rows)[ROW_TILES][2], const Rules &p, const Rows &at,
                               int key0, float scale) {
    unsigned v = k + COLUMN_BYTES, k_tangent = v + COLUMN_BYTES, v_tangent = k_tangent + COLUMN_BYTES;
    int lane = threadIdx.x % WARP, count = at.to - key0;
    Scores s, dp, s_tangent, dp_tangent;
    multiply_keys<WHOLE>(s, stay.q, k, count);
    multiply_keys<WHOLE>(dp, stay.g, v, count);
    if (ORDER == 2) {
        clear(s_tangent);
        clear(dp_tangent);
        if (p.q_tangent.data)
            add_keys<WHOLE>(s_tangent, stay.q_tangent, k, count);
        if (p.k_tangent.data)
            add_keys<WHOLE>(s_tangent, stay.q, k_tangent, count);
        if (p.g_tangent.data)
            add_keys<WHOLE>(dp_tangent, stay.g_tangent, v, count);
        if (p.v_tangent.data)
            add_keys<WHOLE>(dp_tangent, stay.g, v_tangent, count);
    }
    look<WHOLE>(s, p.forward, at, key0);
    if (ORDER == 2)
        look_tangent(s_tangent, p, at, key0);
    float kept = MASKING == EVERYTHING ? float(p.forward.score.kept) : 1;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Known row = ROWS_STAY ? rows[r][half] : *record_of(p, at, at.row(r, half));
            Check found = {};
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                for (int c = 2 * half; c < 2 * half + 2; ++c) {
                    float z = kept;
                    if (MASKING == EVERYTHING && p.forward.score.threshold) {
                        int j = key0 + 8 * n + 2 * (lane % 4) + c % 2;
                        z = kept_by_dropout(p.forward.score, at.b, at.h, at.row(r, half), j) ? kept : 0;
                    }
                    float y = dp[r][n].x[c], yt = dp_tangent[r][n].x[c];
                    Curved made(row, scale, s[r][n].x[c], MASKING == EVERYTHING ? y * z : y, s_tangent[r][n].x[c],
                                MASKING == EVERYTHING ? yt * z : yt);
                    found.add(made);
                    dp[r][n].x[c] = made.ds;
                    if (ORDER == 2)
                        dp_tangent[r][n].x[c] = made.ds_tangent;
                }
            checks.of(r, half).add(found);
        }
    if (ORDER == 1) {
        add_values<WHOLE>(dq, dp, k, count);
    } else {
        add_values<WHOLE>(dq, dp_tangent, k, count);
        if (p.k_tangent.data)
            add_values<WHOLE>(dq, dp, k_tangent, count);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, THERIA_BLOCKS) kernel(const __grid_constant__ Rules p) {
    extern __shared__ __align__(16) unsigned char memory[];
    let_next_launch_start();
    const Forward &f = p.forward;
    int warp = threadIdx.x / WARP;
    Place place(f);
    int b = place.b, h = place.h, h_kv = place.h_kv, block_row = place.tile * BLOCK_ROWS;
    unsigned stay_at = shared_address(memory), ring = stay_at + 2 * ORDER * ROW_BYTES;
    bool vectors = MASKING != EVERYTHING || f.vectors;
    await_launches_ahead();
    Rows at(f, b, h, block_row, warp);
    Keys all(f, block_row, at.length);

    Known rows[ROW_TILES][2];
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
        for (int half = 0; half < 2; ++half)
            rows[r][half] = *record_of(p, at, at.row(r, half));

    auto bring_rows = [&](int kind, const View &from, int width) {
        if (from.data)
            QueryLoader(from, b, h, block_row).bring(stay_at + kind * ROW_BYTES, from, f.score.t - block_row, width, vectors);
    };
    bring_rows(0, f.q, f.d);
    bring_rows(1, p.g, f.dv);
    if (ORDER == 2) {
        bring_rows(2, p.q_tangent, f.d);
        bring_rows(3, p.g_tangent, f.dv);
    }
    Sums dq;
    for (bool again = false;; again = true) {
        using L = Loader<Math, STAGE_KEYS, D, THREADS>;
        L load_k(f.k, b, h_kv, all.begin), load_v(f.v, b, h_kv, all.begin);
        L load_kt(p.k_tangent, b, h_kv, all.begin), load_vt(p.v_tangent, b, h_kv, all.begin);
        auto bring = [&](int stage, int slot) {
            int key0 = all.begin + stage * STAGE_KEYS, left = at.length - key0;
            unsigned to = ring + slot * STAGE_BYTES;
            if (key0 < all.end) {
                load_k.bring(to, f.k, left, f.d, vectors);
                load_v.bring(to + COLUMN_BYTES, f.v, left, f.dv, vectors);
                if (ORDER == 2 && p.k_tangent.data)
                    load_kt.bring(to + 2 * COLUMN_BYTES, p.k_tangent, left, f.d, vectors);
                if (ORDER == 2 && p.v_tangent.data)
                    load_vt.bring(to + 3 * COLUMN_BYTES, p.v_tangent, left, f.dv, vectors);
            }
            commit_copies();
        };
#pragma unroll
        for (int stage = 0; stage < STAGES - 1; ++stage)
            bring(stage, stage);

        Stay stay(stay_at, warp);
        if (Q_IN_REGISTERS) {
            await_copies<STAGES - 2>();
            __syncthreads();
            stay.q.keep();
            stay.g.keep();
            if (ORDER == 2 && p.q_tangent.data)
                stay.q_tangent.keep();
            if (ORDER == 2 && p.g_tangent.data)
                stay.g_tangent.keep();
        }
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int n = 0; n < DV / 8; ++n)
                dq[r][n] = {};
        Checks checks;
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
            checks.of(r, 0) = checks.of(r, 1) = {};
        float scale = MASKING == EVERYTHING ? 1 : float(f.score.scale);
        for (int stage = 0; all.begin + stage * STAGE_KEYS < all.end; ++stage) {
            await_copies<STAGES - 2>();
            __syncthreads();
            bring(stage + STAGES - 1, (stage + STAGES - 1) % STAGES);
            unsigned keys = ring + stage % STAGES * STAGE_BYTES;
#pragma unroll
            for (int n = 0; n < KEYS; n += STEP) {
                int key0 = all.begin + stage * STAGE_KEYS + n;
                if (!at.concerned(key0))
                    continue;
                if (MASKING != EVERYTHING && at.whole(key0))
                    step<true>(dq, checks, stay, KeyTile::at(keys, n, 0), rows, p, at, key0, scale);
                else
                    step<false>(dq, checks, stay, KeyTile::at(keys, n, 0), rows, p, at, key0, scale);
            }
        }
        await_copies<0>();
        if (again)
            break;
        bool good = true, beside = f.rest.data && (ORDER == 1 || p.rest_tangent.data);
        float tolerated = beside ? BESIDE_RESTS * TOLERATED<E> : TOLERATED<E>;
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                Check check = checks.of(r, half);
                check.gather();
                if (at.row(r, half) >= f.score.t)
                    continue;
                good = good && check.good(tolerated);
                if (ROWS_STAY && REPEATS) {
                    rows[r][half].delta() += check.ds(0);
                    if (ORDER == 2)
                        rows[r][half].delta_tangent() += check.ds(1);
                }
                if (threadIdx.x % 4 == 0) {
                    Known &record = *record_of(p, at, at.row(r, half));
                    record.delta() += check.ds(0);
                    if (ORDER == 2)
                        record.delta_tangent() += check.ds(1);
                }
            }
        if (!REPEATS || !__syncthreads_or(!good))
            break;
    }
    __syncthreads();
    float weight[ROW_TILES][2];
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
        weight[r][0] = weight[r][1] = float(f.score.scale);
    put(dq, weight, stay_at + warp * Tile<Math, WARP_ROWS, DV>::BYTES, p.dq, f.d, f, at);
}
