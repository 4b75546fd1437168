//! The backend.

use theria_contract::{
    Attention, Checks, Cotangent, DType, Directions, Element, Inputs, Precision, Primal, Problem, Qkv,
    Refusal, Result, Rule, SavedView, SavedViewMut, SecondOrder, Support, Tangent,
};
use theria_gpu_fwd::forward::{self, Occasion, Table};
use theria_gpu_fwd::{Architecture, Cuda, CudaView, CudaViewMut, CudaWorkspace, Edit, Library, Spec as _};

use super::{FusedSweep, SweepOccasion};
use crate::call::Call;
use crate::hopper;
use crate::pairs::{PairKernel, Sweep};
use crate::part::{Order, Part, Records};
use crate::rules;

/// Weights and differences of cotangents take the rounding of their operands over as it is: errors were measured up to
/// 7e-3, where the bound is 2e-3, or 1e-2 of 4e-3 in the second order (the page of phase 9).
const IN_TF32: &str = "a derivative of products in TF32, whose rounding is beyond the bound,";

/// Fused attention on tensor cores, with every rule.
///
/// Where there are kernels for Hopper they serve a call, and else the portable ones do, rule by rule.
///
/// Row statistics are made on plain arithmetic units, and so is a sweep for which a device has not the shared memory.
#[derive(Debug)]
pub struct CudaFused {
    pub(super) forward: forward::CudaFused,
    pub(super) cuda: Cuda,
    precision: Precision,
    pub(super) table: Table<SweepOccasion>,
    pub(super) sweeps: Library<FusedSweep>,
    pairs: Library<PairKernel>,
    pub(super) hopper: Option<hopper::Family>,
}

impl CudaFused {
    /// On this device's memory.
    pub fn new(cuda: Cuda) -> Self {
        let device = cuda.device();
        let table = Table::of_user(device.name(), device.architecture());
        let (sweeps, pairs) = (Library::new(device.clone()), Library::new(device.clone()));
        Self {
            forward: forward::CudaFused::new(cuda.clone()),
            hopper: Some(hopper::Family::new(device)),
            cuda,
            precision: Precision::F32,
            table,
            sweeps,
            pairs,
        }
    }

    /// With portable kernels alone, whatever the device: for comparisons.
    #[must_use]
    pub fn with_portable_kernels(mut self) -> Self {
        self.forward = self.forward.with_portable_kernels();
        self.hopper = None;
        self
    }

    /// With these choices for the forward, see [`forward::CudaFused::with_table`].
    #[must_use]
    pub fn with_table(mut self, table: Table) -> Self {
        self.forward = self.forward.with_table(table);
        self
    }

    /// With these choices for sweeps over the shipped ones, in place of those that were measured on this device.
    #[must_use]
    pub fn with_sweeps(mut self, table: Table<SweepOccasion>) -> Self {
        self.table = table;
        self
    }

    /// With f32 operands rounded to TF32 in the forward, see [`forward::CudaFused::with_tf32`]; the other rules are
    /// refused for f32 then.
    #[must_use]
    pub fn with_tf32(mut self) -> Self {
        self.forward = self.forward.with_tf32();
        self.precision = Precision::Tf32;
        self
    }

    /// With checks on values, which wait for the device and copy to the host.
    #[must_use]
    pub fn with_checks(mut self, checks: Checks) -> Self {
        self.forward = self.forward.with_checks(checks);
        self
    }

    /// With sweeps that have a change in their sources, see [`forward::CudaFused::with_edit`].
    #[doc(hidden)]
    #[must_use]
    pub fn with_edit(mut self, edit: Edit) -> Self {
        let device = self.cuda.device();
        self.sweeps = Library::edited(device.clone(), edit);
        self.hopper = self.hopper.map(|_| hopper::Family::edited(device, edit));
        self
    }

    /// With row statistics that have a change in their sources.
    #[doc(hidden)]
    #[must_use]
    pub fn with_edit_of_statistics(mut self, edit: Edit) -> Self {
        self.pairs = Library::edited(self.cuda.device().clone(), edit);
        self
    }

    /// Its forward, to be asked for choices.
    pub fn forward_backend(&self) -> &forward::CudaFused {
        &self.forward
    }

    /// Its forward, to be tuned.
    pub fn forward_backend_mut(&mut self) -> &mut forward::CudaFused {
        &mut self.forward
    }

    /// Its choices for sweeps.
    pub fn sweep_table(&self) -> &Table<SweepOccasion> {
        &self.table
    }

    /// The sweeps that serve a launch on an occasion, and heads of a section; none where kernels that take pairs do.
    fn sweeps(&self, part: Part, occasion: Occasion) -> Option<(Vec<FusedSweep>, usize)> {
        if matches!(part, Part::Statistics(_)) {
            return None;
        }
        let occasion = SweepOccasion::of(part, occasion);
        let choice = self.table.choice(occasion, self.architecture());
        Some((occasion.sweeps_by(choice, self.architecture())?, choice.section as usize))
    }

    /// The names of the kernels that serve a rule of a problem whose tensors are packed, without first-order outputs of
    /// the second order, in the order of their launches but for statistics.
    pub fn kernels(&self, problem: &Problem, rule: Rule) -> Vec<String> {
        if rule == Rule::Forward {
            return self.forward.kernel(problem).into_iter().collect();
        }
        let hopper = self.hopper.as_ref().map_or_else(Vec::new, |family| family.kernels(problem, rule));
        if !hopper.is_empty() {
            return hopper;
        }
        let Some(occasion) = self.forward.packed_occasion(problem) else { return Vec::new() };
        let parts = Part::sweeps_of(rule).iter();
        let wanted = parts.filter(|part| problem.bias().is_some() || !matches!(part, Part::Bias(_)));
        let sweeps = wanted.filter_map(|part| self.sweeps(*part, occasion));
        sweeps.flat_map(|(sweeps, _)| sweeps.into_iter().map(|sweep| sweep.kernel().name)).collect()
    }

    pub(super) fn architecture(&self) -> Architecture {
        self.cuda.device().architecture()
    }
}

impl<E: Element> rules::Launches<E> for CudaFused {
    fn records(&self, problem: &Problem, order: Order) -> Records {
        Records::of(problem, order, E::DTYPE.size() == 4)
    }

    fn sweep(&self, order: Order, call: &Call<'_, '_, E>) -> Result<()> {
        match &self.hopper {
            Some(family) if family.sweep(&self.pairs, order, call)? => Ok(()),
            _ => rules::part_by_part(self, order, call),
        }
    }

    fn scratch_bytes(&self, problem: &Problem, order: Order) -> usize {
        let records = rules::Launches::<E>::records(self, problem, order).bytes();
        self.hopper.as_ref().map_or(0, |family| family.scratch_bytes(problem, order)).max(records)
    }

    fn launch(&self, part: Part, call: &Call<'_, '_, E>, records: Records) -> Result<()> {
        if let (Part::Jvp, Some(family)) = (part, &self.hopper)
            && family.jvp(call, records)?
        {
            return Ok(());
        }
        let occasion = self.forward.occasion(call.problem, call.vectors);
        let Some((sweeps, section)) = occasion.and_then(|occasion| self.sweeps(part, occasion)) else {
            let factored = E::DTYPE.size() == 4;
            let sweep = if factored { Sweep::Large } else { Sweep::Never };
            let instance = PairKernel { part, dtype: E::DTYPE, factored, sweep };
            // SAFETY: a call's tensors were verified, and are borrowed while the launch is asked for; whatever is
            // asked of the device later comes after it.
            #[allow(unsafe_code)]
            return unsafe { rules::launch_pairs(&self.pairs, instance, call, records) };
        };
        for sweep in sweeps {
            let grid = sweep.grid(call.problem, section);
            let blocks = match part {
                Part::Bias(_) => call.bias_tiles(grid.tile, sweep.cut.tiling.keys as usize),
                _ => grid.blocks(),
            };
            // SAFETY: the same.
            #[allow(unsafe_code)]
            unsafe {
                self.sweeps.launch(sweep, blocks, &call.rules(grid, records))?;
            }
        }
        Ok(())
    }
}

impl<E: Element> Attention<E> for CudaFused {
    type Storage = Cuda;

    fn name(&self) -> &'static str {
        Attention::<E>::name(&self.forward)
    }

    fn storage(&self) -> &Cuda {
        &self.cuda
    }

    fn support(&self, problem: &Problem, rule: Rule) -> Support {
        if rule != Rule::Forward && E::DTYPE == DType::F32 && self.precision == Precision::Tf32 {
            return Support::Refused(Refusal::Feature(IN_TF32));
        }
        Attention::<E>::support(&self.forward, problem, Rule::Forward)
    }

    fn workspace_bytes(&self, problem: &Problem, rule: Rule) -> usize {
        rules::workspace_bytes::<E>(self, problem, rule)
    }

    fn checks(&self) -> Checks {
        Attention::<E>::checks(&self.forward)
    }

    fn keeps_rest(&self, problem: &Problem) -> bool {
        Attention::<E>::keeps_rest(&self.forward, problem)
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Cuda, E>>,
        saved: Primal<SavedViewMut<'_, Cuda, E>>,
        workspace: &mut CudaWorkspace,
    ) -> Result<()> {
        self.forward.forward_kernel(problem, inputs, saved, workspace)
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Cuda, E>>,
        saved: Primal<SavedView<'_, Cuda, E>>,
        cotangent: Cotangent<CudaView<'_, E>>,
        gradients: Cotangent<Qkv<CudaViewMut<'_, E>>>,
        workspace: &mut CudaWorkspace,
    ) -> Result<()> {
        rules::backward(self, problem, inputs, saved, cotangent, &gradients, workspace)
    }

    fn jvp_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Cuda, E>>,
        saved: Primal<SavedView<'_, Cuda, E>>,
        directions: Tangent<Directions<CudaView<'_, E>>>,
        saved_tangent: Tangent<SavedViewMut<'_, Cuda, E>>,
        workspace: &mut CudaWorkspace,
    ) -> Result<()> {
        rules::jvp(self, problem, inputs, saved, directions, &saved_tangent, workspace)
    }

    fn second_order_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Cuda, E>>,
        saved: Primal<SavedView<'_, Cuda, E>>,
        directions: Tangent<Directions<CudaView<'_, E>>>,
        saved_tangent: Tangent<SavedView<'_, Cuda, E>>,
        cotangent: Cotangent<CudaView<'_, E>>,
        cotangent_tangent: Option<Tangent<Cotangent<CudaView<'_, E>>>>,
        outputs: SecondOrder<CudaViewMut<'_, E>>,
        workspace: &mut CudaWorkspace,
    ) -> Result<()> {
        let from = (directions, saved_tangent);
        rules::second_order(
            self,
            problem,
            inputs,
            saved,
            from,
            cotangent,
            cotangent_tangent,
            &outputs,
            workspace,
        )
    }
}
