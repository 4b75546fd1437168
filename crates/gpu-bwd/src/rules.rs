//! The rules as sequences of launches, for any way to make one.
//!
//! ```text
//! JVP           Jvp
//! backward      Statistics, Queries, Keys, and Bias if its gradient is wanted
//! second order  the same of the second order; then, if first-order cotangents are wanted, those of the first
//! ```
//!
//! A backend may have other launches for a whole order: see [`Launches::sweep`].

use theria_contract::{
    Attention, Cotangent, Directions, Element, Inputs, Primal, Problem, Qkv, Result, Rule, SavedView,
    SavedViewMut, SecondOrder, Tangent,
};
use theria_gpu_fwd::{Cuda, CudaView, CudaViewMut, CudaWorkspace, Library};

use crate::call::Call;
use crate::pairs::PairKernel;
use crate::part::{Order, Part, Records};

/// Names of outputs, for errors.
const GRADIENTS: [&str; 4] = ["dq", "dk", "dv", "dbias"];
const GRADIENT_TANGENTS: [&str; 4] = ["dq_tangent", "dk_tangent", "dv_tangent", "dbias_tangent"];

/// A way to make the launches of a call.
pub(crate) trait Launches<E: Element>: Attention<E, Storage = Cuda> {
    /// How statistics lie in the scratch.
    fn records(&self, problem: &Problem, order: Order) -> Records;

    /// Asks for a launch.
    fn launch(&self, part: Part, call: &Call<'_, '_, E>, records: Records) -> Result<()>;

    /// Asks for all launches of an order.
    fn sweep(&self, order: Order, call: &Call<'_, '_, E>) -> Result<()> {
        part_by_part(self, order, call)
    }

    /// Scratch that they use.
    fn scratch_bytes(&self, problem: &Problem, order: Order) -> usize {
        self.records(problem, order).bytes()
    }
}

/// Every launch of an order, one after the other.
pub(crate) fn part_by_part<E: Element>(
    backend: &(impl Launches<E> + ?Sized),
    order: Order,
    call: &Call<'_, '_, E>,
) -> Result<()> {
    let records = backend.records(call.problem, order);
    for part in [Part::Statistics(order), Part::Queries(order), Part::Keys(order), Part::Bias(order)] {
        backend.launch(part, call, records)?;
    }
    Ok(())
}

/// Scratch that a rule asks for.
pub(crate) fn workspace_bytes<E: Element>(
    backend: &impl Launches<E>,
    problem: &Problem,
    rule: Rule,
) -> usize {
    let bytes = |order| backend.scratch_bytes(problem, order);
    match rule {
        Rule::Forward | Rule::Jvp => 0,
        Rule::Backward => bytes(Order::First),
        Rule::SecondOrder => bytes(Order::Second).max(bytes(Order::First)),
    }
}

pub(crate) fn backward<E: Element>(
    backend: &impl Launches<E>,
    problem: &Problem,
    Primal(inputs): Primal<&Inputs<'_, Cuda, E>>,
    Primal(saved): Primal<SavedView<'_, Cuda, E>>,
    Cotangent(g): Cotangent<CudaView<'_, E>>,
    Cotangent(gradients): &Cotangent<Qkv<CudaViewMut<'_, E>>>,
    workspace: &CudaWorkspace,
) -> Result<()> {
    let cuda = backend.storage();
    let call = Call::new(backend, problem, Rule::Backward, inputs, &saved, workspace)?
        .with_cotangent(cuda, &g, None)?
        .making(cuda, GRADIENTS, gradients)?;
    backend.sweep(Order::First, &call)
}

pub(crate) fn jvp<E: Element>(
    backend: &impl Launches<E>,
    problem: &Problem,
    Primal(inputs): Primal<&Inputs<'_, Cuda, E>>,
    Primal(saved): Primal<SavedView<'_, Cuda, E>>,
    Tangent(directions): Tangent<Directions<CudaView<'_, E>>>,
    Tangent(made): &Tangent<SavedViewMut<'_, Cuda, E>>,
    workspace: &CudaWorkspace,
) -> Result<()> {
    let cuda = backend.storage();
    let call = Call::new(backend, problem, Rule::Jvp, inputs, &saved, workspace)?
        .along(cuda, &directions)?
        .making_tangent(cuda, made)?;
    backend.launch(Part::Jvp, &call, backend.records(problem, Order::Second))
}

pub(crate) fn second_order<E: Element>(
    backend: &impl Launches<E>,
    problem: &Problem,
    Primal(inputs): Primal<&Inputs<'_, Cuda, E>>,
    Primal(saved): Primal<SavedView<'_, Cuda, E>>,
    (Tangent(directions), Tangent(saved_tangent)): (
        Tangent<Directions<CudaView<'_, E>>>,
        Tangent<SavedView<'_, Cuda, E>>,
    ),
    Cotangent(g): Cotangent<CudaView<'_, E>>,
    g_tangent: Option<Tangent<Cotangent<CudaView<'_, E>>>>,
    outputs: &SecondOrder<CudaViewMut<'_, E>>,
    workspace: &CudaWorkspace,
) -> Result<()> {
    let cuda = backend.storage();
    let g_tangent = g_tangent.map(|Tangent(Cotangent(view))| view);
    let call = Call::new(backend, problem, Rule::SecondOrder, inputs, &saved, workspace)?
        .along(cuda, &directions)?
        .with_tangent(cuda, &saved_tangent)?
        .with_cotangent(cuda, &g, g_tangent.as_ref())?
        .making(cuda, GRADIENT_TANGENTS, &outputs.tangent.0.0)?;
    let first = outputs.first.as_ref().map(|Cotangent(gradients)| {
        Call::new(backend, problem, Rule::SecondOrder, inputs, &saved, workspace)?
            .with_cotangent(cuda, &g, None)?
            .making(cuda, GRADIENTS, gradients)
    });
    // All is verified before anything is written.
    let first = first.transpose()?;
    backend.sweep(Order::Second, &call)?;
    first.map_or(Ok(()), |call| backend.sweep(Order::First, &call))
}

/// Asks for a launch of a kernel that takes pairs.
///
/// # Safety
/// The tensors of the call live, and nobody else uses them, until the device has done what it was asked for up to
/// here.
#[allow(unsafe_code)]
pub(crate) unsafe fn launch_pairs<E: Element>(
    kernels: &Library<PairKernel>,
    instance: PairKernel,
    call: &Call<'_, '_, E>,
    records: Records,
) -> Result<()> {
    let grid = instance.grid(call.problem, records.padded);
    let blocks = match instance.part {
        Part::Bias(_) => call.bias_blocks(),
        _ => grid.blocks(),
    };
    // SAFETY: the caller vouches for it.
    Ok(unsafe { kernels.launch(instance, blocks, &call.rules(grid, records)) }?)
}
