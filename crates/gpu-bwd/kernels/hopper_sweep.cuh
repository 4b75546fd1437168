// Where a block of keys goes: which tiles of queries see one of its keys, in which order it visits them, which pairs
// count, and when its turn is at the sums of each.
//
// Tiles are counted from the last one: place 0 is the last tile of queries. Under a causal mask all blocks begin there.
//
// Blocks of keys that see a tile of queries add to its sums in the order of their keys. All of them begin at the last tile, so
// each is at a tile when those before it have left: in time, they stand like stairs. A staircase over all blocks of a head
// is long where a device has few heads. So a tile has several strands of sums, which the blocks join by turns, and which are
// added up in the end: blocks of one strand wait for each other alone.
//
//     strands 1               strands 2
//     block 0   7 6 5 4 …     block 0   7 6 5 4 …     blocks 0, 2 … make one strand,
//     block 1     7 6 5 …     block 1   7 6 5 4 …     blocks 1, 3 … the other
//     block 2       7 6 …     block 2     7 6 5 …
//     block 3         7 …     block 3     7 6 5 …
//
// Nobody waits forever: blocks are started in the order of their numbers, and one waits for blocks before it alone.
#pragma once
#include "rules.cuh"

namespace theria {

// The keys that a tile of queries sees, as tiles of keys: [begin, end).
template <int KEYS, int QUERIES, bool INTERVALS> struct SeenBy {
    int begin, end;

    THERIA_DEVICE SeenBy(const Score &score, int tile, int length) {
        int first = INTERVALS ? score.first_key(tile * QUERIES, length) : 0;
        int last = INTERVALS ? score.end_key(min_of(tile * QUERIES + QUERIES, score.t) - 1, length) : length;
        begin = first / KEYS;
        end = last > first ? (last + KEYS - 1) / KEYS : begin;
    }
};

// Queries that see a key: [begin, end).
struct Seers {
    int begin, end;

    template <bool INTERVALS> static THERIA_DEVICE Seers of(const Score &score, int key, int length) {
        auto query = [&](long long i) { return int(i < 0 ? 0 : i > score.t ? score.t : i); };
        long long at = (long long)key - score.origin;
        Seers all = {0, score.t};
        if (INTERVALS && score.ahead != Score::UNBOUNDED)
            all.begin = query(at - score.ahead);
        if (INTERVALS && score.back != Score::UNBOUNDED)
            all.end = query(at + score.back + 1);
        if (key >= length)
            all.end = all.begin;
        return all;
    }
};

// One block. KEYS of it, QUERIES of a tile, INTERVALS: causal masks and windows. `Forward::heads` are those of keys,
// `tiles` those of keys of a head, `work` the blocks of a section of heads.
template <int KEYS, int QUERIES, bool INTERVALS> struct Sweep {
    int b, h;        // batch entry, and head of keys
    int tile;        // of keys
    int length;      // keys of the entry
    int begin;       // the first place of those that see a key here
    int count;       // and how many there are
    int low, high;   // queries that see all KEYS of the block: [low, high)

    static THERIA_DEVICE int places(const Score &score) { return (score.t + QUERIES - 1) / QUERIES; }

    // Which block. Within a section, a tile of all heads comes before the next one.
    THERIA_DEVICE explicit Sweep(const Forward &p) {
        unsigned section = p.work.quotient(blockIdx.x), rest = blockIdx.x - section * p.work.number;
        tile = rest / p.section.number;
        unsigned pair = section * p.section.number + rest - tile * p.section.number;
        b = p.heads.quotient(pair);
        h = pair - b * p.heads.number;
    }

    THERIA_DEVICE int first_key() const { return tile * KEYS; }

    // Where it goes. Lengths are read here.
    THERIA_DEVICE void look(const Score &score) {
        length = score.keys_of(b);
        int first = first_key(), end = min_of(first + KEYS, length), all = places(score);
        begin = count = 0;
        low = high = 0;
        if (first >= length)
            return;
        Seers near = Seers::of<INTERVALS>(score, first, length), far = Seers::of<INTERVALS>(score, end - 1, length);
        if (near.begin >= far.end)
            return;
        begin = all - (far.end + QUERIES - 1) / QUERIES;
        count = all - near.begin / QUERIES - begin;
        if (end - first == KEYS)
            low = far.begin, high = near.end == score.t ? all * QUERIES : near.end;
    }

    // Whether all pairs of a tile of queries and the block count.
    THERIA_DEVICE bool whole(int queries) const {
        return queries * QUERIES >= low && queries * QUERIES + QUERIES <= high;
    }

    // How many blocks come before it at a tile of queries.
    THERIA_DEVICE unsigned before(const Score &score, int queries) const {
        return tile - SeenBy<KEYS, QUERIES, INTERVALS>(score, queries, length).begin;
    }
};

// Sums of a tile of queries of a head, counted over all batch entries: which strand of them, and where its counter is.
struct Strand {
    long long at;
    unsigned turn; // of a block at this strand

    THERIA_DEVICE Strand(const Rules &all, long long head, int tile, int tiles, unsigned before) {
        turn = before / all.strands;
        at = (head * all.strands + before - turn * all.strands) * tiles + tile;
    }
};

// A walk along the tiles of queries of a block, for all query heads that share its keys.
struct Walk {
    int head, tile; // of queries
    int left;       // visits still to come, this one too
    int last, first; // the tile at which it begins in a head, and that at which it ends

    template <class S> THERIA_DEVICE Walk(const S &sweep, const Forward &p) {
        last = S::places(p.score) - 1 - sweep.begin;
        first = last + 1 - sweep.count;
        head = sweep.h * p.group.number;
        left = sweep.count * p.group.number;
        tile = last;
    }
    THERIA_DEVICE void advance() {
        --left;
        head += tile == first;
        tile = tile == first ? last : tile - 1;
    }
};

} // namespace theria
