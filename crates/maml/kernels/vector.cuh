// Numbers of a row, sixteen bytes of them at a time where that is how they lie. In a launch with narrow ones a vector
// is sixteen bytes of those, and as many of the others: two times sixteen bytes.
#pragma once

#include "width.cuh"

namespace theria {

template <class R> constexpr int VECTOR = MIXED ? 8 : 16 / int(sizeof(R));
// Numbers of sixteen bytes that are wide.
template <class R> constexpr int SIXTEEN_BYTES = 16 / int(sizeof(R));

// Of what no block of the launch writes; or of what other blocks have LEFT, which is in the cache of all of them.
template <bool LEFT = false> THERIA_DEVICE void load_vector(const float *from, float *to) {
    auto lines = reinterpret_cast<const float4 *>(from);
    float4 x = LEFT ? __ldcg(lines) : __ldg(lines);
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}
template <bool LEFT = false> THERIA_DEVICE void load_vector(const double *from, double *to) {
    auto lines = reinterpret_cast<const double2 *>(from);
    double2 x = LEFT ? __ldcg(lines) : __ldg(lines);
    to[0] = x.x, to[1] = x.y;
}
THERIA_DEVICE void add_vector(const float *there, float *to) {
    float4 x = *reinterpret_cast<const float4 *>(there);
    to[0] += x.x, to[1] += x.y, to[2] += x.z, to[3] += x.w;
}
THERIA_DEVICE void add_vector(const double *there, double *to) {
    double2 x = *reinterpret_cast<const double2 *>(there);
    to[0] += x.x, to[1] += x.y;
}
THERIA_DEVICE void store_vector(float *to, const float *x) {
    *reinterpret_cast<float4 *>(to) = make_float4(x[0], x[1], x[2], x[3]);
}
THERIA_DEVICE void store_vector(double *to, const double *x) {
    *reinterpret_cast<double2 *>(to) = make_double2(x[0], x[1]);
}

// Sixteen bytes of bf16, as they lie.
THERIA_DEVICE void load_narrow(const bf16 *from, float *to) { load_vector(reinterpret_cast<const float *>(from), to); }
THERIA_DEVICE void load_narrow(const bf16 *, double *) {}

// The numbers that were loaded as they lie. The last ones first: none is overwritten before it is taken.
THERIA_DEVICE void widen(float *x) {
#pragma unroll
    for (int j = VECTOR<float> - 1; j >= 0; --j) {
        unsigned pair = __float_as_uint(x[j / 2]);
        x[j] = __uint_as_float(j % 2 == 0 ? pair << 16 : pair & 0xFFFF0000u);
    }
}
THERIA_DEVICE void widen(double *) {}

// A vector of a row that no launch writes while it reads it, from `column` on, of which `there` numbers are there:
// none, all, or, where vectors are not WHOLE, some. The others are zero. Vectors that are WHOLE and narrow are left as
// they lie, for `widen`: a thread asks for all of its vectors before it waits for the first.
template <bool WHOLE, class R> THERIA_DEVICE void load(const void *from, bool narrow, int column, int there, R *to) {
#pragma unroll
    for (int j = 0; j < VECTOR<R>; ++j) {
        to[j] = R(0);
    }
    if constexpr (WHOLE) {
        if (there > 0) {
            if (MIXED && narrow) {
                load_narrow(static_cast<const bf16 *>(from) + column, to);
            } else {
#pragma unroll
                for (int j = 0; j < VECTOR<R>; j += SIXTEEN_BYTES<R>) {
                    load_vector(static_cast<const R *>(from) + column + j, to + j);
                }
            }
        }
    } else {
#pragma unroll
        for (int j = 0; j < VECTOR<R>; ++j) {
            if (j < there) {
                to[j] = load<R>(from, narrow, column + j);
            }
        }
    }
}

// Eight numbers that become narrow, in place of what is there or added to it.
template <class R> THERIA_DEVICE void store_narrow(bf16 *to, bool add, const R *x) {
    uint4 *lines = reinterpret_cast<uint4 *>(to);
    uint4 there = add ? *lines : make_uint4(0, 0, 0, 0);
    unsigned pairs[4] = {there.x, there.y, there.z, there.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        bf16 low = {(unsigned short)(pairs[i] & 0xFFFFu)}, high = {(unsigned short)(pairs[i] >> 16)};
        low = narrowed(add ? with_narrow(low, x[2 * i]) : x[2 * i]);
        high = narrowed(add ? with_narrow(high, x[2 * i + 1]) : x[2 * i + 1]);
        pairs[i] = unsigned(low.bits) | unsigned(high.bits) << 16;
    }
    *lines = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// A vector the other way, in place of what is there or added to it.
template <bool WHOLE, class R> THERIA_DEVICE void store(void *to, bool narrow, int column, int there, bool add, R *x) {
    if constexpr (WHOLE) {
        if (there > 0) {
            if constexpr (MIXED) {
                if (narrow) {
                    store_narrow(static_cast<bf16 *>(to) + column, add, x);
                    return;
                }
            }
            R *wide = static_cast<R *>(to) + column;
#pragma unroll
            for (int j = 0; j < VECTOR<R>; j += SIXTEEN_BYTES<R>) {
                if (add) {
                    add_vector(wide + j, x + j);
                }
                store_vector(wide + j, x + j);
            }
        }
    } else {
#pragma unroll
        for (int j = 0; j < VECTOR<R>; ++j) {
            if (j < there) {
                put<R>(to, narrow, column + j, add, x[j]);
            }
        }
    }
}

} // namespace theria
