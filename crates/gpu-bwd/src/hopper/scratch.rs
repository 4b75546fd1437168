//! What a sweep keeps in the scratch of a call.

use theria_contract::Problem;

use crate::parameters::Rules;
use crate::part::{Order, Records};

/// Where each part begins.
const ALIGNMENT: usize = 256;

/// Records of queries, then strands of sums of dQ in f32, then a counter for each tile of queries and strand: blocks of
/// keys take turns at the sums (`hopper_turns.cuh`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scratch {
    pub(super) records: Records,
    /// Tiles of queries of a head.
    tiles: usize,
    strands: usize,
    sums_at: usize,
    counters_at: usize,
    bytes: usize,
}

impl Scratch {
    /// That of a sweep with tiles of so many queries, and so many strands of sums.
    pub(super) fn of(problem: &Problem, order: Order, queries: u32, strands: usize) -> Self {
        let (shape, queries) = (problem.shape(), queries as usize);
        let records = Records::of(problem, order, false);
        let (tiles, heads) = (shape.t.div_ceil(queries), shape.batch.saturating_mul(shape.heads_q));
        // No memory has as much as the largest problems ask for: sums stay at the end.
        let all = heads.saturating_mul(strands).saturating_mul(tiles);
        let numbers = |each: usize| all.saturating_mul(each).saturating_mul(4);
        let after = |at: usize, bytes: usize| {
            at.saturating_add(bytes).min(usize::MAX >> 8).next_multiple_of(ALIGNMENT)
        };
        let sums_at = after(0, records.bytes());
        let counters_at = after(sums_at, numbers(queries.saturating_mul(shape.d)));
        Self { records, tiles, strands, sums_at, counters_at, bytes: after(counters_at, numbers(1)) }
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What blocks are given, with the sums and counters of this scratch.
    pub(super) fn given_to(&self, mut rules: Rules) -> Rules {
        let own = &mut rules.own;
        own.strands = self.strands as i32;
        own.turn_count = (self.strands * self.tiles) as i32;
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
        for (order, queries, strands) in
            [(Order::First, 128, 1), (Order::First, 128, 4), (Order::Second, 64, 3)]
        {
            let scratch = Scratch::of(&problem, order, queries, strands);
            let tiles = 333_usize.div_ceil(queries as usize);
            assert_eq!(scratch.tiles, tiles);
            assert!(scratch.records.bytes() <= scratch.sums_at);
            assert!(scratch.sums_at + 8 * strands * tiles * queries as usize * 64 * 4 <= scratch.counters_at);
            assert!(scratch.counters_at + 8 * strands * tiles * 4 <= scratch.bytes());
            assert!([scratch.sums_at, scratch.counters_at].iter().all(|at| at.is_multiple_of(ALIGNMENT)));
        }
    }
}
