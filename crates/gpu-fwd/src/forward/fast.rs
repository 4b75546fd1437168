//! `cuda-fast`: scores and softmax in one kernel, the product with the values in another.
//!
//! The classical half-way house, kept for diagnosis: what it stores between the kernels can be looked at, and
//! it shows what fusion saves. It takes memory of size T×M, and it has no derivative rules beyond the forward:
//! a backward beside it would be opaque.

use theria_contract::{
    Attention, Checks, Element, Error, Inputs, Precision, Primal, Problem, Refusal, Result, Rule,
    SavedViewMut, Support,
};

use super::fused::{FusedForward, Masking, Products, ROOMS, Tiling, room};
use super::parameters::{Fast, Forward, Grid, Halfway, forward_tensors, whole_vectors};
use super::refused_on_tensor_cores;
use super::verify::verify;
use crate::sources::{FAST_SCORES, FAST_VALUES};
use crate::{Cuda, CudaWorkspace, KernelSpec, Library, Spec};

/// Which of the two kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Scores and softmax.
    Scores,
    /// The product with the values.
    Values,
}

/// An instance of `fast_scores.cu` or `fast_values.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FastForward {
    /// Which of the two.
    pub part: Part,
    /// The choices, which both make alike.
    pub choices: FusedForward,
}

/// Both kernels cut the work in the same way, and every device has the shared memory for it.
const TILING: Tiling = Tiling {
    row_tiles: 1,
    row_warps: 4,
    key_groups: 1,
    keys: 32,
    step: 32,
    stages: 2,
    q_in_registers: false,
    blocks: 1,
};

/// The same with half as many queries, where they are wide.
const NARROW: Tiling = Tiling { row_warps: 2, keys: 16, step: 16, ..TILING };

fn choices(products: Products, room: u32, masking: Masking) -> FusedForward {
    let wide = room * products.element() > 512;
    FusedForward { products, d: room, dv: room, masking, tiling: if wide { NARROW } else { TILING } }
}

/// Every instance.
pub(super) fn all() -> impl Iterator<Item = FastForward> {
    let parts = [Part::Scores, Part::Values];
    Products::ALL.into_iter().flat_map(move |products| {
        ROOMS.into_iter().flat_map(move |room| {
            Masking::ALL.into_iter().flat_map(move |masking| {
                parts.map(|part| FastForward { part, choices: choices(products, room, masking) })
            })
        })
    })
}

// SAFETY: `Fast` is the struct of forward.cuh, and the kernels touch what its views name.
#[allow(unsafe_code)]
unsafe impl Spec for FastForward {
    type Parameters = Fast;

    fn kernel(&self) -> KernelSpec {
        let Self { part, choices } = *self;
        let (rows, keys) = (choices.tiling.rows(), choices.tiling.keys);
        let row = |columns| choices.row_bytes(columns);
        let (name, source, shared) = match part {
            Part::Scores => ("scores", FAST_SCORES, (rows + 2 * keys) * row(choices.d)),
            Part::Values => {
                let ring = 2 * (rows * row(keys) + keys * row(choices.dv));
                ("values", FAST_VALUES, ring.max(rows * row(choices.dv)))
            }
        };
        KernelSpec {
            name: format!("fast-{name}-{}", choices.choices()),
            source,
            defines: choices.defines(),
            threads: choices.tiling.threads(),
            shared,
        }
    }
}

/// Attention in two kernels with the weights stored between them.
#[derive(Debug)]
pub struct CudaFast {
    cuda: Cuda,
    checks: Checks,
    precision: Precision,
    kernels: Library<FastForward>,
}

impl CudaFast {
    /// On this device's memory.
    pub fn new(cuda: Cuda) -> Self {
        let kernels = Library::new(cuda.device().clone());
        Self { cuda, checks: Checks::None, precision: Precision::F32, kernels }
    }

    /// With f32 operands rounded to TF32; see [`CudaFused::with_tf32`](super::CudaFused::with_tf32).
    #[must_use]
    pub fn with_tf32(mut self) -> Self {
        self.precision = Precision::Tf32;
        self
    }

    /// The kernels that serve a problem whose rows are whole vectors, one after the other; `None` where none do.
    pub fn choice(&self, problem: &Problem) -> Option<[FastForward; 2]> {
        let choices = self.choices(problem, true)?;
        Some([Part::Scores, Part::Values].map(|part| FastForward { part, choices }))
    }

    fn choices(&self, problem: &Problem, vectors: bool) -> Option<FusedForward> {
        let products = Products::of(problem.dtype(), self.precision)?;
        Some(choices(products, room(problem), Masking::of(problem, vectors)))
    }

    /// With checks on values, which wait for the device and copy to the host.
    #[must_use]
    pub fn with_checks(mut self, checks: Checks) -> Self {
        self.checks = checks;
        self
    }
}

impl<E: Element> Attention<E> for CudaFast {
    type Storage = Cuda;

    fn name(&self) -> &'static str {
        if self.precision == Precision::Tf32 { "cuda-fast-tf32" } else { "cuda-fast" }
    }

    fn storage(&self) -> &Cuda {
        &self.cuda
    }

    fn support(&self, problem: &Problem, rule: Rule) -> Support {
        let refusal = match rule {
            Rule::Forward => refused_on_tensor_cores(problem),
            // Its backward would be a kernel without a derivative of its own.
            Rule::SecondOrder => Some(Refusal::Opaque),
            Rule::Backward | Rule::Jvp => Some(Refusal::RuleNotImplemented(rule)),
        };
        refusal.map_or(Support::Exact, Support::Refused)
    }

    fn workspace_bytes(&self, problem: &Problem, rule: Rule) -> usize {
        if rule == Rule::Forward { Halfway::of(problem).bytes() } else { 0 }
    }

    fn checks(&self) -> Checks {
        self.checks
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Cuda, E>>,
        Primal(saved): Primal<SavedViewMut<'_, Cuda, E>>,
        workspace: &mut CudaWorkspace,
    ) -> Result<()> {
        verify::<E>(self, problem, inputs, &saved, workspace)?;
        let vectors = whole_vectors(size_of::<E>(), forward_tensors(inputs, &saved));
        let Some(choices) = self.choices(problem, vectors) else {
            let reason = Refusal::ElementType(problem.dtype());
            return Err(Error::Refused { backend: "cuda-fast", rule: Rule::Forward, reason });
        };
        let grid = Grid::of_queries(problem, choices.tiling.rows() as usize, 1);
        let forward = Forward::of_rule(problem, inputs, &saved, grid);
        let parameters = Fast::of(forward, problem, workspace.address());
        for part in [Part::Scores, Part::Values] {
            // SAFETY: `verify` held the views and the scratch against the problem and the device, the problem
            // is one that the kernels serve, and all are borrowed while the launch is asked for; whatever is
            // asked of the device later comes after it.
            #[allow(unsafe_code)]
            let outcome =
                unsafe { self.kernels.launch(FastForward { part, choices }, grid.blocks(), &parameters) };
            outcome?;
        }
        Ok(())
    }
}
