//! Which sweep serves which occasion.

use theria_gpu_fwd::Architecture;
use theria_gpu_fwd::forward::{FusedForward, Masking, Products, ROOMS, Tiling};

use super::{FusedSweep, Makes};
use crate::part::{Order, Part};

/// `[row tiles, row warps, keys, step, stages]`, blocks.
const fn tiling(numbers: [u32; 5], blocks: u32) -> Tiling {
    let [row_tiles, row_warps, keys, step, stages] = numbers;
    Tiling { row_tiles, row_warps, key_groups: 1, keys, step, stages, q_in_registers: false, blocks }
}

/// Tilings for a sweep, the one to take first.
fn tilings(part: Part, products: Products, room: u32, masking: Masking) -> Vec<Tiling> {
    let half = products.element() == 2;
    let looks = masking == Masking::Everything;
    let first = match (half, room, looks, part) {
        (true, ..=64, _, Part::Bias(Order::First)) => tiling([1, 4, 64, 64, 2], 1),
        (true, ..=128, _, Part::Bias(_)) => tiling([1, 4, 32, 32, 2], 1),
        (false, ..=64, _, Part::Bias(_)) => tiling([1, 4, 16, 16, 2], 1),
        (true, ..=64, false, Part::Queries(Order::First) | Part::Keys(Order::First)) => {
            tiling([2, 4, 32, 32, 2], 2)
        }
        (true, ..=64, false, Part::Jvp) if masking == Masking::Lengths => tiling([2, 4, 32, 32, 2], 2),
        (true, ..=64, ..) => tiling([1, 4, 32, 32, 2], 2),
        (true, ..=128, false, Part::Keys(Order::Second)) => tiling([1, 8, 16, 16, 2], 1),
        (true, ..=128, false, _) => tiling([1, 8, 32, 32, 2], 1),
        (true, 193.., true, Part::Queries(Order::Second)) => tiling([1, 2, 16, 16, 2], 1),
        (true, ..=128, true, _) | (false, ..=64, ..) => tiling([1, 4, 32, 16, 2], 1),
        _ => tiling([1, 4, 16, 16, 2], 1),
    };
    let narrow = Tiling { keys: 16, step: 16, ..first };
    let least = Tiling { row_tiles: 1, row_warps: 4, ..narrow };
    vec![first, narrow, least, Tiling { row_warps: 2, ..least }]
}

/// What is looked at by the sweeps that serve a masking: registers do not hold what a kernel needs that looks at some
/// scores only beside two operands for one and wide heads, or beside the widest sums of the JVP.
pub(super) fn looked_at(part: Part, products: Products, room: u32, masking: Masking) -> Masking {
    let split = products == Products::Split && room >= 128;
    if split || (part == Part::Jvp && room > 192) { Masking::Everything } else { masking }
}

/// The sweeps of a launch on an occasion, one after the other; none where no tiling fits the device.
pub(super) fn sweeps(
    part: Part,
    products: Products,
    room: u32,
    masking: Masking,
    architecture: Architecture,
) -> Option<Vec<FusedSweep>> {
    let makes = match part {
        Part::Keys(_) if room > 128 => vec![Makes::Keys, Makes::Values],
        _ => vec![Makes::Both],
    };
    tilings(part, products, room, masking).into_iter().find_map(|tiling| {
        let cut = FusedForward { products, d: room, dv: room, masking, tiling };
        let sweep = FusedSweep { part, makes: Makes::Both, cut };
        let vectors = room * products.element() / 16;
        let fits = sweep.shared_bytes() <= architecture.shared_memory() && vectors <= tiling.threads();
        fits.then(|| makes.iter().map(|makes| FusedSweep { makes: *makes, ..sweep }).collect())
    })
}

/// Every instance that the table comes to.
pub(crate) fn all(architecture: Architecture) -> Vec<FusedSweep> {
    let orders = [Order::First, Order::Second];
    let swept = |order| [Part::Queries(order), Part::Keys(order), Part::Bias(order)];
    let parts: Vec<Part> = orders.into_iter().flat_map(swept).chain([Part::Jvp]).collect();
    let mut all = Vec::new();
    for products in Products::ALL {
        for room in ROOMS {
            for masking in Masking::ALL {
                for part in &parts {
                    if looked_at(*part, products, room, masking) != masking {
                        continue;
                    }
                    // A bias is looked at.
                    if matches!(part, Part::Bias(_)) && masking != Masking::Everything {
                        continue;
                    }
                    all.extend(sweeps(*part, products, room, masking, architecture).into_iter().flatten());
                }
            }
        }
    }
    all
}
