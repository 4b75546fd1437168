// Gradient of the bias, or its tangent: dS, or dS', summed over the axes that the bias broadcasts over.
//
// An entry of the bias has a lane, or a warp whose lanes share the pairs that it is added to. Every sum has one order.
#include "pairs.cuh"

using namespace theria;

constexpr int THREADS = 4 * WARP;

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Rules all) {
    let_next_launch_start();
    await_launches_ahead();
    const Forward &p = all.forward;
    long long thread = (long long)blockIdx.x * THREADS + threadIdx.x, entry = thread / all.lanes;
    int lane = int(thread % all.lanes);
    auto whole = [&](int axis) { return axis == 0 ? all.batch : axis == 1 ? all.heads : axis == 2 ? p.score.t : p.score.m; };
    int at[4], sums[4]; // the entry, and how many pairs along each axis it is added to
    long long rest = entry, pairs = 1;
#pragma unroll
    for (int axis = 3; axis >= 0; --axis) {
        at[axis] = int(rest % all.extents[axis]);
        rest /= all.extents[axis];
        sums[axis] = all.extents[axis] == 1 ? whole(axis) : 1;
        pairs *= sums[axis];
    }
    bool there = rest == 0;
    Acc sum = 0;
    for (long long n = lane; there && n < pairs; n += all.lanes) {
        int index[4];
        long long left = n;
#pragma unroll
        for (int axis = 3; axis >= 0; --axis) {
            index[axis] = at[axis] + int(left % sums[axis]);
            left /= sums[axis];
        }
        int b = index[0], h = index[1], i = index[2], j = index[3];
        Pair pair =
            Pair::of<true, ORDER == 2>(all, known_of(all, b, h, i), b, h, p.group.quotient(h), i, j, p.score.keys_of(b));
        sum += ORDER == 1 ? pair.ds : pair.ds_tangent;
    }
    if (all.lanes > 1)
        sum = sum_of_warp(sum);
    if (there && lane == 0)
        static_cast<E *>(all.dbias.data)[all.dbias.offset(at[0], at[1], at[2], at[3])] = Element<E>::from_acc(sum);
}
