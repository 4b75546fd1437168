// Sums over warps of what they added up in `rows.cuh`, in one order: column n of group g is the sum of column n in the
// rows g·chunks … of `from`.
#include "base.cuh"

namespace theria {

// Mirrors `Parameters` in gpu/gather.rs.
struct Gather {
    const void *from;
    void *to;
    int width, chunks, groups, add;
    // Threads that share a column.
    int threads;
};

} // namespace theria

extern "C" __global__ void __launch_bounds__(256) kernel(const __grid_constant__ theria::Gather all) {
    using namespace theria;
    using R = THERIA_REAL;
    __shared__ R sums[256];
    int columns = 256 / all.threads;
    int column = threadIdx.x % columns, lane = threadIdx.x / columns;
    long long element = (long long)blockIdx.x * columns + column;
    bool there = element < (long long)all.groups * all.width;
    let_next_launch_start();
    await_launches_ahead();
    R sum = R(0);
    if (there) {
        long long group = element / all.width, n = element % all.width;
        const R *from = static_cast<const R *>(all.from) + group * all.chunks * all.width + n;
#pragma unroll 4
        for (int chunk = lane; chunk < all.chunks; chunk += all.threads) {
            sum += from[(long long)chunk * all.width];
        }
    }
    sums[threadIdx.x] = sum;
    for (int half = all.threads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half * columns];
        }
    }
    if (there && lane == 0) {
        R *to = static_cast<R *>(all.to) + element;
        *to = all.add ? *to + sums[threadIdx.x] : sums[threadIdx.x];
    }
}
