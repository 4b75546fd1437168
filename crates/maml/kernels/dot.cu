// Σ x·y, or Σ x where there is no y, in f64: each block writes the sum of its part, and the block of a second launch
// adds these up. The order is the same in every call.
#include "base.cuh"

namespace theria {

// Mirrors `Parameters` in gpu/dot.rs.
struct Dot {
    const void *x, *y;
    // Sums of blocks; `whole` is null where they are written, and where their sum goes where they are read.
    double *parts, *whole;
    long long count;
};

} // namespace theria

extern "C" __global__ void __launch_bounds__(256) kernel(const __grid_constant__ theria::Dot all) {
    using namespace theria;
    using R = THERIA_REAL;
    __shared__ double sums[256];
    let_next_launch_start();
    await_launches_ahead();
    double sum = 0;
    if (all.whole) {
        for (long long n = threadIdx.x; n < all.count; n += blockDim.x) {
            sum += all.parts[n];
        }
    } else {
        const R *x = static_cast<const R *>(all.x), *y = static_cast<const R *>(all.y);
        long long step = (long long)gridDim.x * blockDim.x;
#pragma unroll 4
        for (long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x; n < all.count; n += step) {
            sum += double(x[n]) * (y ? double(y[n]) : 1.0);
        }
    }
    sums[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) {
        (all.whole ? all.whole[0] : all.parts[blockIdx.x]) = sums[0];
    }
}
