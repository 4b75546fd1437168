//! `cuda-ref`: the forward rule on plain arithmetic units.

use theria_contract::{
    Attention, Checks, DType, Element, Inputs, Primal, Problem, Refusal, Result, Rule, SavedViewMut, Support,
};

use super::parameters::{Forward, Grid};
use super::refused_by_all;
use super::verify::verify;
use crate::sources::REFERENCE_FORWARD;
use crate::{Cuda, CudaWorkspace, KernelSpec, Library, Spec};

/// As in the source.
const ROWS: usize = 4;
const WARPS: usize = 4;
const WARP: usize = 32;

/// An instance of `reference_forward.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReferenceForward {
    /// The element type.
    pub dtype: DType,
    /// Room for the wider of D and Dv, as a multiple of 64.
    pub width: usize,
}

impl ReferenceForward {
    /// The instance for a problem.
    pub fn of(problem: &Problem) -> Self {
        let shape = problem.shape();
        Self { dtype: problem.dtype(), width: shape.d.max(shape.dv).next_multiple_of(64) }
    }

    /// Every instance.
    pub fn all() -> impl Iterator<Item = Self> {
        let widths = [64, 128, 192, 256];
        DType::ALL.into_iter().flat_map(move |dtype| widths.map(|width| Self { dtype, width }))
    }
}

// SAFETY: `Forward` is the struct of forward.cuh, and the kernel touches what its views name.
#[allow(unsafe_code)]
unsafe impl Spec for ReferenceForward {
    type Parameters = Forward;

    fn kernel(&self) -> KernelSpec {
        let element = element_name(self.dtype);
        let sum = if self.dtype == DType::F64 { 8 } else { 4 };
        // Queries, and a chunk of keys or values with one element more in each row.
        let shared = (self.width * WARPS * ROWS + WARP * (self.width + 1)) * sum;
        KernelSpec {
            name: format!("reference-forward-{}-{}", self.dtype, self.width),
            source: REFERENCE_FORWARD,
            defines: vec![("THERIA_ELEMENT", element.into())],
            threads: (WARPS * WARP) as u32,
            shared: shared as u32,
        }
    }
}

/// What an element type is called in a kernel.
pub fn element_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "double",
        DType::F32 => "float",
        DType::F16 => "theria::f16",
        DType::Bf16 => "theria::bf16",
    }
}

/// The reference on the device: every element type, every feature, head dimensions up to 256.
#[derive(Debug)]
pub struct CudaRef {
    cuda: Cuda,
    checks: Checks,
    kernels: Library<ReferenceForward>,
}

impl CudaRef {
    /// On this device's memory.
    pub fn new(cuda: Cuda) -> Self {
        let kernels = Library::new(cuda.device().clone());
        Self { cuda, checks: Checks::None, kernels }
    }

    /// With checks on values, which wait for the device and copy to the host.
    #[must_use]
    pub fn with_checks(mut self, checks: Checks) -> Self {
        self.checks = checks;
        self
    }
}

impl<E: Element> Attention<E> for CudaRef {
    type Storage = Cuda;

    fn name(&self) -> &'static str {
        "cuda-ref"
    }

    fn storage(&self) -> &Cuda {
        &self.cuda
    }

    fn support(&self, problem: &Problem, rule: Rule) -> Support {
        match (rule, refused_by_all(problem)) {
            (Rule::Forward, None) => Support::Exact,
            (Rule::Forward, Some(refusal)) => Support::Refused(refusal),
            _ => Support::Refused(Refusal::RuleNotImplemented(rule)),
        }
    }

    fn workspace_bytes(&self, _: &Problem, _: Rule) -> usize {
        0
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
        let grid = Grid::of_queries(problem, ROWS * WARPS, 1);
        let parameters = Forward::of_rule(problem, inputs, &saved, grid);
        // SAFETY: `verify` held the views against the problem and the device, the problem is one that the
        // kernel serves, and all are borrowed while the launch is asked for; whatever is asked of the device
        // later comes after it.
        #[allow(unsafe_code)]
        let outcome =
            unsafe { self.kernels.launch(ReferenceForward::of(problem), grid.blocks(), &parameters) };
        Ok(outcome?)
    }
}
