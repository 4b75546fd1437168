// Sums of what rows share: over the rows that a block goes through, and over blocks, in one launch and in one order.
//
// A block leaves its sums, and takes a ticket among FAN blocks. The one that takes the last of them adds up what all of
// them left, in the order of the blocks and not in that of the tickets, and goes on in their name among the next FAN,
// until one is left. Who is last decides who adds, and never what comes out.
//
// Before it takes a ticket, every thread of a block makes what it wrote visible (__threadfence) and waits for the others
// (__syncthreads); who finds that its ticket is the last one makes sure in the same way that it sees what was written
// before the other tickets were taken. Whoever takes the last one puts the counter back to zero: no block of the launch
// takes it up again, and the next launch waits for this one before it touches memory.
#pragma once

#include "vector.cuh"

namespace theria {

constexpr int FAN = 32;

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
    // Places for sums of a group, and counters of a part of it.
    int slots, fans;
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

// Adds up what the threads of a column hold, to those of depth 0.
template <int THREADS, int COUNT, class R> THERIA_DEVICE void combine(const Rows &rows, const Place &at, R *sums) {
    __shared__ R room[COUNT * THREADS / 2];
    int within = (at.depth << rows.lanes) + at.lane, first = at.team << (rows.lanes + rows.deep) >> 1;
    for (int half = 1 << rows.deep >> 1; half > 0; half /= 2) {
        int moved = half << rows.lanes;
        if (at.depth >= half && at.depth < 2 * half) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                room[i * (THREADS / 2) + first + within - moved] = sums[i];
            }
        }
        __syncthreads();
        if (at.depth < half) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                sums[i] = sums[i] + room[i * (THREADS / 2) + first + within];
            }
        }
        __syncthreads();
    }
}

// Where a block leaves the sums of its rows: at their place if it has all of the group, or with those of other blocks.
template <class R> THERIA_DEVICE R *left_at(const Operand &of, const Rows &rows, const Place &at) {
    return rows.chunks == 1 ? static_cast<R *>(of.made) + (long long)at.group * of.width
                            : static_cast<R *>(of.sums) + ((long long)at.group * rows.slots + at.chunk) * of.width;
}

// Adds up what blocks left of columns from `begin` to `end`. All threads of the block have left theirs.
template <class R> THERIA_DEVICE void gather(const Rows &rows, const Place &at, int begin, int end) {
    __shared__ bool last;
    unsigned count = rows.chunks, mine = at.chunk, from = 0;
    unsigned *tickets = rows.tickets + (long long)(at.group * rows.parts + at.part) * rows.fans;
    while (true) {
        unsigned fans = (count + FAN - 1) / FAN, fan = mine / FAN, many = count - fan * FAN;
        many = many < FAN ? many : FAN;
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            last = atomicAdd(tickets + fan, 1u) == many - 1;
            if (last) {
                tickets[fan] = 0;
            }
        }
        __syncthreads();
        if (!last) {
            return;
        }
        __threadfence();
        for (int k = 0; k < 4; ++k) {
            const Operand &of = k < 3 ? rows.x[k] : rows.y;
            if (!of.summed()) {
                continue;
            }
            R *sums = static_cast<R *>(of.sums) + (long long)at.group * rows.slots * of.width;
            const R *left = sums + (long long)(from + fan * FAN) * of.width;
            R *to = fans == 1 ? static_cast<R *>(of.made) + (long long)at.group * of.width
                              : sums + (long long)(from + count + fan) * of.width;
            bool add = fans == 1 && of.add;
            for (int n = begin + threadIdx.x; n < min_of(end, of.width); n += blockDim.x) {
                R sum = R(0);
#pragma unroll 8
                for (unsigned i = 0; i < many; ++i) {
                    sum += __ldcg(left + (long long)i * of.width + n);
                }
                to[n] = add ? to[n] + sum : sum;
            }
        }
        if (fans == 1) {
            return;
        }
        from += count, tickets += fans, count = fans, mine = fan;
    }
}

} // namespace theria
