//! The backend.

use theria_contract::{
    Attention, Causal, Checks, DType, Element, Inputs, Precision, Primal, Problem, Refusal, Result, Rule,
    SavedViewMut, Support,
};

use super::{FusedForward, choice};
use crate::forward::parameters::Forward;
use crate::forward::refused_by_all;
use crate::storage::of_device;
use crate::{Cuda, CudaWorkspace, Library};

/// Fused attention on tensor cores.
#[derive(Debug)]
pub struct CudaFused {
    cuda: Cuda,
    checks: Checks,
    precision: Precision,
    kernels: Library<FusedForward>,
}

impl CudaFused {
    /// On this device's memory.
    pub fn new(cuda: Cuda) -> Self {
        let kernels = Library::new(cuda.device().clone());
        Self { cuda, checks: Checks::None, precision: Precision::F32, kernels }
    }

    /// With f32 operands rounded to TF32: faster than the split in three products, and accurate to
    /// [`Precision::Tf32`] only. Other element types do not change.
    #[must_use]
    pub fn with_tf32(mut self) -> Self {
        self.precision = Precision::Tf32;
        self
    }

    /// With checks on values, which wait for the device and copy to the host.
    #[must_use]
    pub fn with_checks(mut self, checks: Checks) -> Self {
        self.checks = checks;
        self
    }

    fn choose(&self, problem: &Problem, vectors: bool) -> Option<FusedForward> {
        let device = self.cuda.device();
        choice::choose(problem, vectors, self.precision, device.architecture(), device.multiprocessors())
    }

    /// The kernel that serves a problem whose rows are whole vectors; `None` where none does.
    pub fn choice(&self, problem: &Problem) -> Option<FusedForward> {
        self.choose(problem, true)
    }
}

impl<E: Element> Attention<E> for CudaFused {
    type Storage = Cuda;

    fn name(&self) -> &'static str {
        "cuda-fused"
    }

    fn storage(&self) -> &Cuda {
        &self.cuda
    }

    fn support(&self, problem: &Problem, rule: Rule) -> Support {
        let refusal = if rule != Rule::Forward {
            Some(Refusal::RuleNotImplemented(rule))
        } else if problem.dtype() == DType::F64 {
            Some(Refusal::ElementType(DType::F64))
        } else {
            refused_by_all(problem)
        };
        refusal.map_or(Support::Exact, Support::Refused)
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
        _: &mut CudaWorkspace,
    ) -> Result<()> {
        let vectors = Forward::of(problem, inputs, &saved, 1, 1).vectors();
        let Some(instance) = self.choose(problem, vectors) else {
            return Attention::<E>::require(self, problem, Rule::Forward);
        };
        let section = if problem.causal() == Causal::None { 1 } else { 16 };
        let parameters = Forward::of(problem, inputs, &saved, instance.tiling.rows() as usize, section);
        // SAFETY: the views were held against the problem, and are borrowed while the launch is asked for;
        // whatever is asked of the device later comes after it.
        #[allow(unsafe_code)]
        let outcome = unsafe { self.kernels.launch(instance, parameters.blocks(problem), &parameters) };
        of_device(outcome)
    }
}
