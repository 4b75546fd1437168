//! The instances of `hopper_forward.cu`, and which one serves what.

use theria_contract::{Precision, Problem};

use super::suits;
use crate::forward::parameters::{Forward, Grid};
use crate::forward::{Masking, Products};
use crate::sources::HOPPER_FORWARD;
use crate::{Architecture, KernelSpec, Mapped, Spec};

/// Head dimensions that there are kernels for.
const WIDTHS: [u32; 3] = [64, 128, 256];
pub(super) const WARPGROUP: u32 = 128;
/// Rows of a product of a warpgroup.
pub(super) const TILE: u32 = 64;
/// Rows of a box in which O and its rest leave: those of a warp.
const WRITTEN: u32 = 16;

/// What the kernel is given beside maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiled {
    /// What every forward kernel is given.
    pub(super) forward: Forward,
    /// Tiles of all heads. A block takes every so-many-th of them, as many as there are blocks.
    pub(super) tiles: i32,
}

const _: () = assert!(size_of::<Mapped<5, Tiled>>() == 1088);

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cut {
    /// Keys of a step.
    keys: u32,
    /// Steps whose keys and values are in shared memory.
    stages: u32,
    /// Warpgroups that multiply, with 64 rows each.
    groups: u32,
    /// Whether warpgroups take turns at the tensor cores.
    turns: bool,
    /// Whether O leaves by way of memory of its own, and not by that of Q.
    apart: bool,
    /// Whether both warpgroups have the same rows, and every second step each.
    split: bool,
}

/// How many rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Too few for every other multiprocessor to have a tile of 128.
    Few,
    /// No more than a tile of 128 for every multiprocessor, or for every head.
    Two,
    /// More, in heads that four warpgroups have between them.
    Four,
    /// More.
    Many,
}

impl Rows {
    const ALL: [Self; 4] = [Self::Few, Self::Two, Self::Four, Self::Many];

    pub(super) fn of(problem: &Problem, multiprocessors: u32) -> Self {
        let (shape, multiprocessors) = (problem.shape(), multiprocessors as usize);
        let tiles = shape.t.div_ceil(128).saturating_mul(shape.batch).saturating_mul(shape.heads_q);
        match shape.t.div_ceil(TILE as usize) {
            _ if tiles.saturating_mul(2) <= multiprocessors => Self::Few,
            0..=2 => Self::Two,
            _ if tiles <= multiprocessors => Self::Two,
            4 => Self::Four,
            _ => Self::Many,
        }
    }
}

/// `[keys, stages, groups]`, with turns and O apart.
const fn cut([keys, stages, groups]: [u32; 3]) -> Cut {
    Cut { keys, stages, groups, turns: true, apart: true, split: false }
}

/// The shipped cut. The numbers were measured on an H200.
fn shipped(d: u32, rows: Rows) -> Cut {
    match (d, rows) {
        (64, Rows::Few) => Cut { turns: false, apart: false, split: true, ..cut([128, 4, 2]) },
        (64, Rows::Four) => cut([64, 4, 4]),
        (64, Rows::Many) => cut([128, 2, 3]),
        (64, Rows::Two) | (128, _) => cut([128, 2, 2]),
        _ => Cut { turns: false, apart: false, ..cut([80, 2, 2]) },
    }
}

/// An instance of `hopper_forward.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HopperForward {
    products: Products,
    d: u32,
    /// Whether there are causal masks or windows.
    intervals: bool,
    /// Whether what rounding takes from O is written.
    rest: bool,
    cut: Cut,
}

impl HopperForward {
    /// The instance for a problem on a device with this many multiprocessors, wherever its tensors lie.
    pub(super) fn of(
        problem: &Problem,
        rest: bool,
        architecture: Architecture,
        multiprocessors: u32,
    ) -> Option<Self> {
        let (d, products) = (problem.shape().d as u32, Products::of(problem.dtype(), Precision::F32)?);
        suits(problem, architecture, &WIDTHS).then(|| Self {
            products,
            d,
            intervals: Masking::of(problem, true) == Masking::Intervals,
            rest,
            cut: shipped(d, Rows::of(problem, multiprocessors)),
        })
    }

    /// Rows of a block.
    fn rows(&self) -> u32 {
        let Cut { groups, split, .. } = self.cut;
        if split { TILE } else { TILE * groups }
    }

    /// What the boxes of Q, K, V, O and its rest have of rows.
    pub(super) fn boxes(&self) -> [u32; 5] {
        [self.rows(), self.cut.keys, self.cut.keys, WRITTEN, WRITTEN]
    }

    /// The tiles of a problem.
    pub(super) fn grid(&self, problem: &Problem) -> Grid {
        Grid::of_queries(problem, self.rows() as usize, if self.intervals { 16 } else { 1 })
    }

    /// Blocks of a launch with so many tiles. Tiles of one length are handed out to as many blocks as run at once;
    /// others to whichever block is done.
    pub(super) fn blocks(&self, tiles: usize, multiprocessors: u32) -> usize {
        if self.intervals { tiles } else { tiles.min(multiprocessors as usize) }
    }

    /// Bytes of shared memory of a block: queries, and where O has a place of its own, it and those of the next tile;
    /// stages of keys and values, a column of ones, what one warpgroup hands to the other, barriers.
    fn shared_bytes(&self) -> u32 {
        let Cut { keys, stages, apart, split, .. } = self.cut;
        let ones = if self.rest { 1024 } else { 0 };
        let merged = if split { 512 * (self.d / 2 + 8) } else { 0 };
        2 * self.d * self.rows() * if apart { 3 } else { 1 }
            + 4 * self.d * keys * stages
            + ones
            + merged
            + 256
    }
}

/// Every instance that a call can come to.
pub(super) fn all(architecture: Architecture) -> Vec<HopperForward> {
    let mut all = Vec::new();
    if architecture != Architecture::SM_90A {
        return all;
    }
    for products in [Products::Bf16, Products::F16] {
        for (d, rows) in WIDTHS.into_iter().flat_map(|d| Rows::ALL.map(|rows| (d, rows))) {
            for (intervals, rest) in [(false, false), (false, true), (true, false), (true, true)] {
                let instance = HopperForward { products, d, intervals, rest, cut: shipped(d, rows) };
                if !all.contains(&instance) {
                    all.push(instance);
                }
            }
        }
    }
    all
}

// SAFETY: five maps and `Tiled` are the struct of the source, and the kernel touches what they name, after it waited
// for the launches ahead.
#[allow(unsafe_code)]
unsafe impl Spec for HopperForward {
    type Parameters = Mapped<5, Tiled>;

    fn kernel(&self) -> KernelSpec {
        let Self { products, d, intervals, rest, cut } = *self;
        let Cut { keys, stages, groups, turns, apart, split } = cut;
        let (name, math) = (products.name(), products.type_name());
        let numbers = [
            ("THERIA_D", d),
            ("THERIA_KEYS", keys),
            ("THERIA_STAGES", stages),
            ("THERIA_GROUPS", groups),
            ("THERIA_INTERVALS", u32::from(intervals)),
            ("THERIA_REST", u32::from(rest)),
            ("THERIA_TURNS", u32::from(turns)),
            ("THERIA_APART", u32::from(apart)),
            ("THERIA_SPLIT", u32::from(split)),
        ];
        let numbers = numbers.into_iter().map(|(name, number)| (name, number.to_string()));
        let [masking, rest] =
            [(intervals, "-intervals"), (rest, "-rest")].map(|(is, name)| if is { name } else { "" });
        let flags = [(turns, "-turns"), (apart, "-apart"), (split, "-split")];
        let flags: String = flags.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
        KernelSpec {
            name: format!("hopper-forward-{name}-{d}{masking}{rest}-k{keys}-p{stages}-g{groups}{flags}"),
            source: HOPPER_FORWARD,
            defines: std::iter::once(("THERIA_MATH", math.to_owned())).chain(numbers).collect(),
            threads: WARPGROUP * (groups + 1),
            shared: self.shared_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instance_fits_a_block_and_a_box() {
        let all = all(Architecture::SM_90A);
        assert!(!all.is_empty() && super::all(Architecture::SM_80).is_empty());
        for instance in all {
            assert!(instance.shared_bytes() <= Architecture::SM_90A.shared_memory(), "{instance:?}");
            assert!(instance.boxes().iter().all(|rows| (1..=256).contains(rows)), "{instance:?}");
        }
    }

    #[test]
    fn no_two_instances_have_one_name() {
        let mut names: Vec<String> = all(Architecture::SM_90A).iter().map(|it| it.kernel().name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
