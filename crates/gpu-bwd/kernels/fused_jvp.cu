// JVP of `cuda-fused`, portable family: one sweep over the keys, nothing of size T×M.
//
//     S  = scale·Q·Kᵀ + bias                    P = exp(S - lse)
//     S' = scale·(Q'·Kᵀ + Q·K'ᵀ) + bias'        H = P ∘ (S' - c)
//     A += (H ∘ Z)·V + (P ∘ Z)·V'               Σ += rowsum(P)        m += rowsum(H)
//
//     μ = c + m / Σ           O' = A / Σ - (m / Σ)·O
//
// The rule has S' - μ where this has S' - c. For any c of a row
//
//     Σ_j P_j (S'_j - μ) v_j  =  Σ_j P_j (S'_j - c) v_j  -  (μ - c)·O
//
// so μ need not be known before the sweep. O is subtracted as it was saved, rounded to the element type. For f32 that
// is as good as the sums, and c is 0. For 16-bit types c is the mean of S' over the first keys that have any weight:
// μ - c is small then, and so are H, which is rounded to be multiplied, and what is subtracted. Where it is not, because
// the keys that count came later, the block knows that at the end, and sweeps once more with c = μ. A row whose window
// begins inside a step sees a key or two of it, whose mean says little: under windows a short sweep goes ahead, over
// enough keys for every row of the block, and leaves c alone.
//
// What rounding took from O is subtracted with it, where it was kept. Where that of O' is to be kept, the sums of P and H
// are of what is multiplied, rounded: see fused_forward.cu. That serves O' alone. A row of few keys would have the
// rounding of a few weights in its μ, and the second order in all its weights: so μ = c + rowsum(H) then, of H before it
// was rounded.
#include "curve.cuh"

using namespace theria;

constexpr int STAGE_BYTES = 2 * (KeyTile::BYTES + ValueTile::BYTES);
constexpr bool CENTRED = ROUNDS;
// What is summed with another c than the last may be this part of a row's weight: less than what rounding takes, though
// one c may be a hundred from the next.
constexpr float NEGLIGIBLE = 1.0f / (1 << 18);
// Stages of the sweep that goes ahead under windows: the last row of a block sees 32 keys of them.
constexpr int AHEAD = (BLOCK_ROWS + 32 + STAGE_KEYS - 1) / STAGE_KEYS;

// What a warp carries along the keys. Each lane has two rows of each of its row tiles.
struct Moving {
    Sums out;                   // A
    float sum[ROW_TILES][2];    // of P, in the columns of this lane
    float dot[ROW_TILES][2];    // of H
    float whole[ROW_TILES][2];  // of H before it was rounded, where `dot` is of what is multiplied
    float centre[ROW_TILES][2]; // c
    unsigned known;             // a bit for each row whose c the sweep ahead found

    THERIA_DEVICE Moving() : out{}, sum{}, dot{}, whole{}, centre{}, known(0) {}

    // Keeps c alone, moved to the mean of what was seen.
    THERIA_DEVICE void start_anew() {
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float &weight = sum[r][half], &moved = dot[r][half];
#pragma unroll
                for (int step = 1; step < 4; step *= 2) {
                    weight += __shfl_xor_sync(FULL_WARP, weight, step);
                    moved += __shfl_xor_sync(FULL_WARP, moved, step);
                }
                if (weight > 0) {
                    centre[r][half] += __fdividef(moved, weight);
                    known |= 1u << (2 * r + half);
                }
                weight = moved = whole[r][half] = 0;
            }
#pragma unroll
            for (int n = 0; n < DV / 8; ++n)
                out[r][n] = {};
        }
    }
};

// lse of a warp's rows, ready to be subtracted.
struct Origins {
    float lse[ROW_TILES][2];
    bool large; // some are so large that the difference must be taken before it is scaled

    THERIA_DEVICE Origins(const Forward &p, const Rows &at) : large(false) {
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int i = at.row(r, half);
                float &x = lse[r][half];
                x = i < p.score.t ? *p.lse.at<float>(at.b, at.h, i) : 0;
                if (x == -infinity())
                    x = 0; // nothing is seen: every score is -inf
                large = large || !(fabsf(x * LOG2_E) < Reference::LARGE);
            }
        large = __any_sync(FULL_WARP, large);
    }
};

// P in place of S.
static THERIA_DEVICE void weigh(Scores &s, const Origins &origins, float scale) {
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            float lse = origins.lse[r][c / 2];
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n) {
                float &x = s[r][n].x[c];
                x = exp2_of(origins.large ? fmaf(x, scale, -lse) * LOG2_E : fmaf(x, scale * LOG2_E, -lse * LOG2_E));
            }
        }
}

// Finds c of rows that have next to no weight yet. Whether all rows have it.
static THERIA_DEVICE bool settle(Moving &state, const Scores &p, const Scores &s_tangent, float scale) {
    bool settled = true;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float before = state.sum[r][half], here = 0, moved = 0;
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                for (int c = 2 * half; c < 2 * half + 2; ++c) {
                    here += p[r][n].x[c];
                    moved += p[r][n].x[c] * s_tangent[r][n].x[c];
                }
#pragma unroll
            for (int step = 1; step < 4; step *= 2) {
                before += __shfl_xor_sync(FULL_WARP, before, step);
                here += __shfl_xor_sync(FULL_WARP, here, step);
                moved += __shfl_xor_sync(FULL_WARP, moved, step);
            }
            bool known = state.known >> (2 * r + half) & 1;
            if (!known && before < NEGLIGIBLE && here > before) {
                float centre = __fdividef(moved * scale, here);
                float further = state.sum[r][half] * (state.centre[r][half] - centre);
                state.dot[r][half] += further;
                state.whole[r][half] += further;
                state.centre[r][half] = centre;
            }
            settled = settled && (known || !(before + here < NEGLIGIBLE));
        }
    return __all_sync(FULL_WARP, settled);
}

// H in place of S', and the sums of P and H. ROUNDED: as they are multiplied, and that of H as it is beside them.
template <bool ROUNDED>
static THERIA_DEVICE void move(Moving &state, const Scores &p, Scores &s_tangent, float scale) {
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n) {
                const float *weight = &p[r][n].x[2 * half];
                float *moved = &s_tangent[r][n].x[2 * half];
#pragma unroll
                for (int c = 0; c < 2; ++c)
                    moved[c] = weight[c] * fmaf(moved[c], scale, -state.centre[r][half]);
                state.sum[r][half] += sum_of<ROUNDED>(weight[0], weight[1]);
                state.dot[r][half] += sum_of<ROUNDED>(moved[0], moved[1]);
                if (ROUNDED)
                    state.whole[r][half] += moved[0] + moved[1];
            }
}

// S' = Q'·Kᵀ and S = Q·Kᵀ of the first `count` keys: keys are read once for both.
template <bool WHOLE>
static THERIA_DEVICE void multiply_both(Scores &s, Scores &s_tangent, const Queries &q, const Queries &q_tangent, unsigned keys,
                                        int count) {
    int lane = threadIdx.x % WARP;
    clear(s);
    clear(s_tangent);
#pragma unroll DEPTH_AT_ONCE
    for (int k = 0; k < D / Math::K; ++k) {
        Math::A a[ROW_TILES], a_tangent[ROW_TILES];
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r) {
            a[r] = q.at(r, k);
            a_tangent[r] = q_tangent.at(r, k);
        }
#pragma unroll
        for (int n = 0; n < STEP / 16; ++n) {
            if (!WHOLE && 16 * n >= count)
                break;
            Math::B b[2];
            Math::load_b_rows<KeyTile::PITCH>(b, KeyTile::at(keys, 16 * n, k * Math::K), lane);
#pragma unroll
            for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    Math::multiply_rounded(s[r][2 * n + c], a[r], b[c]);
                    Math::multiply_rounded(s_tangent[r][2 * n + c], a_tangent[r], b[c]);
                }
        }
    }
}

// How a row ends.
struct End {
    float weight, shift, mu; // O' = weight·A - shift·O

    // Of a row of this lane; all lanes of the warp ask together.
    THERIA_DEVICE End(const Moving &state, int r, int half, const Rules &rules, const Rows &at) {
        const Forward &p = rules.forward;
        float sum = state.sum[r][half], dot = state.dot[r][half], whole = state.whole[r][half];
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
            sum += __shfl_xor_sync(FULL_WARP, sum, step);
            dot += __shfl_xor_sync(FULL_WARP, dot, step);
            if (ROUNDS)
                whole += __shfl_xor_sync(FULL_WARP, whole, step);
        }
        int i = at.row(r, half);
        float lse = i < p.score.t ? *p.lse.at<float>(at.b, at.h, i) : -infinity();
        // A row without weight and without lse sees nothing. One that has but one of the two was handed over wrongly.
        bool blind = lse == -infinity() && sum == 0, wrong = !blind && (lse == -infinity() || sum == 0);
        shift = blind ? 0 : wrong ? not_a_number() : __fdividef(dot, sum);
        weight = blind ? 0 : __fdividef(float(p.score.kept), sum);
        // P as it is sums to 1, but for what lse is off, and that is a factor of all that is made of the row's weights.
        // A division by the sum of rounded weights would bring their rounding back.
        float moved = ROUNDS && rules.rest_tangent.data && !wrong ? whole : shift;
        mu = blind ? 0 : moved + state.centre[r][half];
    }
};

using OutTile = Tile<Math, WARP_ROWS, DV>;

static THERIA_DEVICE unsigned place_of(unsigned tile, int r, int half, int n) {
    int lane = threadIdx.x % WARP;
    return OutTile::at(tile, 16 * r + 8 * half + lane / 4, 8 * n + 2 * (lane % 4));
}

// Whether c was good enough for all rows of a warp: what is subtracted in the end, and is as exact as the saved O, is
// not longer than what is left. If not, c is μ from here on. O lies in the warp's tile.
static THERIA_DEVICE bool good_centre(Moving &state, unsigned tile, const Rules &p, const Rows &at) {
    bool good = true;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            End end(state, r, half, p, at);
            float taken = 0, left = 0;
#pragma unroll
            for (int n = 0; n < DV / 8; ++n) {
                float2 o = Math::load_pair(place_of(tile, r, half, n));
                float x = fmaf(state.out[r][n].x[2 * half], end.weight, -end.shift * o.x);
                float y = fmaf(state.out[r][n].x[2 * half + 1], end.weight, -end.shift * o.y);
                left += x * x + y * y;
                taken += o.x * o.x + o.y * o.y;
            }
#pragma unroll
            for (int step = 1; step < 4; step *= 2) {
                left += __shfl_xor_sync(FULL_WARP, left, step);
                taken += __shfl_xor_sync(FULL_WARP, taken, step);
            }
            if (at.row(r, half) < p.forward.score.t)
                good = good && !(end.shift * end.shift * taken > left);
            state.centre[r][half] += end.shift;
        }
    return good;
}

// Takes the rows in a warp's tile, each so many times, from A.
static THERIA_DEVICE void subtract(Sums &out, unsigned tile, const float (&times)[ROW_TILES][2]) {
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < DV / 8; ++n) {
                float2 o = Math::load_pair(place_of(tile, r, half, n));
                float *x = &out[r][n].x[2 * half];
                x[0] = fmaf(-times[r][half], o.x, x[0]);
                x[1] = fmaf(-times[r][half], o.y, x[1]);
            }
}

// O' and μ of a warp's rows, by way of its tile, in which O lies.
static THERIA_DEVICE void finish(Moving &state, unsigned tile, const Rules &p, const Rows &at) {
    const Forward &f = p.forward;
    float shift[ROW_TILES][2], weight[ROW_TILES][2];
    int left = f.score.t - at.first;
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            End end(state, r, half, p, at);
            int i = at.row(r, half);
            if (threadIdx.x % 4 == 0 && i < f.score.t)
                *p.mu.at<float>(at.b, at.h, i) = end.mu;
            shift[r][half] = end.shift;
            weight[r][half] = 1;
#pragma unroll
            for (int n = 0; n < DV / 8; ++n) {
                state.out[r][n].x[2 * half] *= end.weight;
                state.out[r][n].x[2 * half + 1] *= end.weight;
            }
        }
    // O, then what rounding took from it. Written out, the second would cost registers.
    int terms = ROUNDS && f.rest.data ? 2 : 1;
#pragma unroll 1
    for (int term = 0; term < terms; ++term) {
        if (term > 0)
            OutTile::read(tile, f.rest, at.b, at.h, at.first, left, f.dv, f.vectors);
        subtract(state.out, tile, shift);
        __syncwarp();
    }
    put(state.out, weight, tile, p.out_tangent, f.dv, f, at);
    if (p.rest_tangent.data) {
        __syncwarp();
        put<true>(state.out, weight, tile, p.rest_tangent, f.dv, f, at);
    }
}

// A step of keys at `k`, those of K' behind them, and of values at `v`, those of V' behind them.
template <bool WHOLE>
static THERIA_DEVICE void step(Moving &state, bool &settled, const Queries &q, const Queries &q_tangent, unsigned k, unsigned v,
                               const Rules &p, const Rows &at, int key0, const Origins &origins, float scale) {
    Scores s, s_tangent;
    int count = at.to - key0;
    if (p.q_tangent.data) {
        multiply_both<WHOLE>(s, s_tangent, q, q_tangent, k, count);
    } else {
        multiply_keys<WHOLE>(s, q, k, count);
        clear(s_tangent);
    }
    if (p.k_tangent.data)
        add_keys<WHOLE>(s_tangent, q, k + KeyTile::BYTES, count);
    look<WHOLE>(s, p.forward, at, key0);
    look_tangent(s_tangent, p, at, key0);
    weigh(s, origins, scale);
    if (CENTRED && !settled)
        settled = settle(state, s, s_tangent, scale);
    if (ROUNDS && p.rest_tangent.data)
        move<true>(state, s, s_tangent, scale);
    else
        move<false>(state, s, s_tangent, scale);
    drop(s, p.forward, at, key0);
    drop(s_tangent, p.forward, at, key0);
    add_values<WHOLE>(state.out, s_tangent, v, count);
    if (p.v_tangent.data)
        add_values<WHOLE>(state.out, s, v + ValueTile::BYTES, count);
}

extern "C" __global__ void __launch_bounds__(THREADS, THERIA_BLOCKS) kernel(const __grid_constant__ Rules parameters) {
    extern __shared__ __align__(16) unsigned char memory[];
    let_next_launch_start();
    const Forward &p = parameters.forward;
    int row_warp = threadIdx.x / WARP;
    Place place(p);
    int block_row = place.tile * BLOCK_ROWS;
    unsigned queries = shared_address(memory), queries_tangent = queries + QueryTile::BYTES;
    unsigned ring = queries_tangent + QueryTile::BYTES;
    bool vectors = MASKING != EVERYTHING || p.vectors;
    bool q_moves = parameters.q_tangent.data, k_moves = parameters.k_tangent.data, v_moves = parameters.v_tangent.data;
    await_launches_ahead();
    Rows at(p, place.b, place.h, block_row, row_warp);
    Keys all(p, block_row, at.length);
    Origins origins(p, at);
    float scale = MASKING == EVERYTHING ? 1 : float(p.score.scale);
    unsigned tile = shared_address(memory) + row_warp * OutTile::BYTES;
    Moving state;
    bool settled = !CENTRED, windows = MASKING != LENGTHS && p.score.back != Score::UNBOUNDED;
    for (int sweep = CENTRED && windows ? 0 : 1;; ++sweep) {
        int end = CENTRED && sweep == 0 ? min_of(all.end, all.begin + AHEAD * STAGE_KEYS) : all.end;
        using LoadK = Loader<Math, STAGE_KEYS, D, THREADS>;
        using LoadV = Loader<Math, STAGE_KEYS, DV, THREADS>;
        LoadK load_k(p.k, place.b, place.h_kv, all.begin), load_kt(parameters.k_tangent, place.b, place.h_kv, all.begin);
        LoadV load_v(p.v, place.b, place.h_kv, all.begin), load_vt(parameters.v_tangent, place.b, place.h_kv, all.begin);
        auto load_stage = [&](int stage, int slot) {
            int key0 = all.begin + stage * STAGE_KEYS, left = at.length - key0;
            unsigned keys = ring + slot * STAGE_BYTES, values = keys + 2 * KeyTile::BYTES;
            if (key0 < end) {
                load_k.bring(keys, p.k, left, p.d, vectors);
                load_v.bring(values, p.v, left, p.dv, vectors);
                if (k_moves)
                    load_kt.bring(keys + KeyTile::BYTES, parameters.k_tangent, left, p.d, vectors);
                if (v_moves)
                    load_vt.bring(values + ValueTile::BYTES, parameters.v_tangent, left, p.dv, vectors);
            }
            commit_copies();
        };
        load_queries(queries, QueryLoader(p.q, place.b, place.h, block_row), p, block_row, vectors);
        if (q_moves)
            QueryLoader(parameters.q_tangent, place.b, place.h, block_row)
                .bring(queries_tangent, parameters.q_tangent, p.score.t - block_row, p.d, vectors);
#pragma unroll
        for (int stage = 0; stage < STAGES - 1; ++stage)
            load_stage(stage, stage);

        Queries q(queries, row_warp), q_tangent(queries_tangent, row_warp);
        if (Q_IN_REGISTERS) {
            await_copies<STAGES - 2>();
            __syncthreads();
            q.keep();
            if (q_moves)
                q_tangent.keep();
        }
        int slot = 0;
        for (int stage = 0; all.begin + stage * STAGE_KEYS < end; ++stage) {
            await_copies<STAGES - 2>();
            __syncthreads();
            load_stage(stage + STAGES - 1, slot == 0 ? STAGES - 1 : slot - 1);
            unsigned keys = ring + slot * STAGE_BYTES, values = keys + 2 * KeyTile::BYTES;
            slot = slot + 1 == STAGES ? 0 : slot + 1;
#pragma unroll
            for (int n = 0; n < KEYS; n += STEP) {
                int key0 = all.begin + stage * STAGE_KEYS + n;
                if (!at.concerned(key0))
                    continue;
                unsigned k = KeyTile::at(keys, n, 0), v = ValueTile::at(values, n, 0);
                if (MASKING != EVERYTHING && at.whole(key0))
                    step<true>(state, settled, q, q_tangent, k, v, parameters, at, key0, origins, scale);
                else
                    step<false>(state, settled, q, q_tangent, k, v, parameters, at, key0, origins, scale);
            }
        }
        await_copies<0>();
        __syncthreads();
        if (CENTRED && sweep == 0) {
            state.start_anew();
            settled = false;
            continue;
        }
        OutTile::read(tile, p.out, at.b, at.h, at.first, p.score.t - at.first, p.dv, p.vectors);
        if (!CENTRED || sweep == 2)
            break;
        Moving moved = state;
        bool good = good_centre(moved, tile, parameters, at);
        if (!__syncthreads_or(!good))
            break;
        state = Moving();
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
            for (int half = 0; half < 2; ++half)
                state.centre[r][half] = moved.centre[r][half];
        settled = true;
    }
    finish(state, tile, parameters, at);
}
