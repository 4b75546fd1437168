// Sums of what rows share: over the rows that a block goes through, and over blocks, in one launch and in one order.
//
// A block leaves its sums, and takes a ticket among 2^fan blocks. The one that takes the last of them adds up what all
// of them left, and goes on in their name among the next 2^fan, until one is left. Who is last decides who adds, and
// never what comes out: each of its threads has a vector of columns, and, where that leaves threads, one of so many of
// the blocks; what these add up goes together as the rows of a block do.
//
// Tickets are given in one order. Whoever takes one has waited for what its block wrote (__syncthreads), and that is
// seen by those that take later ones, and by threads that wait for these (`take`). Whoever takes the last one puts the
// counter back to zero: no block of the launch takes it up again, and the next launch waits for this one before it
// touches memory.
#pragma once

#include "vector.cuh"

namespace theria {

// Which row of an operand belongs to row r: r / n, or r % n (`Follow` in mod.rs).
struct Follow {
    Divisor by;
    int cyclic;
    THERIA_DEVICE bool own() const { return by.number == 1 && !cyclic; }
    THERIA_DEVICE unsigned row(unsigned r) const {
        return own() ? r : cyclic ? by.remainder(r) : by.quotient(r);
    }
};

// Memory of an operand or of the result: what is read of it, and where its result goes. All of it is narrow or none is,
// and what rows share never is.
struct Operand {
    const void *value, *tangent;
    void *made;
    // Where blocks leave sums of `made`, if rows share it and several blocks have some of them.
    void *sums;
    int width;
    short add, narrow;
    Follow follow;

    THERIA_DEVICE bool summed() const { return made && !follow.own(); }
};
static_assert(sizeof(Operand) == 56, "as in rows.rs");

// Mirrors `Parameters` in gpu/rows.rs.
struct Rows {
    Operand x[3], y;
    double constants[2];
    // Counters of blocks that have left their sums.
    unsigned *tickets;
    int rows;
    // Rows that share what is made are a group: those that lie side by side, or those that take turns. There are so many
    // groups, of so many members.
    int groups, members, cyclic;
    // A block takes `length` members of a group, of which there are so many chunks, and one of so many parts of their
    // columns.
    int length, chunks, parts;
    // 2^lanes threads are on a row, 2^deep of these teams on rows of one group, and that so many times.
    int lanes, deep, steps;
    // Places for sums of a group, and counters of a part of it, one of them for 2^fan blocks.
    int slots, fans, fan;
    // Whether rows begin at multiples of sixteen bytes and consist of vectors.
    int whole;
};
static_assert(sizeof(Rows) == 304, "as in rows.rs");

// Where a thread is.
struct Place {
    unsigned group, chunk, part;
    int lane, depth, team;

    THERIA_DEVICE explicit Place(const Rows &rows) {
        unsigned all = blockIdx.x / rows.parts, within = threadIdx.x & ((1u << (rows.lanes + rows.deep)) - 1);
        part = blockIdx.x - all * rows.parts;
        team = threadIdx.x >> (rows.lanes + rows.deep);
        group = all / rows.chunks;
        chunk = all - group * rows.chunks;
        group = group * (blockDim.x >> (rows.lanes + rows.deep)) + team;
        lane = within & ((1 << rows.lanes) - 1);
        depth = within >> rows.lanes;
    }

    // The row of a step, as a number; rows.rows if there is none.
    THERIA_DEVICE unsigned row(const Rows &rows, int step) const {
        unsigned member = (step << rows.deep) + depth;
        bool there = group < unsigned(rows.groups) && member < unsigned(rows.length);
        member += chunk * rows.length;
        unsigned r = rows.cyclic ? member * rows.groups + group : group * rows.members + member;
        return there && member < unsigned(rows.members) && r < unsigned(rows.rows) ? r : rows.rows;
    }
};

// Adds up what 2^deep threads hold that lie 2^lanes apart, to the first of them.
template <int THREADS, int COUNT, class R> THERIA_DEVICE void combine(int lanes, int deep, R *sums) {
    // What is moved in one step lies beside what is moved in the others.
    __shared__ R room[COUNT * THREADS];
    int depth = threadIdx.x >> lanes & ((1 << deep) - 1);
    for (int half = 1 << deep >> 1; half > 0; half /= 2) {
        int moved = half << lanes;
        if (moved < WARP) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                sums[i] = sums[i] + __shfl_down_sync(FULL_WARP, sums[i], moved);
            }
            continue;
        }
        if (depth >= half && depth < 2 * half) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                room[i * THREADS + threadIdx.x] = sums[i];
            }
        }
        __syncthreads();
        if (depth < half) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                sums[i] = sums[i] + room[i * THREADS + threadIdx.x + moved];
            }
        }
    }
    // Nobody leaves anything else before all have read this.
    __syncthreads();
}

// Where a block leaves the sums of its rows: at their place if it has all of the group, or with those of other blocks.
template <class R> THERIA_DEVICE R *left_at(const Operand &of, const Rows &rows, const Place &at) {
    return rows.chunks == 1 ? static_cast<R *>(of.made) + (long long)at.group * of.width
                            : static_cast<R *>(of.sums) + ((long long)at.group * rows.slots + at.chunk) * of.width;
}

// Takes a ticket. What a block wrote before it took one is seen by those that take a later one.
THERIA_DEVICE unsigned take(unsigned *tickets) {
    unsigned ticket;
    asm volatile("atom.acq_rel.gpu.add.u32 %0, [%1], 1;" : "=r"(ticket) : "l"(tickets) : "memory");
    return ticket;
}

// A vector of columns that blocks left sums of: sixteen bytes.
template <class R> struct Left {
    static constexpr int LENGTH = SIXTEEN_BYTES<R>;

    R *sums, *made;
    // Numbers of a row, and those of the vector that are there.
    int width, there;
    bool add;

    // Vectors that an operand has of columns from `begin` to `end`.
    static THERIA_DEVICE int count(const Operand &of, int begin, int end) {
        return of.sums ? (max_of(min_of(end, of.width) - begin, 0) + LENGTH - 1) / LENGTH : 0;
    }

    static THERIA_DEVICE int count(const Rows &rows, int begin, int end) {
        return count(rows.x[0], begin, end) + count(rows.x[1], begin, end) + count(rows.x[2], begin, end) +
               count(rows.y, begin, end);
    }

    // Vector n of those of all operands; there is nothing of it if they have fewer.
    THERIA_DEVICE Left(const Rows &rows, const Place &at, int n, int begin, int end)
        : sums(nullptr), made(nullptr), width(0), there(0), add(false) {
        int column = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const Operand &of = k < 3 ? rows.x[k] : rows.y;
            int vectors = count(of, begin, end);
            if (n >= 0 && n < vectors) {
                sums = static_cast<R *>(of.sums), made = static_cast<R *>(of.made);
                width = of.width, add = of.add, column = begin + n * LENGTH;
            }
            n -= vectors;
        }
        there = min_of(min_of(end, width) - column, LENGTH);
        // Blocks leave little (SUMS in division.rs): no place of it is a long number.
        sums += int(at.group) * rows.slots * width + column;
        made += int(at.group) * width + column;
    }

    // Whether it lies at a multiple of sixteen bytes in every row.
    THERIA_DEVICE bool whole() const {
        return there == LENGTH && (reinterpret_cast<unsigned long long>(sums) | width * sizeof(R)) % 16 == 0;
    }

    // Adds up what lies in so many rows, one every `step`. A BATCH of them is asked for before the first is waited for.
    template <bool WHOLE, int BATCH> THERIA_DEVICE void add_up(int first, int step, int many, R *sum) const {
        int at = first * width, apart = step * width;
#pragma unroll 1
        for (; many > 0; many -= BATCH) {
            R x[BATCH][LENGTH] = {};
#pragma unroll
            for (int j = 0; j < BATCH; ++j, at += apart) {
                if constexpr (WHOLE) {
                    if (j < many) {
                        load_vector<true>(sums + at, x[j]);
                    }
                } else {
#pragma unroll
                    for (int c = 0; c < LENGTH; ++c) {
                        x[j][c] = j < many && c < there ? __ldcg(sums + at + c) : R(0);
                    }
                }
            }
#pragma unroll
            for (int j = 0; j < BATCH; ++j) {
#pragma unroll
                for (int c = 0; c < LENGTH; ++c) {
                    sum[c] += x[j][c];
                }
            }
        }
    }
};

// Rounds up to a power of two, and says which.
THERIA_DEVICE int bits(int n) { return n > 1 ? 32 - __clz(n - 1) : 0; }

// Adds up what blocks left of columns from `begin` to `end`. All threads of the block are here.
template <int THREADS, int BATCH, class R>
THERIA_DEVICE void gather(const Rows &rows, const Place &at, int begin, int end) {
    __shared__ bool last;
    int count = rows.chunks, mine = at.chunk, from = 0, counter = (at.group * rows.parts + at.part) * rows.fans;
    while (true) {
        int fan = mine >> rows.fan, first = fan << rows.fan, many = min_of(count - first, 1 << rows.fan);
        __syncthreads();
        if (threadIdx.x == 0) {
            unsigned *tickets = rows.tickets + counter + fan;
            last = take(tickets) == unsigned(many - 1);
            if (last) {
                *tickets = 0;
            }
        }
        __syncthreads();
        if (!last) {
            return;
        }
        // A thread for each vector; and, where that leaves some, as many for parts of the blocks.
        int vectors = Left<R>::count(rows, begin, end);
        int lanes = min_of(bits(vectors), bits(THREADS)), deep = bits(THREADS) - lanes;
        int lane = threadIdx.x & ((1 << lanes) - 1), depth = threadIdx.x >> lanes;
        // The first row of a thread, and how many it has.
        int row = from + first + depth, own = (many - depth + (1 << deep) - 1) >> deep;
        bool all = many == count;
        from += count, count = (count + (1 << rows.fan) - 1) >> rows.fan;
#pragma unroll 1
        for (int v = 0; v < vectors; v += 1 << lanes) {
            Left<R> of(rows, at, v + lane, begin, end);
            R *to = all ? of.made : of.sums + (from + fan) * of.width, sums[Left<R>::LENGTH] = {};
            if (of.whole()) {
                of.template add_up<true, BATCH>(row, 1 << deep, own, sums);
            } else {
                of.template add_up<false, BATCH / Left<R>::LENGTH>(row, 1 << deep, own, sums);
            }
            combine<THREADS, Left<R>::LENGTH>(lanes, deep, sums);
            if (depth == 0) {
#pragma unroll
                for (int c = 0; c < Left<R>::LENGTH; ++c) {
                    if (c < of.there) {
                        to[c] = all && of.add ? to[c] + sums[c] : sums[c];
                    }
                }
            }
        }
        if (all) {
            return;
        }
        counter += count, mine = fan;
    }
}

} // namespace theria
