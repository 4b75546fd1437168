// Rows of a table by numbers that are data, and rows that are added to those of a table. Nothing is added atomically: the
// first warp whose number names a row adds all that fall to it, in the order of the numbers.
#include "width.cuh"

namespace theria {

// Mirrors `Parameters` in gpu/lookup.rs.
struct Lookup {
    const void *numbers;
    // Rows of the table are read and picked, or picked ones are read and added to rows of the table.
    const void *from;
    void *to;
    int rows, columns, count, adds;
    // Whether the picked rows are in bf16. The table never is.
    int narrow;
};

// The row that a number names; -1 if it names none.
template <class R> THERIA_DEVICE int row_of(const void *numbers, int n, int rows) {
    double number = static_cast<const R *>(numbers)[n];
    return number >= 0 && number < rows && number == floor(number) ? int(number) : -1;
}

} // namespace theria

extern "C" __global__ void __launch_bounds__(128) kernel(const __grid_constant__ theria::Lookup all) {
    using namespace theria;
    using R = THERIA_REAL;
    int n = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    let_next_launch_start();
    await_launches_ahead();
    if (n >= all.count)
        return;
    int row = row_of<R>(all.numbers, n, all.rows);
    if (!all.adds) {
        for (int c = lane; c < all.columns; c += WARP) {
            R x = row < 0 ? R(not_a_number()) : load<R>(all.from, false, (long long)row * all.columns + c);
            put<R>(all.to, all.narrow, (long long)n * all.columns + c, false, x);
        }
        return;
    }
    R *to = static_cast<R *>(all.to);
    if (row < 0)
        return;
    for (int base = 0; base < n; base += WARP) {
        bool same = base + lane < n && row_of<R>(all.numbers, base + lane, all.rows) == row;
        if (__any_sync(FULL_WARP, same))
            return;
    }
    for (int base = n; base < all.count; base += WARP) {
        bool same = base + lane < all.count && row_of<R>(all.numbers, base + lane, all.rows) == row;
        for (unsigned left = __ballot_sync(FULL_WARP, same); left != 0; left &= left - 1) {
            long long picked = base + __ffs(left) - 1;
            for (int c = lane; c < all.columns; c += WARP)
                to[(long long)row * all.columns + c] += load<R>(all.from, all.narrow, picked * all.columns + c);
        }
    }
}
