//! Which instance serves which problem: the dispatch table of the portable family.
//!
//! An instance is chosen by how elements are multiplied, the room for the head dimensions, what is masked,
//! and how much work there is: with few queries in all, smaller blocks fill the device. The numbers were
//! measured on an H200 (docs/performance.md); on another device they are safe, and `theria tune` finds its own.

use theria_contract::{Precision, Problem};

use super::{FusedForward, Masking, Products, Tiling};
use crate::Architecture;

/// Rooms for D and Dv, narrowest first.
pub(in crate::forward) const ROOMS: [u32; 6] = [32, 64, 96, 128, 192, 256];

/// Room for both head dimensions.
pub(in crate::forward) fn room(problem: &Problem) -> u32 {
    let widest = problem.shape().d.max(problem.shape().dv) as u32;
    ROOMS.into_iter().find(|room| *room >= widest).unwrap_or(ROOMS[ROOMS.len() - 1])
}

/// How much work there is for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Load {
    /// Blocks of the tiling for many queries do not fill it.
    Few,
    /// They do.
    Many,
}

/// `[row tiles, row warps, key groups, keys, step, stages]`, queries in registers, blocks.
const fn tiling(numbers: [u32; 6], q_in_registers: bool, blocks: u32) -> Tiling {
    let [row_tiles, row_warps, key_groups, keys, step, stages] = numbers;
    Tiling { row_tiles, row_warps, key_groups, keys, step, stages, q_in_registers, blocks }
}

/// The shipped choice.
pub(super) fn shipped(
    products: Products,
    room: u32,
    masking: Masking,
    load: Load,
    architecture: Architecture,
) -> Tiling {
    let half = matches!(products, Products::Bf16 | Products::F16);
    let chosen = match (half, room, masking, load) {
        (true, ..=64, Masking::Everything, _) => tiling([1, 4, 1, 64, 64, 2], true, 2),
        (true, ..=64, _, Load::Few) => tiling([1, 4, 2, 64, 64, 2], true, 1),
        (true, ..=32, _, Load::Many) => tiling([2, 4, 1, 64, 32, 2], false, 2),
        (true, ..=64, _, Load::Many) => tiling([2, 4, 1, 64, 64, 2], true, 2),
        (true, ..=96, Masking::Lengths, Load::Many) => tiling([2, 4, 1, 64, 64, 2], false, 2),
        (true, ..=128, Masking::Everything, _) => tiling([1, 4, 1, 64, 32, 2], false, 2),
        (true, ..=128, _, Load::Few) => tiling([1, 4, 1, 64, 64, 2], true, 2),
        (true, ..=128, _, Load::Many) => tiling([2, 4, 1, 32, 32, 3], false, 2),
        (true, ..=192, Masking::Lengths | Masking::Intervals, Load::Many) => {
            tiling([1, 8, 1, 64, 64, 2], true, 1)
        }
        (true, 193.., Masking::Lengths | Masking::Intervals, Load::Many) => {
            tiling([1, 8, 1, 64, 64, 2], false, 1)
        }
        (true, 193.., Masking::Everything, _) => tiling([1, 4, 1, 32, 16, 2], false, 1),
        (true, ..) | (false, ..=64, ..) => tiling([1, 4, 1, 32, 32, 2], false, 1),
        (false, ..=128, ..) => tiling([1, 4, 1, 32, 16, 2], false, 1),
        (false, ..) => tiling([1, 4, 1, 16, 16, 2], false, 1),
    };
    let fits = |tiling: Tiling| {
        let instance = FusedForward { products, d: room, dv: room, masking, tiling };
        instance.shared_bytes() <= architecture.shared_memory()
    };
    // Smaller devices have less shared memory: fewer keys at a time, then fewer queries.
    let smaller = |change: fn(&mut Tiling), from: Tiling| {
        let mut tiling = from;
        change(&mut tiling);
        tiling
    };
    let fewer_keys = smaller(|tiling| (tiling.keys, tiling.stages) = (tiling.step, 2), chosen);
    let least_keys = smaller(|tiling| (tiling.keys, tiling.step, tiling.stages) = (16, 16, 2), chosen);
    let fewer_rows = smaller(|tiling| (tiling.row_tiles, tiling.row_warps) = (1, 2), least_keys);
    [chosen, fewer_keys, least_keys, fewer_rows]
        .into_iter()
        .find(|tiling| fits(*tiling))
        .unwrap_or(fewer_rows)
}

/// The instance for a problem on a device of this architecture with this many multiprocessors.
pub(super) fn choose(
    problem: &Problem,
    vectors: bool,
    precision: Precision,
    architecture: Architecture,
    multiprocessors: u32,
) -> Option<FusedForward> {
    let products = Products::of(problem.dtype(), precision)?;
    let (masking, room) = (Masking::of(problem, vectors), room(problem));
    let shape = problem.shape();
    let tiling = |load| shipped(products, room, masking, load, architecture);
    let many = tiling(Load::Many);
    let blocks = shape.t.div_ceil(many.rows() as usize) * shape.batch * shape.heads_q;
    let filled = blocks >= (multiprocessors * many.blocks) as usize;
    let tiling = if filled { many } else { tiling(Load::Few) };
    Some(FusedForward { products, d: room, dv: room, masking, tiling })
}

/// Every instance that [`choose`] can come to.
pub(in crate::forward) fn all(architecture: Architecture) -> Vec<FusedForward> {
    let mut all = Vec::new();
    for products in Products::ALL {
        for room in ROOMS {
            for masking in Masking::ALL {
                for load in [Load::Few, Load::Many] {
                    let tiling = shipped(products, room, masking, load, architecture);
                    let instance = FusedForward { products, d: room, dv: room, masking, tiling };
                    if !all.contains(&instance) {
                        all.push(instance);
                    }
                }
            }
        }
    }
    all
}
