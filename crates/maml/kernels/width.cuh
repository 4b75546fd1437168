// Numbers of a model's tensors: as wide as what is computed in, or, between operations, in bf16. Which of the two is known
// when a kernel is launched, and by MIXED instances alone: in the others there is nothing to ask.
#pragma once

#include "base.cuh"

namespace theria {

constexpr bool MIXED = THERIA_MIXED;

// A number in bf16 is R: rounded to the nearest where it is written.
template <class R> THERIA_DEVICE R load(const void *from, bool narrow, long long n) {
    if (MIXED && narrow) {
        return R(Element<bf16>::to_acc(bf16{__ldg(static_cast<const unsigned short *>(from) + n)}));
    }
    return __ldg(static_cast<const R *>(from) + n);
}

// The same of what this launch writes.
template <class R> THERIA_DEVICE R load_written(const void *from, bool narrow, long long n) {
    if (MIXED && narrow) {
        return R(Element<bf16>::to_acc(static_cast<const bf16 *>(from)[n]));
    }
    return static_cast<const R *>(from)[n];
}

template <class R> THERIA_DEVICE void store(void *to, bool narrow, long long n, R x) {
    if (MIXED && narrow) {
        static_cast<bf16 *>(to)[n] = Element<bf16>::from_acc(float(x));
    } else {
        static_cast<R *>(to)[n] = x;
    }
}

// Where row `row` begins; null stays null.
template <class R> THERIA_DEVICE void *row_at(const void *data, bool narrow, unsigned row, int width) {
    long long bytes = (long long)row * width * (MIXED && narrow ? sizeof(bf16) : sizeof(R));
    return data ? const_cast<char *>(static_cast<const char *>(data)) + bytes : nullptr;
}

} // namespace theria
