// What the forward kernels of all modes are given.
#pragma once
#include "score.cuh"

namespace theria {

// Filled by `Forward::of` in parameters.rs.
struct Forward {
    View q, k, v;
    View out;
    View lse; // in the type of sums
    Score score;
    int batch, heads, group; // query heads, and how many of them share one of keys and values
    int d, dv;
    int vectors; // whether rows of q, k, v and out start on 16 bytes and are whole vectors
    int tiles;   // tiles of rows of one head
    int section; // heads whose tiles are worked on together: see `Place`
};

// Where a block works: a tile of rows of one head.
//
// Heads are taken in sections. Within a section the last tiles of all its heads come first: under a causal
// mask they are the longest, and a long one that starts last would be waited for by all. Between sections
// the order is that of memory: a section's keys and values stay in the cache while its tiles are worked on.
struct Place {
    int b, h, h_kv, tile;

    THERIA_DEVICE explicit Place(const Forward &p) {
        int work = p.section * p.tiles, section = blockIdx.x / work, rest = blockIdx.x % work;
        int first = section * p.section, heads = min_of(p.section, p.batch * p.heads - first);
        int pair = first + rest % heads;
        tile = p.tiles - 1 - rest / heads;
        b = pair / p.heads;
        h = pair % p.heads;
        h_kv = h / p.group;
    }
};

} // namespace theria
