//! `cuda-ref`: every rule on plain arithmetic units.

use theria_contract::{
    Attention, Checks, Cotangent, DType, Directions, Element, Inputs, Primal, Problem, Qkv, Result, Rule,
    SavedView, SavedViewMut, SecondOrder, Support, Tangent,
};
use theria_gpu_fwd::forward;
use theria_gpu_fwd::{Cuda, CudaView, CudaViewMut, CudaWorkspace, Library};

use crate::call::Call;
use crate::pairs::{PairKernel, Sweep};
use crate::part::{Order, Part, Records};
use crate::rules;

/// The reference on the device: every rule, every element type, every feature, head dimensions up to 256.
#[derive(Debug)]
pub struct CudaRef {
    forward: forward::CudaRef,
    cuda: Cuda,
    kernels: Library<PairKernel>,
}

impl CudaRef {
    /// On this device's memory.
    pub fn new(cuda: Cuda) -> Self {
        let kernels = Library::new(cuda.device().clone());
        Self { forward: forward::CudaRef::new(cuda.clone()), cuda, kernels }
    }

    /// With checks on values, which wait for the device and copy to the host.
    #[must_use]
    pub fn with_checks(mut self, checks: Checks) -> Self {
        self.forward = self.forward.with_checks(checks);
        self
    }

    fn instance(part: Part, dtype: DType) -> PairKernel {
        // O in 16 bits is too coarse for statistics that others are held against.
        let sweep = if dtype.size() == 2 { Sweep::Always } else { Sweep::Large };
        PairKernel { part, dtype, factored: true, sweep }
    }
}

impl<E: Element> rules::Launches<E> for CudaRef {
    fn records(&self, problem: &Problem, order: Order) -> Records {
        Records::of(problem, order, true)
    }

    fn launch(&self, part: Part, call: &Call<'_, '_, E>, records: Records) -> Result<()> {
        let instance = Self::instance(part, E::DTYPE);
        // SAFETY: a call's tensors were verified, and are borrowed while the launch is asked for; whatever is asked
        // of the device later comes after it.
        #[allow(unsafe_code)]
        unsafe {
            rules::launch_pairs(&self.kernels, instance, call, records)
        }
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

    fn support(&self, problem: &Problem, _: Rule) -> Support {
        Attention::<E>::support(&self.forward, problem, Rule::Forward)
    }

    fn workspace_bytes(&self, problem: &Problem, rule: Rule) -> usize {
        rules::workspace_bytes::<E>(self, problem, rule)
    }

    fn checks(&self) -> Checks {
        Attention::<E>::checks(&self.forward)
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
