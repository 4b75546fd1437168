//! Which instance serves which problem: the dispatch table of the portable family.
//!
//! An instance is chosen by how elements are multiplied, the room for the head dimensions, what is masked,
//! and how much work there is: with few queries in all, smaller blocks fill the device. The numbers were
//! measured on an H200 (docs/performance.md); on another device they are safe, and `theria tune` finds its own.

use theria_contract::{Precision, Problem};

use super::{FusedForward, Masking, Products, Tiling};

/// Rooms for D and Dv, narrowest first.
pub const ROOMS: [u32; 6] = [32, 64, 96, 128, 192, 256];

/// Room for both head dimensions.
pub fn room(problem: &Problem) -> u32 {
    let widest = problem.shape().d.max(problem.shape().dv) as u32;
    ROOMS.into_iter().find(|room| *room >= widest).unwrap_or(ROOMS[ROOMS.len() - 1])
}

/// How much work there is for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Load {
    /// Blocks of the large tiling do not fill it.
    Few,
    /// They do.
    Many,
}

fn tiling(
    [row_tiles, row_warps, key_groups, keys, step]: [u32; 5],
    q_in_registers: bool,
    blocks: u32,
) -> Tiling {
    Tiling { row_tiles, row_warps, key_groups, keys, step, stages: 2, q_in_registers, blocks }
}

/// The shipped choice.
pub fn shipped(products: Products, room: u32, masking: Masking, load: Load) -> Tiling {
    match (products, room) {
        (Products::Bf16 | Products::F16, ..=64) => match (load, masking) {
            (Load::Few, Masking::Everything) => tiling([1, 4, 1, 64, 64], true, 2),
            (Load::Few, _) => tiling([1, 4, 2, 64, 64], true, 1),
            (Load::Many, Masking::Everything) => tiling([1, 4, 1, 64, 64], true, 2),
            (Load::Many, _) => tiling([2, 4, 1, 64, 64], true, 2),
        },
        (Products::Bf16 | Products::F16, ..=128) => match (load, masking) {
            (Load::Many, Masking::Lengths) => tiling([2, 4, 1, 64, 64], false, 2),
            _ => tiling([1, 4, 1, 64, 64], false, 2),
        },
        (Products::Bf16 | Products::F16, _) => tiling([1, 4, 1, 32, 32], false, 1),
        (_, ..=64) => tiling([1, 4, 1, 32, 32], false, 1),
        (_, ..=128) => tiling([1, 4, 1, 32, 16], false, 1),
        _ => tiling([1, 4, 1, 16, 16], false, 1),
    }
}

/// The instance for a problem on a device with this many multiprocessors.
pub fn choose(
    problem: &Problem,
    vectors: bool,
    precision: Precision,
    multiprocessors: u32,
) -> Option<FusedForward> {
    let products = Products::of(problem.dtype(), precision)?;
    let (masking, room) = (Masking::of(problem, vectors), room(problem));
    let shape = problem.shape();
    let many = shipped(products, room, masking, Load::Many);
    let blocks = shape.t.div_ceil(many.rows() as usize) * shape.batch * shape.heads_q;
    let load = if blocks < (multiprocessors * many.blocks) as usize { Load::Few } else { Load::Many };
    let tiling = shipped(products, room, masking, load);
    Some(FusedForward { products, d: room, dv: room, masking, tiling })
}

/// Every instance that [`choose`] can come to.
pub fn all() -> Vec<FusedForward> {
    let mut all = Vec::new();
    for products in Products::ALL {
        for room in ROOMS {
            for masking in Masking::ALL {
                for load in [Load::Few, Load::Many] {
                    let tiling = shipped(products, room, masking, load);
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
