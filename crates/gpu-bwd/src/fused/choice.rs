//! Which sweep serves which occasion.

use std::collections::HashSet;

use theria_gpu_fwd::Architecture;
use theria_gpu_fwd::forward::{Choice, Load, Masking, Occasion, Situation as _, Tiling};

use super::{FusedSweep, SweepOccasion};
use crate::part::{Order, Part};

/// `[row tiles, row warps, keys, step]`, operands in registers, blocks.
pub(super) const fn tiling(numbers: [u32; 4], q_in_registers: bool, blocks: u32) -> Tiling {
    let [row_tiles, row_warps, keys, step] = numbers;
    Tiling { row_tiles, row_warps, key_groups: 1, keys, step, stages: 2, q_in_registers, blocks }
}

/// Operands that are read again in every step, or kept in registers.
const READ: bool = false;
const KEPT: bool = true;

/// The tiling for a sweep in a 16-bit type that looks at no score, or at those at the ends of intervals alone. The
/// numbers were measured on an H200.
fn plain_in_half(part: Part, occasion: Occasion) -> Tiling {
    use Order::{First, Second};
    use Part::{Jvp, Keys, Queries};
    let few = occasion.load == Load::Few;
    let ends = occasion.masking == Masking::Intervals;
    match (occasion.room, part) {
        (..=32, Jvp | Keys(First)) if !few => tiling([2, 4, 64, 32], KEPT, 2),
        (..=32, Queries(First)) if !few => tiling([2, 4, 64, 64], READ, 2),
        (..=32, Keys(Second)) if !few => tiling([2, 4, 32, 16], KEPT, 2),
        (..=32, Queries(Second)) => tiling([1, 4, 64, 32], KEPT, 2),
        (..=64, Jvp | Queries(First) | Keys(First)) if few => tiling([1, 4, 64, 64], READ, 1),
        (..=64, Jvp | Queries(First) | Keys(First)) => tiling([2, 4, 64, 32], READ, 2),
        (..=64, Queries(_)) => tiling([1, 4, 32, 32], KEPT, 2),
        (..=64, _) | (..=96, Keys(First)) => tiling([1, 4, 64, 32], KEPT, 2),
        (..=96, Jvp) => tiling([1, 3, 32, 32], READ, 2),
        (..=96, Queries(First)) if !few => tiling([1, 8, 64, 32], KEPT, 1),
        (..=96, Queries(Second)) if few => tiling([1, 4, 32, 16], READ, 1),
        (..=96, Queries(Second)) => tiling([1, 8, 32, 32], READ, 1),
        (..=96, Keys(Second)) if !few => tiling([1, 8, 64, 32], READ, 1),
        (..=128, Jvp) if !few && !ends => tiling([1, 8, 64, 64], READ, 1),
        (..=128, Jvp) => tiling([1, 4, 32, 32], READ, 2),
        (..=128, Queries(First)) => tiling([1, 4, 32, 32], KEPT, 2),
        (..=128, Keys(First)) => tiling([1, 4, 64, 64], READ, 2),
        (..=128, Queries(Second) | Keys(Second)) if few => tiling([1, 4, 32, 32], READ, 1),
        (..=128, Keys(Second)) if ends => tiling([1, 8, 32, 16], READ, 1),
        (..=128, _) => tiling([1, 8, 32, 32], READ, 1),
        (..=192, Jvp | Queries(Second)) => tiling([1, 3, 16, 16], READ, 1),
        (..=192, Keys(First)) if !ends => tiling([1, 8, 32, 16], READ, 1),
        (..=192, Keys(_)) => tiling([1, 4, 32, 32], READ, 1),
        (_, Queries(First) | Keys(First)) => tiling([1, 8, 32, 32], READ, 1),
        _ => tiling([1, 4, 16, 16], READ, 1),
    }
}

/// Tilings for a sweep, the one to take first.
fn tilings(part: Part, occasion: Occasion) -> [Tiling; 4] {
    let half = occasion.products.element() == 2;
    // Threads that have whole rows of 96 and 192 columns need fewer registers to load them.
    let warps = if occasion.room.is_multiple_of(96) { 3 } else { 4 };
    let first = match (half, occasion.room, occasion.masking, part) {
        (true, ..=64, _, Part::Bias(Order::First)) => tiling([1, 4, 64, 64], READ, 1),
        (true, ..=128, _, Part::Bias(_)) => tiling([1, 4, 32, 32], READ, 1),
        (false, _, _, Part::Bias(_)) => tiling([1, 4, 16, 16], READ, 1),
        (true, _, Masking::Lengths | Masking::Intervals, _) => plain_in_half(part, occasion),
        (true, 33..=64, _, Part::Keys(Order::Second)) => tiling([1, 4, 32, 16], READ, 1),
        (true, ..=64, ..) => tiling([1, 4, 32, 32], READ, 2),
        (true, ..=128, ..) | (false, ..=64, Masking::Everything, _) => tiling([1, 4, 32, 16], READ, 1),
        (false, ..=64, _, Part::Jvp) => tiling([2, 4, 16, 16], READ, 1),
        (false, ..=64, Masking::Intervals, Part::Queries(Order::First)) => tiling([2, 4, 32, 16], READ, 1),
        (false, ..=64, _, Part::Queries(Order::First)) => tiling([2, 4, 32, 32], READ, 1),
        (false, ..=64, _, Part::Keys(Order::First)) => tiling([1, 4, 32, 32], READ, 1),
        (false, ..=64, _, Part::Keys(_)) => tiling([1, 8, 32, 16], READ, 1),
        (false, ..=64, ..) => tiling([1, 8, 32, 32], READ, 1),
        _ => tiling([1, warps, 16, 16], READ, 1),
    };
    // Smaller devices have less shared memory: fewer keys at a time, then fewer queries.
    let narrow = Tiling { keys: 16, step: 16, q_in_registers: READ, ..first };
    let least = Tiling { row_tiles: 1, row_warps: warps, blocks: 1, ..narrow };
    [first, narrow, least, Tiling { row_warps: 2, ..least }]
}

/// The shipped choice: one that does not fit where none does.
pub(super) fn shipped(occasion: SweepOccasion, architecture: Architecture) -> Choice {
    let section = if occasion.occasion.masking == Masking::Intervals { 16 } else { 1 };
    let choices = tilings(occasion.part, occasion.occasion).map(|tiling| Choice { tiling, section });
    choices.into_iter().find(|choice| occasion.fits(choice, architecture)).unwrap_or(choices[3])
}

/// Every instance that the table comes to.
pub(crate) fn all(architecture: Architecture) -> Vec<FusedSweep> {
    let mut all: Vec<FusedSweep> = SweepOccasion::all()
        .filter_map(|occasion| occasion.sweeps_by(shipped(occasion, architecture), architecture))
        .flatten()
        .collect();
    let mut seen = HashSet::new();
    all.retain(|sweep| seen.insert(*sweep));
    all
}
