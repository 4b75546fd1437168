// A tensor in another type, or one that is filled.
#include "base.cuh"

namespace theria {

// Mirrors `CastParameters` in gpu/elements.rs.
struct Cast {
    // Null where the tensor is filled.
    const void *from;
    void *to;
    double fill;
    long long count;
};

} // namespace theria

extern "C" __global__ void __launch_bounds__(256) kernel(const __grid_constant__ theria::Cast all) {
    using namespace theria;
    using From = Element<THERIA_FROM>;
    using To = Element<THERIA_TO>;
    let_next_launch_start();
    const THERIA_FROM *from = static_cast<const THERIA_FROM *>(all.from);
    THERIA_TO *to = static_cast<THERIA_TO *>(all.to);
    long long base = (long long)blockIdx.x * blockDim.x * 4 + threadIdx.x;
    await_launches_ahead();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        long long n = base + i * blockDim.x;
        if (n < all.count) {
            to[n] = To::from_acc(from ? From::to_acc(from[n]) : From::Acc(all.fill));
        }
    }
}
