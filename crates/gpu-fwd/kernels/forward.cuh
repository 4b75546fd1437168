// What the forward kernels of all modes are given.
#pragma once
#include "score.cuh"

namespace theria {

// Filled by `Forward::of` in parameters.rs.
struct Forward {
    View q, k, v;
    View out;
    View lse;  // in the type of sums
    View rest; // what rounding took from `out`; null where it is not kept
    Score score;
    int d, dv;
    int vectors;     // whether rows of q, k, v and out start on 16 bytes and are whole vectors
    Divisor heads;   // query heads
    Divisor group;   // query heads that share one of keys and values
    Divisor section; // heads whose tiles are worked on together: see `Place`
    Divisor work;    // blocks of a section
    int tiles;       // tiles of rows of one head
};

// The host has the same structs: parameters.rs asserts the same numbers.
static_assert(sizeof(View) == 32 && sizeof(Broadcast) == 40 && sizeof(Divisor) == 12, "as on the host");
static_assert(sizeof(Score) == 136 && sizeof(Forward) == 392, "as on the host");

// What the two kernels of `cuda-fast` are given. Filled by `Fast::of` in parameters.rs.
struct Fast {
    Forward forward;
    View weights;  // z ∘ P of each row against the maximum of the row, with room for M in whole sixteens
    View rows;     // the maximum and l of each row, in f32
};
static_assert(sizeof(Fast) == 456, "as on the host");

// Where a block works: a tile of rows of one head.
//
// Heads are taken in sections. Within a section the last tiles of all its heads come first: under a causal
// mask they are the longest, and a long one that starts last would be waited for by all. Between sections
// the order is that of memory: a section's keys and values stay in the cache while its tiles are worked on.
struct Place {
    int b, h, h_kv, tile;

    THERIA_DEVICE explicit Place(const Forward &p) {
        unsigned section = p.work.quotient(blockIdx.x), rest = blockIdx.x - section * p.work.number;
        unsigned late = p.section.quotient(rest), pair = section * p.section.number + rest - late * p.section.number;
        tile = p.tiles - 1 - late;
        b = p.heads.quotient(pair);
        h = pair - b * p.heads.number;
        h_kv = p.group.quotient(h);
    }
};

} // namespace theria
