// The score policy: which keys a query sees, and what becomes of its scores.
//
// Scale, bias, causal mask, window, key lengths, boolean mask and dropout are decided here, once, for
// every kernel of every rule. What `theria_contract::Visibility` and `theria_contract::Dropout` say on the
// host is said here in the same words; tests hold the two against each other.
#pragma once
#include "base.cuh"

namespace theria {

// Filled by `Score::of` in parameters.rs.
struct Score {
    double scale;
    Broadcast bias;
    Broadcast mask;
    const int *lengths; // keys of each batch entry; null if all have `m`
    int t, m;
    int origin;      // position of query 0 among the keys
    int back, ahead; // how far a query sees to either side; UNBOUNDED if it sees all
    unsigned threshold, seed_low, seed_high; // of dropout; a threshold of 0 keeps everything
    double kept;                             // what a kept probability is multiplied by

    static constexpr int UNBOUNDED = 0x7FFFFFFF;

    // Keys of a batch entry. On a device nobody has looked at the lengths: they are held to the range.
    THERIA_DEVICE int keys_of(int batch) const {
        return lengths ? max_of(0, min_of(lengths[batch], m)) : m;
    }

    // The first key that a query sees, and the one after the last, of `length` keys. T and M are below
    // 2^30, `back` is below T + M and `ahead` below M, so no sum here leaves its type.
    THERIA_DEVICE int first_key(int row, int length) const {
        return back == UNBOUNDED ? 0 : min_of(max_of(row + origin - back, 0), length);
    }
    THERIA_DEVICE int end_key(int row, int length) const {
        return ahead == UNBOUNDED ? length : min_of(max_of(row + origin + ahead + 1, 0), length);
    }

    // Whether the boolean mask lets a query see a key of its interval.
    THERIA_DEVICE bool lets_see(int b, int h, int i, int j) const {
        return !mask.data || static_cast<const unsigned char *>(mask.data)[mask.offset(b, h, i, j)];
    }

    template <class E> THERIA_DEVICE typename Element<E>::Acc bias_at(int b, int h, int i, int j) const {
        return Element<E>::to_acc(static_cast<const E *>(bias.data)[bias.offset(b, h, i, j)]);
    }

    // Whether a row sees a key. A row of scores that are all -inf although it does has overflowed, and nobody
    // knows it. Rare, so nothing is remembered for it while the row is computed. All lanes of a warp ask
    // together, about one row.
    template <class E> THERIA_DEVICE bool sees_a_key(int b, int h, int i, int length) const {
        using Acc = typename Element<E>::Acc;
        int end = end_key(i, length);
        for (int start = first_key(i, length); start < end; start += WARP) {
            int j = start + threadIdx.x % WARP;
            bool sees = j < end && lets_see(b, h, i, j) &&
                        !(bias.data && bias_at<E>(b, h, i, j) == minus_infinity<Acc>());
            if (__any_sync(FULL_WARP, sees))
                return true;
        }
        return false;
    }
};

// Four words of Philox4x32-10 (Salmon and others, 2011).
struct Philox {
    unsigned word[4];

    THERIA_DEVICE Philox(const Score &score, int block, int i, int h, int b)
        : word{unsigned(block), unsigned(i), unsigned(h), unsigned(b)} {
        unsigned low = score.seed_low, high = score.seed_high;
#pragma unroll
        for (int round = 0; round < 10; ++round) {
            unsigned first = word[0] * 0xD2511F53u, carry = __umulhi(word[0], 0xD2511F53u);
            unsigned second = word[2] * 0xCD9E8D57u, over = __umulhi(word[2], 0xCD9E8D57u);
            word[0] = over ^ word[1] ^ low;
            word[1] = second;
            word[2] = carry ^ word[3] ^ high;
            word[3] = first;
            low += 0x9E3779B9u;
            high += 0xBB67AE85u;
        }
    }

    THERIA_DEVICE bool keeps(const Score &score, int lane) const { return word[lane] >= score.threshold; }
};

} // namespace theria
