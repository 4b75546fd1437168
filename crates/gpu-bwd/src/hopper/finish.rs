//! dQ, or its tangent, from the sums of a sweep: `hopper_finish.cu`.

use theria_contract::Problem;
use theria_gpu_fwd::forward::parameters::Grid;
use theria_gpu_fwd::{KernelSpec, Spec};

use super::sweep::{Cut, First, Second};
use crate::parameters::Rules;
use crate::part::Order;
use crate::sources::HOPPER_FINISH;

/// An instance of `hopper_finish.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Finish {
    /// That of the sweep.
    pub(super) cut: Cut,
    /// Of which sweep: sums lie in the order of its registers.
    pub(super) order: Order,
}

impl Finish {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let first = First::all().map(|First(cut)| Self { cut, order: Order::First });
        // Both kinds of a second order have one cut.
        let second = Second::all().map(|Second { cut, .. }| Self { cut, order: Order::Second });
        first.chain(second.step_by(2))
    }

    /// Its blocks: a tile of queries each.
    pub(super) fn grid(&self, problem: &Problem) -> Grid {
        Grid::of_queries(problem, self.cut.queries as usize, 1)
    }
}

// SAFETY: `Rules` is the struct of rules.cuh, and the kernel touches what its views name, and the scratch, after it
// waited for the launches ahead.
#[allow(unsafe_code)]
unsafe impl Spec for Finish {
    type Parameters = Rules;

    fn kernel(&self) -> KernelSpec {
        let transposed = u32::from(self.order == Order::Second);
        let mut defines = self.cut.defines();
        defines.push(("THERIA_TRANSPOSED", transposed.to_string()));
        KernelSpec {
            name: self.cut.name(&format!("finish-{}", self.order.number())),
            source: HOPPER_FINISH,
            defines,
            threads: 128,
            shared: 0,
        }
    }
}
