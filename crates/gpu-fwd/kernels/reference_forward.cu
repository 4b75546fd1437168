// Forward of `cuda-ref`: O = P·V with S = scale·Q·Kᵀ + bias, P = softmax(S), on plain arithmetic units.
//
// The oracle on the device: any element type, every feature, D and Dv up to 256, sums in the type of sums.
// A warp owns ROWS queries. It walks along the keys in chunks of 32, one key per lane:
//
//     s_j = q·k_j            each lane its own key, q broadcast from shared memory
//     m'  = max(m, max_j s_j),  α = exp(m - m')
//     l   = α·l + Σ_j exp(s_j - m')
//     O   = α·O + Σ_j exp(s_j - m')·z_j·v_j       each lane its own columns, p_j from lane j
//
// z is dropout's 0 or 1; what is kept is scaled once, at the end.
#include "forward.cuh"

using namespace theria;

constexpr int ROWS = 4;    // queries of a warp
constexpr int WARPS = 4;   // warps of a block
constexpr int COLUMNS = 8; // columns of O in each lane: 8 · 32 = 256

using E = THERIA_ELEMENT;
using Acc = Element<E>::Acc;

// Copies `count` rows of a chunk of keys or values; what lies beyond is zero.
static THERIA_DEVICE void stage(Acc *chunk, const View &from, int b, int h, int first, int count, int width) {
    for (int at = threadIdx.x; at < WARP * width; at += WARPS * WARP) {
        int j = at / width, c = at % width;
        chunk[j * (width + 1) + c] = j < count ? Element<E>::to_acc(from.at<E>(b, h, first + j)[c]) : Acc(0);
    }
}

extern "C" __global__ void __launch_bounds__(WARPS *WARP, 1) kernel(const __grid_constant__ Forward p) {
    extern __shared__ __align__(16) unsigned char memory[];
    let_next_launch_start();
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Place place(p);
    int b = place.b, h = place.h, h_kv = place.h_kv;
    int block_row = place.tile * WARPS * ROWS, row = block_row + warp * ROWS;

    await_launches_ahead();
    // Queries as [D][rows of the block], so that those of a warp lie together.
    Acc *queries = reinterpret_cast<Acc *>(memory);
    Acc *chunk = queries + p.d * WARPS * ROWS;
    for (int at = threadIdx.x; at < WARPS * ROWS * p.d; at += WARPS * WARP) {
        int r = at / p.d, c = at % p.d;
        bool real = block_row + r < p.score.t;
        queries[c * WARPS * ROWS + r] =
            real ? Element<E>::to_acc(p.q.at<E>(b, h, block_row + r)[c]) : Acc(0);
    }

    Acc most[ROWS], sum[ROWS], out[ROWS][COLUMNS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        most[r] = minus_infinity<Acc>();
        sum[r] = 0;
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
            out[r][c] = 0;
    }

    int length = p.score.keys_of(b), last_row = min_of(block_row + WARPS * ROWS, p.score.t) - 1;
    int first = p.score.first_key(block_row, length), end = p.score.end_key(last_row, length);
    for (int start = first; start < end; start += WARP) {
        int key = start + lane, count = min_of(WARP, length - start);
        __syncthreads();
        stage(chunk, p.k, b, h_kv, start, count, p.d);
        __syncthreads();

        Acc weight[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
            weight[r] = 0;
        for (int c = 0; c < p.d; ++c) {
            Acc k = chunk[lane * (p.d + 1) + c];
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
                weight[r] += queries[c * WARPS * ROWS + warp * ROWS + r] * k;
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            int i = row + r;
            bool seen = i < p.score.t && key >= p.score.first_key(i, length) &&
                        key < p.score.end_key(i, length) && p.score.lets_see(b, h, i, key);
            Acc s = minus_infinity<Acc>();
            if (seen) {
                s = Acc(p.score.scale) * weight[r];
                if (p.score.bias.data)
                    s += p.score.bias_at<E>(b, h, i, key);
            }
            // A maximum that ignores NaN; the sum does not.
            Acc top = s;
#pragma unroll
            for (int step = WARP / 2; step > 0; step /= 2) {
                Acc other = __shfl_xor_sync(FULL_WARP, top, step);
                top = other > top || top != top ? other : top;
            }
            top = most[r] > top || top != top ? most[r] : top;
            Acc base = top == minus_infinity<Acc>() ? Acc(0) : top;
            Acc shrink = exp_of(most[r] - base);
            weight[r] = exp_of(s - base);
            Acc total = weight[r];
#pragma unroll
            for (int step = WARP / 2; step > 0; step /= 2)
                total += __shfl_xor_sync(FULL_WARP, total, step);
            sum[r] = sum[r] * shrink + total;
            most[r] = top;
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
                out[r][c] *= shrink;
            if (p.score.threshold != 0 && !Philox(p.score, key / 4, i, h, b).keeps(p.score, key % 4))
                weight[r] = 0;
        }

        __syncthreads();
        stage(chunk, p.v, b, h_kv, start, count, p.dv);
        __syncthreads();
        for (int j = 0; j < count; ++j) {
            Acc v[COLUMNS];
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
                v[c] = lane + c * WARP < p.dv ? chunk[j * (p.dv + 1) + lane + c * WARP] : Acc(0);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                Acc share = __shfl_sync(FULL_WARP, weight[r], j);
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c)
                    out[r][c] += share * v[c];
            }
        }
    }

    unsigned empty = 0, lost = 0; // a bit for each row
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
        empty |= (sum[r] == 0 && row + r < p.score.t) << r;
#pragma unroll 1
    for (unsigned rest = empty; rest; rest &= rest - 1) {
        int r = __ffs(rest) - 1;
        lost |= p.score.sees_a_key<E>(b, h, row + r, length) << r;
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        int i = row + r;
        if (i >= p.score.t)
            break;
        Acc lse = most[r] + log_of(sum[r]), weight = Acc(p.score.kept) / sum[r];
        if (empty >> r & 1) {
            lse = lost >> r & 1 ? Acc(not_a_number()) : minus_infinity<Acc>();
            weight = lost >> r & 1 ? Acc(not_a_number()) : Acc(0);
        }
        if (lane == 0)
            *p.lse.at<Acc>(b, h, i) = lse;
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
            if (lane + c * WARP < p.dv)
                p.out.at<E>(b, h, i)[lane + c * WARP] = Element<E>::from_acc(out[r][c] * weight);
        if (!p.rest.data)
            continue;
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
            if (lane + c * WARP < p.dv)
                p.rest.at<E>(b, h, i)[lane + c * WARP] = rest_of<E>(out[r][c] * weight);
    }
}
