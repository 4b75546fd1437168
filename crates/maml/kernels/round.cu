// Several f32 tensors, rounded in one launch to what products or attention take.
#include "base.cuh"

namespace theria {

constexpr int MOST = 48, EACH = 4;

// Mirrors `Parameters` in gpu/factors.rs. Tensor i is that of the blocks from `first[i]` on.
struct Round {
    const float *from[MOST];
    void *to[MOST];
    long long count[MOST];
    int first[MOST];
    int tensors;
};

} // namespace theria

extern "C" __global__ void __launch_bounds__(256) kernel(const __grid_constant__ theria::Round all) {
    using namespace theria;
    int which = 0;
#pragma unroll
    for (int i = 1; i < MOST; ++i) {
        which += i < all.tensors && int(blockIdx.x) >= all.first[i];
    }
    let_next_launch_start();
    const float *from = all.from[which];
    THERIA_TO *to = static_cast<THERIA_TO *>(all.to[which]);
    long long count = all.count[which];
    long long n = ((long long)(blockIdx.x - all.first[which]) * blockDim.x + threadIdx.x) * EACH;
    await_launches_ahead();
    if (n + EACH <= count) {
        float4 x = *reinterpret_cast<const float4 *>(from + n);
        ushort4 made = {Element<THERIA_TO>::from_acc(x.x).bits, Element<THERIA_TO>::from_acc(x.y).bits,
                        Element<THERIA_TO>::from_acc(x.z).bits, Element<THERIA_TO>::from_acc(x.w).bits};
        *reinterpret_cast<ushort4 *>(to + n) = made;
    } else {
        for (; n < count; ++n) {
            to[n] = Element<THERIA_TO>::from_acc(from[n]);
        }
    }
}
