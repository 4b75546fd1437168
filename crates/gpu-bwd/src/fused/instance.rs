//! The instances of the sweeps on tensor cores.

use theria_gpu_fwd::forward::parameters::Grid;
use theria_gpu_fwd::forward::{FusedForward, Tiling};
use theria_gpu_fwd::{KernelSpec, Spec};

use theria_contract::Problem;

use crate::parameters::Rules;
use crate::part::{Order, Part};
use crate::sources::{FUSED_BIAS, FUSED_JVP, FUSED_KEYS, FUSED_QUERIES};

/// Which of the gradients of keys and values one sweep makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Makes {
    /// That of the keys.
    Keys = 1,
    /// That of the values.
    Values = 2,
    /// Both.
    Both = 3,
}

/// An instance of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FusedSweep {
    /// Which launch: the JVP, or queries or keys of an order.
    pub(crate) part: Part,
    /// What a sweep over keys makes.
    pub(crate) makes: Makes,
    /// Products, room, masking, and how the work is cut. Rows are those of the block: queries, or keys.
    pub(crate) cut: FusedForward,
}

impl FusedSweep {
    /// What its blocks go over.
    pub(crate) fn grid(&self, problem: &Problem, section: usize) -> Grid {
        let rows = self.cut.tiling.rows() as usize;
        match self.part {
            Part::Keys(_) => Grid::of_keys(problem, rows, section),
            _ => Grid::of_queries(problem, rows, section),
        }
    }

    /// Bytes for what a sweep finds out of its rows, two of each lane and piece, where registers have no room for it:
    /// `Checks` of `fused_queries.cu`.
    fn checks(&self, order: Order) -> u32 {
        let Tiling { row_tiles, .. } = self.cut.tiling;
        let single = self.cut.products.element() == 4;
        let check = order.number() * if single { 4 } else { 12 };
        if single || self.cut.d > 192 { 2 * check * row_tiles * self.cut.tiling.threads() } else { 0 }
    }

    /// Bytes of shared memory of a block: operands that stay, and the ring.
    pub(crate) fn shared_bytes(&self) -> u32 {
        let Tiling { keys, stages, .. } = self.cut.tiling;
        let (row, rows) = (self.cut.row_bytes(self.cut.d), self.cut.tiling.rows());
        match self.part {
            // Q and Q′ stay; K, K′, V, V′ pass.
            Part::Jvp => (2 * rows + stages * 4 * keys) * row,
            // One operand of each kind for the first order, two for the second.
            Part::Queries(order) => 2 * order.number() * (rows + stages * keys) * row + self.checks(order),
            Part::Keys(order) => {
                let record = order.number() * if self.cut.products.element() == 4 { 16 } else { 8 };
                2 * order.number() * (rows + stages * keys) * row + stages * keys * record
            }
            // Two stages, in which everything passes.
            Part::Bias(order) => 2 * 2 * order.number() * (rows + keys) * row,
            Part::Statistics(_) => 0,
        }
    }
}

// SAFETY: `Rules` is the struct of rules.cuh, and the kernels touch what its views name, after they waited for the
// launches ahead.
#[allow(unsafe_code)]
unsafe impl Spec for FusedSweep {
    type Parameters = Rules;

    fn kernel(&self) -> KernelSpec {
        let (name, source, order) = match self.part {
            Part::Jvp => ("jvp".to_owned(), FUSED_JVP, Order::Second),
            Part::Keys(order) => {
                (format!("keys-{}-m{}", order.number(), self.makes as u32), FUSED_KEYS, order)
            }
            Part::Bias(order) => (format!("bias-{}", order.number()), FUSED_BIAS, order),
            Part::Queries(order) | Part::Statistics(order) => {
                (format!("queries-{}", order.number()), FUSED_QUERIES, order)
            }
        };
        let mut defines = self.cut.defines();
        defines.push(("THERIA_ORDER", order.number().to_string()));
        defines.push(("THERIA_MAKES", (self.makes as u32).to_string()));
        KernelSpec {
            name: format!("fused-{name}-{}", self.cut.choices()),
            source,
            defines,
            threads: self.cut.tiling.threads(),
            shared: self.shared_bytes(),
        }
    }
}
