//! Backward and second order: `hopper_sweep.cu` and `hopper_second.cu`. Keys stay, and queries pass by.

use theria_contract::{DType, Problem};
use theria_gpu_fwd::forward::parameters::Grid;
use theria_gpu_fwd::forward::{Masking, element_name, hopper};
use theria_gpu_fwd::{Architecture, KernelSpec, Mapped, Spec};

use super::WIDTHS;
use crate::parameters::Rules;
use crate::sources::{HOPPER_SECOND, HOPPER_SWEEP};

/// As in the sources: keys of a block, and of a warpgroup, which is what boxes of dK and dV have.
const KEYS: u32 = 128;
const WRITTEN: u32 = 64;
const STAGES: u32 = 2;
/// Memory that heads which are worked on together may take, so that their queries and sums stay in the cache.
const NEAR: usize = 32 << 20;
/// How many of them there are at least, and at most.
const LEAST_NEAR: usize = 4;
const MOST_NEAR: usize = 16;
/// Strands of sums at most.
const STRANDS: usize = 4;

/// What both sweeps are chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cut {
    pub(super) dtype: DType,
    pub(super) d: u32,
    /// Whether there are causal masks or windows.
    pub(super) intervals: bool,
    /// Queries of a step, which are those of a turn too.
    pub(super) queries: u32,
}

impl Cut {
    /// That for a problem with so many queries in a step for each head dimension, wherever its tensors lie.
    fn of(problem: &Problem, architecture: Architecture, queries: [u32; 2]) -> Option<Self> {
        let (dtype, d) = (problem.dtype(), problem.shape().d as u32);
        let intervals = Masking::of(problem, true) == Masking::Intervals;
        let suits = hopper::suits(problem, architecture, &WIDTHS);
        suits.then(|| Self { dtype, d, intervals, queries: queries[usize::from(d > 64)] })
    }

    fn all(queries: [u32; 2]) -> impl Iterator<Item = Self> {
        [DType::Bf16, DType::F16].into_iter().flat_map(move |dtype| {
            WIDTHS.into_iter().zip(queries).flat_map(move |(d, queries)| {
                [false, true].map(|intervals| Self { dtype, d, intervals, queries })
            })
        })
    }

    /// Bytes of so many rows in 16 bits.
    fn bytes(&self, rows: u32) -> u32 {
        2 * self.d * rows
    }

    /// The blocks of keys of a problem.
    pub(super) fn grid(&self, problem: &Problem) -> Grid {
        // Where all see all, blocks are of one length, and few heads at a time are enough.
        let heads = if self.intervals {
            let shape = problem.shape();
            let head = shape.group().saturating_mul(shape.t).saturating_mul(8 * shape.d).max(1);
            (NEAR / head).clamp(LEAST_NEAR, MOST_NEAR)
        } else {
            LEAST_NEAR
        };
        Grid::of_keys(problem, KEYS as usize, heads)
    }

    /// Strands of sums (`hopper_sweep.cuh`), so that a staircase of blocks is short where all of them run at once, or
    /// nearly so. Where there are more, others work while some wait.
    pub(super) fn strands(&self, problem: &Problem, multiprocessors: u32) -> usize {
        let blocks = self.grid(problem).blocks();
        let waves = blocks.div_ceil(multiprocessors.max(1) as usize).max(1);
        (STRANDS / waves).clamp(1, problem.shape().m.div_ceil(KEYS as usize).max(1))
    }

    pub(super) fn name(&self, kernel: &str) -> String {
        let Self { dtype, d, intervals, queries } = self;
        let masking = if *intervals { "-intervals" } else { "" };
        format!("hopper-{kernel}-{dtype}-{d}{masking}-q{queries}")
    }

    /// What every source leaves open.
    pub(super) fn defines(&self) -> Vec<(&'static str, String)> {
        vec![
            ("THERIA_ELEMENT", element_name(self.dtype).to_owned()),
            ("THERIA_D", self.d.to_string()),
            ("THERIA_QUERIES", self.queries.to_string()),
            ("THERIA_INTERVALS", u32::from(self.intervals).to_string()),
        ]
    }
}

/// An instance of `hopper_sweep.cu`: dQ, dK and dV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct First(pub(super) Cut);

impl First {
    const QUERIES: [u32; 2] = [128, 64];
    /// Warps that add sums of dQ to memory, each with a buffer in which they leave.
    const WRITERS: u32 = 2;

    pub(super) fn of(problem: &Problem, architecture: Architecture) -> Option<Self> {
        Cut::of(problem, architecture, Self::QUERIES).map(Self)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        Cut::all(Self::QUERIES).map(Self)
    }

    /// Rows of the boxes of Q and G, of K and V, of dK and dV.
    pub(super) fn boxes(&self) -> [u32; 3] {
        [self.0.queries, KEYS, WRITTEN]
    }

    /// K and V; stages of Q and G; dS; sums of dQ; records; barriers; notes.
    fn shared_bytes(&self) -> u32 {
        let Self(cut) = self;
        2 * cut.bytes(KEYS)
            + STAGES * 2 * cut.bytes(cut.queries)
            + 2 * KEYS * cut.queries * 2
            + Self::WRITERS * 2 * cut.bytes(cut.queries)
            + STAGES * cut.queries * 8
            + 8 * 16
            + 48
    }
}

// SAFETY: six maps and `Rules` are the struct of the source, and the kernel touches what they name, and the scratch,
// after it waited for the launches ahead.
#[allow(unsafe_code)]
unsafe impl Spec for First {
    type Parameters = Mapped<6, Rules>;

    fn kernel(&self) -> KernelSpec {
        KernelSpec {
            name: self.0.name("sweep"),
            source: HOPPER_SWEEP,
            defines: self.0.defines(),
            threads: 384,
            shared: self.shared_bytes(),
        }
    }
}

/// An instance of `hopper_second.cu`: dQ′, dK′ and dV′.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Second {
    pub(super) cut: Cut,
    /// Whether there is G′.
    with_cotangent_tangent: bool,
}

impl Second {
    /// As in the source.
    const QUERIES: [u32; 2] = [64, 32];

    pub(super) fn of(
        problem: &Problem,
        architecture: Architecture,
        with_cotangent_tangent: bool,
    ) -> Option<Self> {
        let cut = Cut::of(problem, architecture, Self::QUERIES)?;
        Some(Self { cut, with_cotangent_tangent })
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        Cut::all(Self::QUERIES)
            .flat_map(|cut| [false, true].map(|with_cotangent_tangent| Self { cut, with_cotangent_tangent }))
    }

    /// Rows of the boxes of Q, Q′, G and G′, of K, K′, V and V′, of dK′ and dV′.
    pub(super) fn boxes(&self) -> [u32; 3] {
        [self.cut.queries, KEYS, WRITTEN]
    }

    /// K, K′, V, V′; stages of Q, Q′, G, G′; dS′ and dS; sums of dQ′; records; barriers, and a word for each stage.
    fn shared_bytes(&self) -> u32 {
        let Self { cut, with_cotangent_tangent } = self;
        4 * cut.bytes(KEYS)
            + STAGES * (3 + u32::from(*with_cotangent_tangent)) * cut.bytes(cut.queries)
            + 2 * 2 * KEYS * cut.queries
            + 2 * cut.bytes(cut.queries)
            + STAGES * cut.queries * 16
            + 40
            + (16 + 4) * STAGES
    }
}

// SAFETY: ten maps and `Rules` are the struct of the source, and the kernel touches what they name, and the scratch,
// after it waited for the launches ahead.
#[allow(unsafe_code)]
unsafe impl Spec for Second {
    type Parameters = Mapped<10, Rules>;

    fn kernel(&self) -> KernelSpec {
        let with = u32::from(self.with_cotangent_tangent);
        let mut defines = self.cut.defines();
        defines.push(("THERIA_STAGES", STAGES.to_string()));
        defines.push(("THERIA_WITH_COTANGENT_TANGENT", with.to_string()));
        KernelSpec {
            name: format!("{}-g{with}", self.cut.name("second")),
            source: HOPPER_SECOND,
            defines,
            threads: 384,
            shared: self.shared_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_strands_where_few_blocks_run() {
        for (heads, m, strands) in
            [(1, 1, 1), (1, 129, 2), (8, 2048, 4), (9, 2048, 2), (16, 2048, 2), (17, 2048, 1), (64, 4096, 1)]
        {
            let problem = Problem::builder(DType::Bf16).heads(heads, heads).lengths(70, m).head_dims(64, 64);
            let problem = problem.build().unwrap();
            let cut = Cut::of(&problem, Architecture::SM_90A, [64, 64]).unwrap();
            assert_eq!(cut.strands(&problem, 132), strands, "{heads} {m}");
        }
    }
}
