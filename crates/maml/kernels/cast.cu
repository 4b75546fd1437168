// A tensor in another type, one that is filled, or one that is copied: what is read is of no account to the second.
#include "elements.cuh"

extern "C" __global__ void __launch_bounds__(256) kernel(const __grid_constant__ theria::Elements all) {
    using namespace theria;
    using From = Element<THERIA_FROM>;
    using To = Element<THERIA_TO>;
    let_next_launch_start();
    await_launches_ahead();
    const THERIA_FROM *from = static_cast<const THERIA_FROM *>(all.read[0]);
    THERIA_TO *to = static_cast<THERIA_TO *>(all.state[0]);
    long long step = (long long)gridDim.x * blockDim.x;
#pragma unroll 4
    for (long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x; n < all.count; n += step) {
        to[n] = To::from_acc(from ? From::to_acc(from[n]) : From::Acc(all.constants[0]));
    }
}
