//! What a sweep keeps in the scratch of a call.

use theria_contract::Problem;

use crate::parameters::Rules;
use crate::part::{Order, Records};

/// Where each part begins.
const ALIGNMENT: usize = 256;

/// Records of queries, then sums of dQ in f32, then a counter for each tile of queries: blocks of keys take turns at
/// the sums (`hopper_turns.cuh`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scratch {
    pub(super) records: Records,
    /// Tiles of queries of a head.
    tiles: usize,
    sums_at: usize,
    counters_at: usize,
    bytes: usize,
}

impl Scratch {
    /// That of a sweep with tiles of so many queries.
    pub(super) fn of(problem: &Problem, order: Order, queries: u32) -> Self {
        let (shape, queries) = (problem.shape(), queries as usize);
        let records = Records::of(problem, order, false);
        let (tiles, heads) = (shape.t.div_ceil(queries), shape.batch.saturating_mul(shape.heads_q));
        // No memory has as much as the largest problems ask for: sums stay at the end.
        let numbers = |each: usize| heads.saturating_mul(tiles).saturating_mul(each).saturating_mul(4);
        let after = |at: usize, bytes: usize| {
            at.saturating_add(bytes).min(usize::MAX >> 8).next_multiple_of(ALIGNMENT)
        };
        let sums_at = after(0, records.bytes());
        let counters_at = after(sums_at, numbers(queries.saturating_mul(shape.d)));
        Self { records, tiles, sums_at, counters_at, bytes: after(counters_at, numbers(1)) }
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What blocks are given, with the sums and counters of this scratch.
    pub(super) fn given_to(&self, mut rules: Rules) -> Rules {
        let own = &mut rules.own;
        own.turn_count = self.tiles as i32;
        own.turn_rows = own.statistics + self.sums_at as u64;
        own.turns = own.statistics + self.counters_at as u64;
        rules
    }
}

#[cfg(test)]
mod tests {
    use theria_contract::DType;

    use super::*;

    #[test]
    fn no_part_of_the_scratch_lies_in_another() {
        let problem = Problem::builder(DType::Bf16).batch(2).heads(4, 2).lengths(333, 290).head_dims(64, 64);
        let problem = problem.build().unwrap();
        for (order, queries) in [(Order::First, 128), (Order::Second, 64)] {
            let scratch = Scratch::of(&problem, order, queries);
            let tiles = 333_usize.div_ceil(queries as usize);
            assert_eq!(scratch.tiles, tiles);
            assert!(scratch.records.bytes() <= scratch.sums_at);
            assert!(scratch.sums_at + 8 * tiles * queries as usize * 64 * 4 <= scratch.counters_at);
            assert!(scratch.counters_at + 8 * tiles * 4 <= scratch.bytes());
            assert!([scratch.sums_at, scratch.counters_at].iter().all(|at| at.is_multiple_of(ALIGNMENT)));
        }
    }
}
