// Numbers of a row, sixteen bytes of them at a time where that is how they lie.
#pragma once

#include "base.cuh"

namespace theria {

template <class R> constexpr int VECTOR = 16 / int(sizeof(R));

THERIA_DEVICE void load_vector(const float *from, float *to) {
    float4 x = __ldg(reinterpret_cast<const float4 *>(from));
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}
THERIA_DEVICE void load_vector(const double *from, double *to) {
    double2 x = __ldg(reinterpret_cast<const double2 *>(from));
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

// A vector of numbers that no launch writes while it reads them, of which `there` are there: none, all, or, where vectors
// are not WHOLE, some. The others are zero.
template <bool WHOLE, class R> THERIA_DEVICE void load(const R *from, int there, R *to) {
#pragma unroll
    for (int j = 0; j < VECTOR<R>; ++j) {
        to[j] = R(0);
    }
    if constexpr (WHOLE) {
        if (there > 0) {
            load_vector(from, to);
        }
    } else {
#pragma unroll
        for (int j = 0; j < VECTOR<R>; ++j) {
            if (j < there) {
                to[j] = __ldg(from + j);
            }
        }
    }
}

// The same the other way, in place of what is there or added to it.
template <bool WHOLE, class R> THERIA_DEVICE void store(R *to, int there, bool add, R *x) {
    if constexpr (WHOLE) {
        if (there > 0) {
            if (add) {
                add_vector(to, x);
            }
            store_vector(to, x);
        }
    } else {
#pragma unroll
        for (int j = 0; j < VECTOR<R>; ++j) {
            if (j < there) {
                to[j] = add ? to[j] + x[j] : x[j];
            }
        }
    }
}

} // namespace theria
