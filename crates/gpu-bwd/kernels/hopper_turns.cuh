// Turns: blocks of keys that add to the same sums of a tile of queries do so one after the other, in an order that is
// always the same. So the same bits come out every time, although nobody knows which block is there first.
//
// A tile has a counter for each strand of its sums, which is zero before the kernel starts (`statistics.cu` sees to that). A block whose turn is n
// waits until the counter is n, adds, and sets it to n + 1. Whose turn is when is said in hopper_sweep.cuh.
//
// One thread does all of that for its block: it waits, asks the copy engine to add, and waits until all has arrived.
#pragma once
#include "hopper.cuh"

namespace theria {

// What the copy engine wrote is ordered with what others see of this thread, and the other way round.
THERIA_DEVICE void order_copies() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

THERIA_DEVICE void await_turn(const unsigned *counter, unsigned turn) {
    unsigned now;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
    } while (now != turn);
    order_copies();
}

// Whatever this thread asked for has arrived: `await_taken<0>`.
THERIA_DEVICE void pass_turn(unsigned *counter, unsigned turn) {
    order_copies();
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(counter), "r"(turn + 1) : "memory");
}

// The sums of one block for one tile: stored by whoever is first, added by all others, when it is their turn.
// `has_left` is told when shared memory may be written again.
template <class HasLeft>
THERIA_DEVICE void add_in_turn(unsigned *counter, unsigned turn, void *to, unsigned from, unsigned bytes,
                               HasLeft has_left) {
    await_turn(counter, turn);
    if (turn == 0)
        take_away(to, from, bytes);
    else
        add_to(to, from, bytes);
    commit_taken();
    await_left<0>();
    has_left();
    await_taken<0>();
    pass_turn(counter, turn);
}

} // namespace theria
