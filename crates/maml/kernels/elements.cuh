// Changes of tensors in place, element by element. A change is a struct with the number of tensors that it changes and
// reads, and
//
//     template <class R> void operator()(R *state, const R *read)
//
// on one element of each, as its Rust twin has on all. A launch makes one change of several lists of tensors.
#pragma once

#include "number.cuh"

namespace theria {

constexpr int MOST = 24, EACH = 4;

struct Change {
    void *state[3];
    const void *read[4];
    double constants[8];
    long long count;
};

// Mirrors `Parameters` in gpu/elements.rs. Change i is that of the blocks from `first[i]` on.
struct Elements {
    Change of[MOST];
    int first[MOST];
    int changes;
};
static_assert(sizeof(Elements) == 3176, "as in elements.rs");

template <class F, class R> THERIA_DEVICE void change(const Elements &all) {
    int which = 0;
    for (int i = 1; i < all.changes; ++i) {
        which += int(blockIdx.x) >= all.first[i];
    }
    const Change &of = all.of[which];
    F function(of.constants);
    long long base = (long long)(blockIdx.x - all.first[which]) * blockDim.x * EACH + threadIdx.x;
    let_next_launch_start();
    await_launches_ahead();
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        long long n = base + i * blockDim.x;
        if (n >= of.count) {
            break;
        }
        R state[F::STATE], read[F::READ > 0 ? F::READ : 1];
#pragma unroll
        for (int i = 0; i < F::STATE; ++i) {
            state[i] = static_cast<R *>(of.state[i])[n];
        }
#pragma unroll
        for (int i = 0; i < F::READ; ++i) {
            read[i] = static_cast<const R *>(of.read[i])[n];
        }
        function(state, read);
#pragma unroll
        for (int i = 0; i < F::STATE; ++i) {
            static_cast<R *>(of.state[i])[n] = state[i];
        }
    }
}

} // namespace theria

#define THERIA_ELEMENTS(FUNCTION)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) kernel(const __grid_constant__ theria::Elements all) {          \
        theria::change<FUNCTION, THERIA_REAL>(all);                                                                    \
    }
