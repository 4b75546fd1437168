// Functions of rows. A function is a struct with two templates, as its Rust twin has two functions:
//
//     template <class N, class X, class Y> void value(Row row, X x, Y y)             y.add(n, …)
//     template <class N, class X, class G, class I> void pull(Row row, X x, G g, I into)      into.add(operand, n, …)
//
// x(i, n) is element n of the row of operand i, g(n) that of the cotangent. On real numbers they are the value and the
// pull-back; on dual ones the push-forward and the tangent of the pull-back, of which tangents alone are written. All lanes
// of a warp work on one row: `row.each` gives them columns, and `row.sum` is over all of them. Every element of a result
// is added once for each row, by the lane that `each` or `once` names, whatever is added. Columns of a function that has
// neither sums nor `once` may go to several warps.
#pragma once

#include "number.cuh"

namespace theria {

// Which row of an operand belongs to row r: r / n, or r % n (`Follow` in mod.rs).
struct Follow {
    int n, cyclic;
    THERIA_DEVICE long long row(long long r) const { return cyclic ? r % n : r / n; }
};

// Memory of an operand or of the result: what is read of it, and where its result goes.
struct Operand {
    const void *value, *tangent;
    void *made;
    // Rows of sums of `made`, where rows share it and several warps add to one.
    void *sums;
    int width, add;
    Follow follow;
};

// Mirrors `Parameters` in gpu/rows.rs.
struct Rows {
    Operand x[3], y;
    double constants[2];
    long long rows;
    // A warp takes `length` of the `members` rows that share what is made, of which there are so many chunks; and so
    // many of the columns, of which there are so many parts.
    int length, members, chunks, columns, parts;
    Follow shared;
};
static_assert(sizeof(Rows) == 248, "as in rows.rs");

// The lanes of a warp on a row.
struct Row {
    int lane, begin, end;
    int widths[3];

    THERIA_DEVICE int width(int operand) const { return widths[operand]; }

    template <class F> THERIA_DEVICE void each(int width, F f) const {
#pragma unroll 4
        for (int n = begin + lane; n < min_of(width, end); n += WARP) {
            f(n);
        }
    }
    template <class F> THERIA_DEVICE void once(F f) const {
        if (lane == 0) {
            f();
        }
    }
    template <class N, class F> THERIA_DEVICE N sum(int width, F f) const {
        N all = N(0);
#pragma unroll 4
        for (int n = lane; n < width; n += WARP) {
            all = all + f(n);
        }
        for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
            all = all + across(all, lanes);
        }
        return all;
    }
    template <class R, class F> THERIA_DEVICE R largest(int width, F f) const {
        R most = minus_infinity<R>();
        for (int n = lane; n < width; n += WARP) {
            most = f(n) > most ? f(n) : most;
        }
        for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
            R other = across(most, lanes);
            most = other > most ? other : most;
        }
        return most;
    }
};

// Numbers out of memory, with tangents where there are any.
template <class N> struct Load;
template <> struct Load<float> {
    static THERIA_DEVICE float at(const float *value, const float *, int n) { return value[n]; }
};
template <> struct Load<double> {
    static THERIA_DEVICE double at(const double *value, const double *, int n) { return value[n]; }
};
template <class R> struct Load<Dual<R>> {
    static THERIA_DEVICE Dual<R> at(const R *value, const R *tangent, int n) {
        return {value[n], tangent ? tangent[n] : R(0)};
    }
};

// What is written of a number.
THERIA_DEVICE float kept(float x) { return x; }
THERIA_DEVICE double kept(double x) { return x; }
template <class R> THERIA_DEVICE R kept(Dual<R> x) { return x.tangent; }

template <class N, class R> struct Given {
    const R *value, *tangent;
    THERIA_DEVICE N operator()(int n) const { return Load<N>::at(value, tangent, n); }
};

template <class N, class R> struct AllGiven {
    Given<N, R> x[3];
    THERIA_DEVICE N operator()(int operand, int n) const { return x[operand](n); }
};

// A row that numbers are written to, or added to.
template <class R> struct Written {
    R *to;
    bool add;
    template <class N> THERIA_DEVICE void put(int n, N x) const { to[n] = add ? to[n] + kept(x) : kept(x); }
};

template <class R> struct Made {
    Written<R> y;
    template <class N> THERIA_DEVICE void add(int n, N x) const { y.put(n, x); }
};

template <class R> struct Into {
    Written<R> x[3];
    THERIA_DEVICE bool wants(int operand) const { return x[operand].to != nullptr; }
    template <class N> THERIA_DEVICE void add(int operand, int n, N value) const {
        if (wants(operand)) {
            x[operand].put(n, value);
        }
    }
};

template <class R> THERIA_DEVICE const R *read_row(const void *data, long long row, int width) {
    return data ? static_cast<const R *>(data) + row * width : nullptr;
}

// Where row r of a warp's rows writes: rows that are not shared have a place each; the others add up, in the place
// itself if one warp has them all.
template <class R>
THERIA_DEVICE Written<R> written(const Operand &of, const Rows &rows, long long r, long long warp, bool first) {
    if (!of.made) {
        return {nullptr, false};
    }
    bool own = of.follow.n == 1 && !of.follow.cyclic;
    if (own || rows.chunks == 1) {
        R *to = static_cast<R *>(of.made) + of.follow.row(r) * of.width;
        return {to, own ? bool(of.add) : of.add || !first};
    }
    return {static_cast<R *>(of.sums) + warp * of.width, !first};
}

template <bool FIRST, class A, class B> struct Choose {
    using Type = A;
};
template <class A, class B> struct Choose<false, A, B> {
    using Type = B;
};

enum Rule { VALUE, PUSH, PULL, PULL_TANGENT };

template <class F, class R, int RULE> THERIA_DEVICE void sweep(const Rows &rows) {
    constexpr bool DUAL = RULE == PUSH || RULE == PULL_TANGENT;
    constexpr bool BACK = RULE == PULL || RULE == PULL_TANGENT;
    using N = typename Choose<DUAL, Dual<R>, R>::Type;
    F function(rows.constants);
    Row row;
    row.lane = threadIdx.x % WARP;
    for (int i = 0; i < 3; ++i) {
        row.widths[i] = rows.x[i].width;
    }
    long long all = (long long)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, warp = all / rows.parts;
    row.begin = int(all % rows.parts) * rows.columns;
    row.end = row.begin + rows.columns;
    long long group = warp / rows.chunks;
    int begin = int(warp % rows.chunks) * rows.length;
    let_next_launch_start();
    await_launches_ahead();
    for (int member = begin; member < min_of(begin + rows.length, rows.members); ++member) {
        long long r = rows.shared.cyclic ? (long long)member * rows.shared.n + group
                                         : group * rows.shared.n + member;
        if (r >= rows.rows) {
            break;
        }
        bool first = member == begin;
        AllGiven<N, R> x;
        for (int i = 0; i < 3; ++i) {
            const Operand &of = rows.x[i];
            long long at = of.follow.row(r);
            x.x[i] = {read_row<R>(of.value, at, of.width), read_row<R>(of.tangent, at, of.width)};
        }
        if (BACK) {
            Into<R> into;
            for (int i = 0; i < 3; ++i) {
                into.x[i] = written<R>(rows.x[i], rows, r, warp, first);
            }
            const Operand &of = rows.y;
            long long at = of.follow.row(r);
            Given<N, R> g = {read_row<R>(of.value, at, of.width), read_row<R>(of.tangent, at, of.width)};
            function.template pull<N>(row, x, g, into);
        } else {
            Made<R> made = {written<R>(rows.y, rows, r, warp, first)};
            function.template value<N>(row, x, made);
        }
        // What one lane wrote is read by none other before the warp is together again.
        __syncwarp();
    }
}

} // namespace theria

#define THERIA_ROWS(FUNCTION)                                                                                          \
    extern "C" __global__ void __launch_bounds__(128, 1) kernel(const __grid_constant__ theria::Rows rows) {             \
        theria::sweep<FUNCTION, THERIA_REAL, THERIA_RULE>(rows);                                                       \
    }
