// Numbers of a model's tensors: as wide as what is computed in, or, between operations, in bf16. Which of the two is
// known when a kernel is launched, and by MIXED instances alone: in the others there is nothing to ask.
#pragma once

#include "base.cuh"

namespace theria {

constexpr bool MIXED = THERIA_MIXED;

// A number that no launch writes while it reads it.
template <class R> THERIA_DEVICE R load(const void *from, bool narrow, long long n) {
    if (MIXED && narrow) {
        return R(Element<bf16>::to_acc(bf16{__ldg(static_cast<const unsigned short *>(from) + n)}));
    }
    return __ldg(static_cast<const R *>(from) + n);
}

// Rounded to the nearest.
template <class R> THERIA_DEVICE bf16 narrowed(R x) { return Element<bf16>::from_acc(float(x)); }

// What is added to a number in bf16.
template <class R> THERIA_DEVICE R with_narrow(bf16 there, R x) { return R(Element<bf16>::to_acc(there)) + x; }

// A number in place of what is there, or added to it.
template <class R> THERIA_DEVICE void put(void *to, bool narrow, long long n, bool add, R x) {
    if (MIXED && narrow) {
        bf16 *at = static_cast<bf16 *>(to) + n;
        *at = narrowed(add ? with_narrow(*at, x) : x);
    } else {
        R *at = static_cast<R *>(to) + n;
        *at = add ? *at + x : x;
    }
}

// Where row `row` begins; null stays null. Elements are counted where there is one width: bytes would cost registers.
template <class R> THERIA_DEVICE void *row_at(const void *data, bool narrow, unsigned row, int width) {
    if (!data) {
        return nullptr;
    }
    long long first = (long long)row * width;
    if constexpr (MIXED) {
        return static_cast<char *>(const_cast<void *>(data)) + first * (narrow ? sizeof(bf16) : sizeof(R));
    } else {
        return static_cast<R *>(const_cast<void *>(data)) + first;
    }
}

} // namespace theria
