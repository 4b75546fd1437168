// Functions of rows. A function is a struct with two templates, as its Rust twin has two functions:
//
//     template <class N, class X, class Y> void value(Row row, X x, Y y)             y.add(n, …)
//     template <class N, class X, class G, class I> void pull(Row row, X x, G g, I into)      into.add(operand, n, …)
//
// x(i, n) is element n of the row of operand i, g(n) that of the cotangent. On real numbers they are the value and the
// pull-back; on dual ones the push-forward and the tangent of the pull-back, of which tangents alone are written. A team of
// threads works on one row: `row.each` gives them columns, and `row.sum` is over all of them. Every element of a result
// is added once for each row, by the thread that `each` or `once` names, whatever is added.
//
// A function sees rows in one of three ways:
//
//     COLUMNS   its columns have nothing to do with each other: a thread holds a vector of each operand, of several rows
//     HELD      a team holds a row: x and g are read once, for all sums; `each` and `sum` give places among what is held
//     STREAMED  x and g are read where they lie, as often as they are named; what is given is a column
//
// Rows that fit are held if the first operand and the result share none.
#pragma once

#include "number.cuh"
#include "shares.cuh"

namespace theria {

enum Way { COLUMNS, HELD, STREAMED };
enum Rule { VALUE, PUSH, PULL, PULL_TANGENT };

constexpr Way WAY = THERIA_WAY;
constexpr int THREADS = 256;
// Whether what a thread holds is a few registers more than those of two blocks: that is so on devices before Hopper.
constexpr bool MANY = WAY == HELD && THERIA_RULE == PULL_TANGENT && __CUDA_ARCH__ < 900;
// Blocks at least that have their registers at one time on a multiprocessor.
constexpr int BLOCKS = sizeof(THERIA_REAL) == 8 || MANY ? 1 : WAY == COLUMNS ? MIXED ? 4 : 5 : 2;
using Real = THERIA_REAL;
// Numbers of a row that a thread holds, in vectors.
constexpr int VECTORS = WAY == HELD && !MIXED ? 2 : 1, HOLDS = VECTORS * VECTOR<Real>;
// Vectors of sums that a thread asks for at one time: they need no more registers than rows do.
constexpr int BATCH = WAY == HELD ? 16 : 4;

// A team on a row.
struct Row {
    int lane, lanes;
    int widths[3];
    // Where warps of a team leave parts of a sum. Two places take turns: who leaves the next sum has seen all others begin
    // this one, and so leave the sum before it.
    unsigned char *room;
    int *turn;

    THERIA_DEVICE int width(int operand) const { return widths[operand]; }

    // The column of what is held.
    THERIA_DEVICE int column(int place) const {
        constexpr int V = VECTOR<Real>;
        return (place / V * lanes + lane) * V + place % V;
    }

    template <class F> THERIA_DEVICE void each(int width, F f) const {
        if constexpr (WAY != STREAMED) {
            // What lies outside is written nowhere.
#pragma unroll
            for (int place = 0; place < HOLDS; ++place) {
                f(place);
            }
        } else {
#pragma unroll 4
            for (int n = lane; n < width; n += lanes) {
                f(n);
            }
        }
    }
    template <class F> THERIA_DEVICE void once(F f) const {
        if (lane == 0) {
            f();
        }
    }
    template <class N, class F> THERIA_DEVICE N sum(int width, F f) const {
        N all = N(0);
        if constexpr (WAY == HELD) {
#pragma unroll
            for (int place = 0; place < HOLDS; ++place) {
                all = column(place) < width ? all + f(place) : all;
            }
        } else {
#pragma unroll 4
            for (int n = lane; n < width; n += lanes) {
                all = all + f(n);
            }
        }
        return together(all, [](N a, N b) { return a + b; });
    }
    template <class R, class F> THERIA_DEVICE R largest(int width, F f) const {
        R most = minus_infinity<R>();
        for (int n = lane; n < width; n += lanes) {
            most = f(n) > most ? f(n) : most;
        }
        return together(most, [](R a, R b) { return b > a ? b : a; });
    }

    // One of all lanes of the team, in one order. Every thread of the block is here.
    template <class N, class F> THERIA_DEVICE N together(N all, F f) const {
        for (int half = min_of(lanes, WARP) / 2; half > 0; half /= 2) {
            all = f(all, across(all, half));
        }
        if (lanes > WARP) {
            N *parts = reinterpret_cast<N *>(room + *turn * (THREADS / WARP * 16));
            *turn ^= 1;
            if (threadIdx.x % WARP == 0) {
                parts[threadIdx.x / WARP] = all;
            }
            __syncthreads();
            int first = (threadIdx.x - lane) / WARP;
            all = parts[first];
            for (int warp = 1; warp < lanes / WARP; ++warp) {
                all = f(all, parts[first + warp]);
            }
        }
        return all;
    }
};

// A number with a tangent, if it has one.
template <class N> struct Made;
template <class R> struct Made<Dual<R>> {
    static constexpr bool DUAL = true;
    static THERIA_DEVICE Dual<R> of(R value, R tangent) { return {value, tangent}; }
};
template <> struct Made<float> {
    static constexpr bool DUAL = false;
    static THERIA_DEVICE float of(float value, float) { return value; }
};
template <> struct Made<double> {
    static constexpr bool DUAL = false;
    static THERIA_DEVICE double of(double value, double) { return value; }
};

// What is written of a number.
THERIA_DEVICE float kept(float x) { return x; }
THERIA_DEVICE double kept(double x) { return x; }
template <class R> THERIA_DEVICE R kept(Dual<R> x) { return x.tangent; }

// Whether rows may share what is made of an operand, or the result (3), where rows are held.
THERIA_DEVICE constexpr bool may_share(int k) { return WAY != HELD || k == 1 || k == 2; }

// Numbers that a thread holds of a row.
template <class N> struct HeldRow {
    N at[HOLDS];

    template <bool WHOLE, class R> THERIA_DEVICE void read(const Operand &of, unsigned r, const Row &row, int begin) {
        constexpr int V = VECTOR<R>;
        unsigned number = of.follow.row(r);
        const void *value = row_at<R>(of.value, of.narrow, number, of.width);
        const void *tangent = row_at<R>(of.tangent, of.narrow, number, of.width);
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            int column = begin + row.column(v * V);
            R values[V], tangents[V];
            load<WHOLE>(value, of.narrow, column, value ? of.width - column : 0, values);
            if (Made<N>::DUAL) {
                load<WHOLE>(tangent, of.narrow, column, tangent ? of.width - column : 0, tangents);
            }
#pragma unroll
            for (int j = 0; j < V; ++j) {
                at[v * V + j] = Made<N>::of(values[j], Made<N>::DUAL ? tangents[j] : R(0));
            }
        }
    }

    // What was read of vectors that are whole, as numbers.
    template <bool WHOLE, class R> THERIA_DEVICE void take(const Operand &of) {
        static_assert(!MIXED || VECTORS == 1, "a vector is taken as a whole");
        if (MIXED && WHOLE && of.narrow) {
            R values[HOLDS], tangents[HOLDS];
#pragma unroll
            for (int j = 0; j < HOLDS; ++j) {
                values[j] = value_of(at[j]), tangents[j] = kept(at[j]);
            }
            widen(values);
            widen(tangents);
#pragma unroll
            for (int j = 0; j < HOLDS; ++j) {
                at[j] = Made<N>::of(values[j], tangents[j]);
            }
        }
    }
};

template <class N> struct AllHeld {
    const HeldRow<N> *x;
    THERIA_DEVICE N operator()(int operand, int place) const { return x[operand].at[place]; }
};
template <class N> struct GivenHeld {
    const HeldRow<N> *g;
    THERIA_DEVICE N operator()(int place) const { return g->at[place]; }
};

// Where a row of a result goes that a team holds: to a row in memory, when a vector of it is complete; or into sums.
template <bool WHOLE, class R> struct HeldResult {
    const Row *row;
    void *to;
    int width, begin;
    bool narrow, add, summed;

    THERIA_DEVICE HeldResult(const Operand &of, const Rows &rows, unsigned r, const Row &row, int begin, bool shares)
        : row(&row), to(nullptr), width(of.width), begin(begin), narrow(of.narrow), add(of.add),
          summed(false) {
        if (of.made && r < unsigned(rows.rows)) {
            if (!shares || of.follow.own()) {
                to = row_at<R>(of.made, of.narrow, r, of.width);
            } else {
                summed = true;
            }
        }
    }

    template <class N> THERIA_DEVICE void put(int place, N x, R *vector, R *sums) const {
        constexpr int V = VECTOR<R>;
        vector[place % V] = kept(x);
        if (place % V == V - 1) {
            int column = begin + row->column(place - (V - 1));
            store<WHOLE>(to, narrow, column, to ? width - column : 0, add, vector);
        }
        if (summed) {
            sums[place] = sums[place] + kept(x);
        }
    }
};

template <bool WHOLE, class R> struct HeldMade {
    HeldResult<WHOLE, R> y;
    R *vector, *sums;
    template <class N> THERIA_DEVICE void add(int place, N x) const { y.put(place, x, vector, sums); }
};

template <bool WHOLE, class R> struct HeldInto {
    const HeldResult<WHOLE, R> *x;
    const Rows *rows;
    R (*vectors)[VECTOR<R>], (*sums)[HOLDS];
    THERIA_DEVICE bool wants(int operand) const { return rows->x[operand].made; }
    template <class N> THERIA_DEVICE void add(int operand, int place, N value) const {
        x[operand].put(place, value, vectors[operand], sums[operand]);
    }
};

// A row in memory, with tangents where there are any. No launch writes what it reads.
template <class N, class R> struct Given {
    const void *value, *tangent;
    bool narrow;
    THERIA_DEVICE N operator()(int n) const {
        return Made<N>::of(load<R>(value, narrow, n), Made<N>::DUAL && tangent ? load<R>(tangent, narrow, n) : R(0));
    }
};
template <class N, class R> THERIA_DEVICE Given<N, R> given(const Operand &of, unsigned row) {
    return {row_at<R>(of.value, of.narrow, row, of.width), row_at<R>(of.tangent, of.narrow, row, of.width),
            bool(of.narrow)};
}
template <class N, class R> struct AllGiven {
    Given<N, R> x[3];
    THERIA_DEVICE N operator()(int operand, int n) const { return x[operand](n); }
};

// A row that numbers are written to, or added to; or one number that is added up in a register.
template <class R> struct Written {
    void *to;
    bool narrow, add, summed;

    // A shared row of several numbers is made by a block that has one team.
    THERIA_DEVICE Written(const Operand &of, const Rows &rows, const Place &at, unsigned r, bool first)
        : to(nullptr), narrow(of.narrow), add(of.add), summed(false) {
        if (!of.made || r >= unsigned(rows.rows)) {
            return;
        }
        if (of.follow.own()) {
            to = row_at<R>(of.made, of.narrow, r, of.width);
        } else if (of.width == 1) {
            summed = true;
        } else {
            to = left_at<R>(of, rows, at);
            add = rows.chunks == 1 && of.add || !first;
        }
    }

    template <class N> THERIA_DEVICE void put(int n, N x, R &sum) const {
        if (to) {
            theria::put<R>(to, narrow, n, add, kept(x));
        }
        if (summed) {
            sum = sum + kept(x);
        }
    }
};

// Sums are told by number and not by address, so that they stay in registers.
template <class R> struct StreamedMade {
    Written<R> y;
    R *sums;
    template <class N> THERIA_DEVICE void add(int n, N x) const { y.put(n, x, sums[3]); }
};

template <class R> struct StreamedInto {
    const Written<R> *x;
    const Rows *rows;
    R *sums;
    THERIA_DEVICE bool wants(int operand) const { return rows->x[operand].made; }
    template <class N> THERIA_DEVICE void add(int operand, int n, N value) const {
        x[operand].put(n, value, sums[operand]);
    }
};

// Rows that are held by threads, all of them or a vector of each.
template <class F, class R, class N, bool BACK, bool WHOLE>
THERIA_DEVICE void hold(const Rows &rows, const Place &at, Row row) {
    F function(rows.constants);
    int begin = at.part * (HOLDS << rows.lanes);
    R sums[4][HOLDS] = {};
    for (int i = 0; i < rows.steps; ++i) {
        unsigned r = at.row(rows, i), read = r < unsigned(rows.rows) ? r : 0;
        HeldRow<N> x[3], g;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            x[k].template read<WHOLE, R>(rows.x[k], read, row, begin);
        }
        if (BACK) {
            g.template read<WHOLE, R>(rows.y, read, row, begin);
            g.template take<WHOLE, R>(rows.y);
        }
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            x[k].template take<WHOLE, R>(rows.x[k]);
        }
        R vectors[3][VECTOR<R>];
        if (BACK) {
            const HeldResult<WHOLE, R> results[3] = {{rows.x[0], rows, r, row, begin, may_share(0)},
                                                     {rows.x[1], rows, r, row, begin, may_share(1)},
                                                     {rows.x[2], rows, r, row, begin, may_share(2)}};
            HeldInto<WHOLE, R> into = {results, &rows, vectors, sums};
            function.template pull<N>(row, AllHeld<N>{x}, GivenHeld<N>{&g}, into);
        } else {
            HeldMade<WHOLE, R> made = {{rows.y, rows, r, row, begin, may_share(3)}, vectors[0], sums[3]};
            function.template value<N>(row, AllHeld<N>{x}, made);
        }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const Operand &of = k < 3 ? rows.x[k] : rows.y;
        if ((BACK ? k < 3 : k == 3) && may_share(k) && of.summed()) {
            combine<THREADS, HOLDS>(rows.lanes, rows.deep, sums[k]);
            if (at.depth == 0 && at.group < unsigned(rows.groups)) {
                R *to = left_at<R>(of, rows, at);
#pragma unroll
                for (int v = 0; v < VECTORS; ++v) {
                    int column = begin + row.column(v * VECTOR<R>);
                    store<WHOLE>(to, false, column, of.width - column, rows.chunks == 1 && of.add, sums[k] + v * VECTOR<R>);
                }
            }
        }
    }
}

// Rows that are read where they lie.
template <class F, class R, class N, bool BACK> THERIA_DEVICE void stream(const Rows &rows, const Place &at, Row row) {
    F function(rows.constants);
    R sums[4] = {};
    for (int i = 0; i < rows.steps; ++i) {
        unsigned r = at.row(rows, i), read = r < unsigned(rows.rows) ? r : 0;
        AllGiven<N, R> x;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            const Operand &of = rows.x[k];
            unsigned number = of.follow.row(read);
            x.x[k] = given<N, R>(of, number);
        }
        const Operand &y = rows.y;
        if (BACK) {
            const Written<R> results[3] = {{rows.x[0], rows, at, r, i == 0},
                                           {rows.x[1], rows, at, r, i == 0},
                                           {rows.x[2], rows, at, r, i == 0}};
            unsigned number = y.follow.row(read);
            Given<N, R> g = given<N, R>(y, number);
            function.template pull<N>(row, x, g, StreamedInto<R>{results, &rows, sums});
        } else {
            StreamedMade<R> made = {{y, rows, at, r, i == 0}, sums};
            function.template value<N>(row, x, made);
        }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const Operand &of = k < 3 ? rows.x[k] : rows.y;
        if ((BACK ? k < 3 : k == 3) && of.summed() && of.width == 1) {
            combine<THREADS, 1>(rows.lanes, rows.deep, sums + k);
            if (at.depth == 0 && at.lane == 0 && at.group < unsigned(rows.groups)) {
                R *to = left_at<R>(of, rows, at);
                *to = rows.chunks == 1 && of.add ? *to + sums[k] : sums[k];
            }
        }
    }
}

template <class F, int RULE> THERIA_DEVICE void sweep(const Rows &rows) {
    constexpr bool DUAL = RULE == PUSH || RULE == PULL_TANGENT, BACK = RULE == PULL || RULE == PULL_TANGENT;
    using N = typename Choose<DUAL, Dual<Real>, Real>::Type;
    __shared__ __align__(16) unsigned char room[2 * (THREADS / WARP) * 16];
    int turn = 0;
    Place at(rows);
    Row row = {at.lane, 1 << rows.lanes, {rows.x[0].width, rows.x[1].width, rows.x[2].width}, room, &turn};
    let_next_launch_start();
    await_launches_ahead();
    if constexpr (WAY == STREAMED) {
        stream<F, Real, N, BACK>(rows, at, row);
    } else if (rows.whole) {
        hold<F, Real, N, BACK, true>(rows, at, row);
    } else {
        hold<F, Real, N, BACK, false>(rows, at, row);
    }
    // What is made of rows that are held is their own, but for what is pulled back.
    if ((WAY != HELD || BACK) && rows.chunks > 1 && rows.fans > 0) {
        // Blocks have parts of the columns where these have nothing to do with each other.
        int begin = WAY == COLUMNS ? at.part * (HOLDS << rows.lanes) : 0;
        gather<THREADS, BATCH, Real>(rows, at, begin, WAY == COLUMNS ? begin + (HOLDS << rows.lanes) : 0x7FFFFFFF);
    }
}

} // namespace theria

#define THERIA_ROWS(FUNCTION)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256, theria::BLOCKS)                                                  \
        kernel(const __grid_constant__ theria::Rows rows) {                                                            \
        theria::sweep<FUNCTION, THERIA_RULE>(rows);                                                                    \
    }
