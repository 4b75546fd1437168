// Functions of rows. A function is a struct with two templates, as its Rust twin has two functions:
//
//     template <class N, class X, class Y> void value(Row row, X x, Y y)             y.add(n, …)
//     template <class N, class X, class G, class I> void pull(Row row, X x, G g, I into)      into.add(operand, n, …)
//
// x(i, n) is element n of the row of operand i, g(n) that of the cotangent. On real numbers they are the value and the
// pull-back; on dual ones the push-forward and the tangent of the pull-back, of which tangents alone are written. All lanes
// of a warp work on one row: `row.each` gives them columns, and `row.sum` is over all of them. Every element of a result
// is added once for each row, by the lane that `each` or `once` names, whatever is added.
//
// Of a function whose columns have nothing to do with each other (COLUMNWISE: it has neither sums nor `once`) a lane has
// one column of several rows, and adds up in a register what rows share.
#pragma once

#include "number.cuh"
#include "width.cuh"

namespace theria {

constexpr bool COLUMNWISE = THERIA_COLUMNWISE;

// Which row of an operand belongs to row r: r / n, or r % n (`Follow` in mod.rs).
struct Follow {
    int n, cyclic;
    THERIA_DEVICE bool own() const { return n == 1 && !cyclic; }
    THERIA_DEVICE unsigned row(unsigned r) const {
        return own() ? r : cyclic ? r % unsigned(n) : r / unsigned(n);
    }
};

// Memory of an operand or of the result: what is read of it, and where its result goes. All of it is narrow or none is, and
// what rows share never is.
struct Operand {
    const void *value, *tangent;
    void *made;
    // Rows of sums of `made`, where rows share it and several warps add to one.
    void *sums;
    int width;
    short add, narrow;
    Follow follow;
};

// Mirrors `Parameters` in gpu/rows.rs.
struct Rows {
    Operand x[3], y;
    double constants[2];
    long long rows;
    // A warp takes `length` of the `members` rows of a group, of which there are so many chunks; and, of columns that have
    // nothing to do with each other, one of so many parts.
    int length, members, chunks, parts;
    // Which rows are a group: those that share what is made.
    Follow shared;
};
static_assert(sizeof(Rows) == 240, "as in rows.rs");

// The lanes of a warp on a row.
struct Row {
    // Where its columns begin.
    int lane, begin;
    int widths[3];

    THERIA_DEVICE int width(int operand) const { return widths[operand]; }

    template <class F> THERIA_DEVICE void each(int width, F f) const {
        if (COLUMNWISE) {
            if (begin + lane < width) {
                f(begin + lane);
            }
            return;
        }
#pragma unroll 4
        for (int n = lane; n < width; n += WARP) {
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

// Numbers out of memory, with tangents where there are any. No launch writes what it reads.
template <class N> struct Load;
template <> struct Load<float> {
    static THERIA_DEVICE float at(const void *value, const void *, bool narrow, int n) {
        return load<float>(value, narrow, n);
    }
};
template <> struct Load<double> {
    static THERIA_DEVICE double at(const void *value, const void *, bool narrow, int n) {
        return load<double>(value, narrow, n);
    }
};
template <class R> struct Load<Dual<R>> {
    static THERIA_DEVICE Dual<R> at(const void *value, const void *tangent, bool narrow, int n) {
        return {load<R>(value, narrow, n), tangent ? load<R>(tangent, narrow, n) : R(0)};
    }
};

// What is written of a number.
THERIA_DEVICE float kept(float x) { return x; }
THERIA_DEVICE double kept(double x) { return x; }
template <class R> THERIA_DEVICE R kept(Dual<R> x) { return x.tangent; }

template <class N, class R> struct Given {
    const void *value, *tangent;
    bool narrow;
    THERIA_DEVICE N operator()(int n) const { return Load<N>::at(value, tangent, narrow, n); }
};

template <class N, class R> struct AllGiven {
    Given<N, R> x[3];
    THERIA_DEVICE N operator()(int operand, int n) const { return x[operand](n); }
};

// A row that numbers are written to, or added to; or one whose numbers a lane adds up.
template <class R> struct Written {
    void *to;
    bool narrow, add, summed;
    template <class N> THERIA_DEVICE void put(int n, N x) const {
        store<R>(to, narrow, n, add ? load_written<R>(to, narrow, n) + kept(x) : kept(x));
    }
};

// Sums are told by number and not by address, so that they stay in registers.
template <class R> struct Made {
    Written<R> y;
    R *sums;
    template <class N> THERIA_DEVICE void add(int n, N x) const {
        if (COLUMNWISE && y.summed) {
            sums[3] += kept(x);
        } else {
            y.put(n, x);
        }
    }
};

template <class R> struct Into {
    Written<R> x[3];
    R *sums;
    THERIA_DEVICE bool wants(int operand) const { return x[operand].to != nullptr || x[operand].summed; }
    template <class N> THERIA_DEVICE void add(int operand, int n, N value) const {
        if (COLUMNWISE && x[operand].summed) {
            sums[operand] += kept(value);
        } else if (x[operand].to) {
            x[operand].put(n, value);
        }
    }
};

// Row r of what is read of an operand.
template <class N, class R> THERIA_DEVICE Given<N, R> read_row(const Operand &of, unsigned r) {
    unsigned at = of.follow.row(r);
    return {row_at<R>(of.value, of.narrow, at, of.width), row_at<R>(of.tangent, of.narrow, at, of.width),
            bool(of.narrow)};
}

// Where the sums of a group of rows go: to their place, if one warp has all of them, or to the warp's own.
template <class R> THERIA_DEVICE R *place_of(const Operand &of, const Rows &rows, unsigned r, long long warp) {
    return rows.chunks == 1 ? static_cast<R *>(of.made) + (long long)of.follow.row(r) * of.width
                            : static_cast<R *>(of.sums) + warp * of.width;
}

// Where row r writes: rows that are not shared have a place each; the others add up.
template <class R>
THERIA_DEVICE Written<R> written(const Operand &of, const Rows &rows, unsigned r, long long warp, bool first) {
    if (!of.made) {
        return {nullptr, false, false, false};
    }
    if (of.follow.own()) {
        return {row_at<R>(of.made, of.narrow, r, of.width), bool(of.narrow), bool(of.add), false};
    }
    if (COLUMNWISE) {
        return {nullptr, false, false, true};
    }
    return {place_of<R>(of, rows, r, warp), false, rows.chunks == 1 && of.add || !first, false};
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
    unsigned all = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, warp = all / rows.parts;
    unsigned group = warp / rows.chunks, begin = warp % rows.chunks * rows.length;
    Row row;
    row.lane = threadIdx.x % WARP;
    row.begin = all % rows.parts * WARP;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        row.widths[i] = rows.x[i].width;
    }
    // Row `begin + i` of the group, and how many rows the warp has.
    unsigned first_row = rows.shared.cyclic ? begin * rows.shared.n + group : group * rows.shared.n + begin;
    unsigned step = rows.shared.cyclic ? rows.shared.n : 1;
    int left = first_row < rows.rows ? int((rows.rows - first_row + step - 1) / step) : 0;
    int count = min_of(left, min_of(rows.length, rows.members - int(begin)));
    R sums[4] = {};
    let_next_launch_start();
    await_launches_ahead();
#pragma unroll 4
    for (int i = 0; i < count; ++i) {
        unsigned r = first_row + i * step;
        AllGiven<N, R> x;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            x.x[k] = read_row<N, R>(rows.x[k], r);
        }
        const Operand &y = rows.y;
        if (BACK) {
            Into<R> into;
            into.sums = sums;
#pragma unroll
            for (int k = 0; k < 3; ++k) {
                into.x[k] = written<R>(rows.x[k], rows, r, warp, i == 0);
            }
            Given<N, R> g = read_row<N, R>(y, r);
            function.template pull<N>(row, x, g, into);
        } else {
            Made<R> made = {written<R>(y, rows, r, warp, i == 0), sums};
            function.template value<N>(row, x, made);
        }
        if (!COLUMNWISE) {
            // What one lane wrote is read by none other before the warp is together again.
            __syncwarp();
        }
    }
    if (!COLUMNWISE || count == 0) {
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const Operand &of = k < 3 ? rows.x[k] : rows.y;
        int n = row.begin + row.lane;
        if (of.made && !of.follow.own() && n < of.width) {
            R *to = place_of<R>(of, rows, first_row, warp);
            to[n] = rows.chunks == 1 && of.add ? to[n] + sums[k] : sums[k];
        }
    }
}

} // namespace theria

#define THERIA_ROWS(FUNCTION)                                                                                          \
    extern "C" __global__ void __launch_bounds__(128, 1) kernel(const __grid_constant__ theria::Rows rows) {             \
        theria::sweep<FUNCTION, THERIA_REAL, THERIA_RULE>(rows);                                                       \
    }
