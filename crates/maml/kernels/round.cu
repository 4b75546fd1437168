// Several f32 tensors, rounded in one launch to what products or attention take.
#include "base.cuh"

namespace theria {

constexpr int MOST = 64, EACH = 8;

// Mirrors `Parameters` in gpu/factors.rs. Tensor i is that of the blocks from `first[i]` on.
struct Round {
    const float *from[MOST];
    void *to[MOST];
    long long count[MOST];
    int first[MOST];
    int tensors;
};

// Two numbers as they lie.
THERIA_DEVICE unsigned pair(float low, float high) {
    return unsigned(Element<THERIA_TO>::from_acc(low).bits) | unsigned(Element<THERIA_TO>::from_acc(high).bits) << 16;
}

} // namespace theria

extern "C" __global__ void __launch_bounds__(256) kernel(const __grid_constant__ theria::Round all) {
    using namespace theria;
    int which = 0;
#pragma unroll
    for (int half = MOST / 2; half > 0; half /= 2) {
        int later = which + half;
        which = later < all.tensors && int(blockIdx.x) >= all.first[later] ? later : which;
    }
    let_next_launch_start();
    const float *from = all.from[which];
    THERIA_TO *to = static_cast<THERIA_TO *>(all.to[which]);
    long long count = all.count[which];
    long long n = ((long long)(blockIdx.x - all.first[which]) * blockDim.x + threadIdx.x) * EACH;
    await_launches_ahead();
    if (n + EACH <= count) {
        float4 x = *reinterpret_cast<const float4 *>(from + n), y = *reinterpret_cast<const float4 *>(from + n + 4);
        *reinterpret_cast<uint4 *>(to + n) = make_uint4(pair(x.x, x.y), pair(x.z, x.w), pair(y.x, y.y), pair(y.z, y.w));
    } else {
        for (; n < count; ++n) {
            to[n] = Element<THERIA_TO>::from_acc(from[n]);
        }
    }
}
