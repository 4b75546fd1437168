//! Memory that a loop holds, by every allocation of the process: a test alone in its program.

mod head;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use theria_jvp_hvp::Streaming;
use theria_maml::meta::{Inner, Keep, Mode, Optimiser};

use head::{ADAM, Cpu, NAMES, learner, start};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that a learner holds after a meta-gradient: the fewest of three times, because other threads of the process may
/// take some meanwhile.
fn bytes(steps: usize, optimiser: Optimiser, keep: Keep, mode: Mode) -> usize {
    (0..3).map(|_| bytes_once(steps, optimiser, keep, mode)).min().unwrap()
}

fn bytes_once(steps: usize, optimiser: Optimiser, keep: Keep, mode: Mode) -> usize {
    let machine = Cpu::new(Streaming::new());
    let start = start();
    let region = Region::new(ALLOCATOR);
    let mut learner = learner(&machine, &NAMES);
    let inner = Inner::new(steps, optimiser, 0.01, NAMES.len()).keeping(keep);
    learner.meta_gradient(&machine, &start.iter().collect::<Vec<_>>(), &inner, mode).unwrap();
    let change = region.change();
    change.bytes_allocated - change.bytes_deallocated
}

#[test]
fn memory_grows_with_the_root_of_the_steps_where_they_are_made_again() {
    // What the process allocates once is not counted.
    bytes(2, ADAM, Keep::All, Mode::Full);
    for optimiser in [Optimiser::Sgd, ADAM] {
        // Beyond a loop of one step.
        let one = bytes(1, optimiser, Keep::All, Mode::Full);
        let of = |steps, keep| bytes(steps, optimiser, keep, Mode::Full) - one;
        let [all, roots, roots_of_four] =
            [of(100, Keep::All), of(100, Keep::Roots), of(400, Keep::Roots)].map(|bytes| bytes as f64);
        println!(
            "{optimiser:?}: {all} bytes beyond one step for 100, {roots} by roots, {roots_of_four} by roots for 400"
        );
        // 19 states instead of 100, and 39 of 400; beginnings of stretches hold less than steps.
        assert!(roots < 0.19 * all && roots > 0.1 * all, "{optimiser:?}: {all} {roots}");
        let grown = roots_of_four / roots;
        assert!((1.9..2.3).contains(&grown), "{optimiser:?}: {grown}");
        let grown = of(400, Keep::All) as f64 / all;
        assert!((3.8..4.2).contains(&grown), "{optimiser:?}: all of them are four times as many, {grown}");
    }
}
