//! The backend.

use theria_contract::{
    Attention, Checks, Element, Error, Inputs, Precision, Primal, Problem, Refusal, Result, Rule,
    SavedViewMut, Support,
};

use super::{Choice, FusedForward, Occasion};
use crate::forward::hopper;
use crate::forward::parameters::{Forward, Grid, forward_tensors, packed_vectors, whole_vectors};
use crate::forward::verify::verify;
use crate::forward::{Table, refused_on_tensor_cores};
use crate::{Cuda, CudaWorkspace, Edit, Library, Spec as _};

/// Fused attention on tensor cores.
///
/// Where there is a kernel for Hopper it serves a call, and else the portable one does: see [`hopper`].
#[derive(Debug)]
pub struct CudaFused {
    pub(super) cuda: Cuda,
    checks: Checks,
    pub(super) precision: Precision,
    pub(super) table: Table,
    pub(super) kernels: Library<FusedForward>,
    hopper: Option<hopper::Family>,
}

impl CudaFused {
    /// On this device's memory.
    pub fn new(cuda: Cuda) -> Self {
        let device = cuda.device();
        let table = Table::of_user(device.name(), device.architecture());
        let kernels = Library::new(device.clone());
        let hopper = Some(hopper::Family::new(device.clone()));
        Self { cuda, checks: Checks::None, precision: Precision::F32, table, kernels, hopper }
    }

    /// With portable kernels alone, whatever the device: for comparisons.
    #[must_use]
    pub fn with_portable_kernels(mut self) -> Self {
        self.hopper = None;
        self
    }

    /// With these choices over the shipped ones, in place of those that were measured on this device.
    #[must_use]
    pub fn with_table(mut self, table: Table) -> Self {
        self.table = table;
        self
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

    /// With kernels that have a change in their sources. For tests, which see whether a wrong one is noticed: what is
    /// launched may be anything that the change makes of it.
    #[doc(hidden)]
    #[must_use]
    pub fn with_edit(mut self, edit: Edit) -> Self {
        let device = self.cuda.device();
        self.kernels = Library::edited(device.clone(), edit);
        self.hopper = self.hopper.map(|_| hopper::Family::edited(device.clone(), edit));
        self
    }

    /// Its choices.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What a problem is to the table; `None` where no kernel serves it.
    pub fn occasion(&self, problem: &Problem, vectors: bool) -> Option<Occasion> {
        Occasion::of(problem, vectors, self.precision, self.cuda.device().multiprocessors())
    }

    /// The same for a problem whose tensors are packed.
    pub fn packed_occasion(&self, problem: &Problem) -> Option<Occasion> {
        self.occasion(problem, packed_vectors(problem))
    }

    /// The name of the kernel that serves a problem whose tensors are packed, from [`Attention::allocate_saved`] where
    /// they are made; `None` where none does.
    pub fn kernel(&self, problem: &Problem) -> Option<String> {
        let rest = keeps_rest(problem);
        if let Some(kernel) = self.hopper.as_ref().and_then(|family| family.kernel(problem, rest)) {
            return Some(kernel.name);
        }
        let occasion = self.packed_occasion(problem)?;
        let choice = self.table.choice(occasion, self.cuda.device().architecture());
        Some(choice.instance(occasion).kernel().name)
    }

    /// Whether kernels for Hopper serve what they can.
    pub fn has_hopper_kernels(&self) -> bool {
        self.hopper.is_some()
    }

    /// Asks for the forward rule by this choice. The operands are those of the problem, on this device, and
    /// the problem is one that is served: `forward_kernel` verifies it, and the tuner makes its own.
    pub(super) fn launch<E: Element>(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_, Cuda, E>,
        saved: &SavedViewMut<'_, Cuda, E>,
        occasion: Occasion,
        choice: Choice,
    ) -> crate::Result<()> {
        let grid = Grid::of_queries(problem, choice.tiling.rows() as usize, choice.section as usize);
        let (instance, parameters) =
            (choice.instance(occasion), Forward::of_rule(problem, inputs, saved, grid));
        // SAFETY: the views are those of the problem and on this device, as said above, and are borrowed while
        // the launch is asked for; whatever is asked of the device later comes after it.
        #[allow(unsafe_code)]
        unsafe {
            self.kernels.launch(instance, grid.blocks(), &parameters)
        }
    }
}

/// In 16 bits O is too coarse for the rules that start from it.
fn keeps_rest(problem: &Problem) -> bool {
    problem.dtype().size() == 2
}

impl<E: Element> Attention<E> for CudaFused {
    type Storage = Cuda;

    fn name(&self) -> &'static str {
        match (self.precision, &self.hopper) {
            (Precision::Tf32, _) => "cuda-fused-tf32",
            (_, None) => "cuda-fused-portable",
            _ => "cuda-fused",
        }
    }

    fn storage(&self) -> &Cuda {
        &self.cuda
    }

    fn support(&self, problem: &Problem, rule: Rule) -> Support {
        let refusal = match rule {
            Rule::Forward => refused_on_tensor_cores(problem),
            _ => Some(Refusal::RuleNotImplemented(rule)),
        };
        refusal.map_or(Support::Exact, Support::Refused)
    }

    fn workspace_bytes(&self, _: &Problem, _: Rule) -> usize {
        0
    }

    fn checks(&self) -> Checks {
        self.checks
    }

    fn keeps_rest(&self, problem: &Problem) -> bool {
        keeps_rest(problem)
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Cuda, E>>,
        Primal(saved): Primal<SavedViewMut<'_, Cuda, E>>,
        workspace: &mut CudaWorkspace,
    ) -> Result<()> {
        verify::<E>(self, problem, inputs, &saved, workspace)?;
        if let Some(family) = &self.hopper
            && family.launch(problem, inputs, &saved)?
        {
            return Ok(());
        }
        let vectors = whole_vectors(size_of::<E>(), forward_tensors(inputs, &saved));
        let Some(occasion) = self.occasion(problem, vectors) else {
            let reason = Refusal::ElementType(problem.dtype());
            return Err(Error::Refused { backend: "cuda-fused", rule: Rule::Forward, reason });
        };
        let choice = self.table.choice(occasion, self.cuda.device().architecture());
        Ok(self.launch(problem, inputs, &saved, occasion, choice)?)
    }
}
