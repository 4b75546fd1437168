// Changes of tensors in place, element by element. A change is a struct with the number of tensors that it changes and
// reads, and
//
//     template <class R> void operator()(R *state, const R *read)
//
// on one element of each, as its Rust twin has on all.
#pragma once

#include "number.cuh"

namespace theria {

// Mirrors `Parameters` in gpu/elements.rs.
struct Elements {
    void *state[3];
    const void *read[4];
    double constants[8];
    long long count;
};

template <class F, class R> THERIA_DEVICE void change(const Elements &all) {
    F function(all.constants);
    let_next_launch_start();
    await_launches_ahead();
    long long step = (long long)gridDim.x * blockDim.x;
#pragma unroll 4
    for (long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x; n < all.count; n += step) {
        R state[F::STATE], read[F::READ > 0 ? F::READ : 1];
#pragma unroll
        for (int i = 0; i < F::STATE; ++i) {
            state[i] = static_cast<R *>(all.state[i])[n];
        }
#pragma unroll
        for (int i = 0; i < F::READ; ++i) {
            read[i] = static_cast<const R *>(all.read[i])[n];
        }
        function(state, read);
#pragma unroll
        for (int i = 0; i < F::STATE; ++i) {
            static_cast<R *>(all.state[i])[n] = state[i];
        }
    }
}

} // namespace theria

#define THERIA_ELEMENTS(FUNCTION)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) kernel(const __grid_constant__ theria::Elements all) {          \
        theria::change<FUNCTION, THERIA_REAL>(all);                                                                    \
    }
