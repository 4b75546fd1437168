// Where a block of keys goes: which tiles of queries see one of its keys, in which order it visits them, which pairs
// count, and when its turn is at the sums of each.
//
// Tiles are counted from the last one: place 0 is the last tile of queries. Under a causal mask all blocks begin there.
//
// Without causal masks and windows, some blocks of a head that run at the same time go round: block n of N begins at
// place n·places / N, and comes back to it at the end. So they are rarely at the same tile, and if all run in step, a
// block is at a tile after those that began nearer to it:
//
//     places       0 1 2 3 4 5 6 7
//     block 0      A . . . . . . .     at place 2, block 1 is first, then block 0, and block 3 comes before block 2,
//     block 1      . . A . . . . .     which began there last
//     block 2      . . . . A . . .
//     block 3      . . . . . . A .
//
// That is the order of turns. A block waits for one that began elsewhere, so all of them must be running at the same
// time: the host lets no more go round together than there are multiprocessors. Otherwise they begin together at the
// first place that they see, and the order of turns is that of keys.
//
// Nobody waits forever. Blocks are started in order of their number, and one waits for blocks before it, or for those
// that go round with it.
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
// `tiles` those of keys of a head, `work` the blocks of a section of heads; `Rules::lanes` says how many go round
// together.
template <int KEYS, int QUERIES, bool INTERVALS> struct Sweep {
    int b, h;        // batch entry, and head of keys
    int tile;        // of keys
    int length;      // keys of the entry
    int begin;       // the first place of those that see a key here
    int count;       // and how many there are
    int start;       // where it begins among them
    int low, high;   // queries that see all KEYS of the block: [low, high)
    int together, before; // blocks of this head that go round with it, and those whose turns come before theirs

    static THERIA_DEVICE int places(const Score &score) { return (score.t + QUERIES - 1) / QUERIES; }

    // Which block. Within a section, tiles that go round together are neighbours, and then those of the next head.
    THERIA_DEVICE explicit Sweep(const Rules &all) {
        const Forward &p = all.forward;
        int round = max_of(all.lanes, 1);
        unsigned section = p.work.quotient(blockIdx.x), rest = blockIdx.x - section * p.work.number;
        unsigned heads = p.section.number, circle = rest / (heads * round);
        before = circle * round;
        rest -= before * heads;
        together = min_of(round, p.tiles - before);
        unsigned head = rest / together, pair = section * heads + head;
        tile = before + rest - head * together;
        b = p.heads.quotient(pair);
        h = pair - b * p.heads.number;
    }

    THERIA_DEVICE int first_key() const { return tile * KEYS; }

    // Where it goes. Lengths are read here.
    THERIA_DEVICE void look(const Score &score) {
        length = score.keys_of(b);
        int first = first_key(), end = min_of(first + KEYS, length), all = places(score);
        begin = count = start = 0;
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
        if (!INTERVALS) {
            together = min_of(together, (length + KEYS - 1) / KEYS - before);
            start = unsigned(tile - before) * count / together; // fewer than 256 of 2^24: no sum leaves its type
        }
    }

    // Whether all pairs of a tile of queries and the block count.
    THERIA_DEVICE bool whole(int queries) const {
        return queries * QUERIES >= low && queries * QUERIES + QUERIES <= high;
    }

    // When its turn is at a tile of queries.
    THERIA_DEVICE unsigned turn(const Score &score, int queries) const {
        if (INTERVALS)
            return tile - SeenBy<KEYS, QUERIES, true>(score, queries, length).begin;
        unsigned place = begin + count - 1 - queries; // from the last tile: `begin` is 0
        int began = ((place + 1) * together + count - 1) / count; // blocks that began here or before
        int turn = began - 1 - (tile - before);
        return before + (turn < 0 ? turn + together : turn);
    }
};

// A walk along the tiles of queries of a block, for all query heads that share its keys.
struct Walk {
    int head, tile; // of queries
    int left;       // visits still to come, this one too
    int last, steps, first; // the tile at which it begins, tiles of a head, and the lowest one

    template <class S> THERIA_DEVICE Walk(const S &sweep, const Forward &p) {
        int places = S::places(p.score);
        head = sweep.h * p.group.number;
        steps = sweep.count;
        left = steps * p.group.number;
        first = places - sweep.begin - steps;
        last = places - 1 - sweep.begin - sweep.start;
        tile = last;
    }
    THERIA_DEVICE void advance() {
        --left;
        tile = tile == first ? first + steps - 1 : tile - 1;
        if (tile == last)
            ++head;
    }
};

} // namespace theria
