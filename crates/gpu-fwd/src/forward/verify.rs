//! What every launch of a rule rests on.
//!
//! The contract's rules hold operands against the problem before they come to a kernel, but the kernels'
//! methods are public and safe: whoever calls one directly must get an error too, not a launch that reads
//! or writes beyond memory. This is a handful of comparisons and allocates nothing.

use theria_contract::{Attention, Element, Error, Inputs, Problem, Result, Rule, SavedViewMut};

use crate::storage::{Address, require_disjoint};
use crate::{Cuda, CudaWorkspace};

/// Whether a launch of the forward rule with these operands touches their memory only.
pub(super) fn verify<E: Element>(
    backend: &impl Attention<E, Storage = Cuda>,
    problem: &Problem,
    inputs: &Inputs<'_, Cuda, E>,
    saved: &SavedViewMut<'_, Cuda, E>,
    workspace: &CudaWorkspace,
) -> Result<()> {
    call::<E>(backend, problem, Rule::Forward, inputs, workspace)?;
    let (cuda, shape) = (backend.storage(), problem.shape());
    output(cuda, "out", &saved.output, shape.output())?;
    output(cuda, "lse", &saved.lse, shape.rows())?;
    saved.rest.as_ref().map_or(Ok(()), |rest| output(cuda, "out_rest", rest, shape.output()))
}

/// What the operands of every rule are held to: the backend serves the problem, every shape and the element type are
/// the problem's, what it declares is there, the scratch has as many bytes as the backend asks for, and everything
/// lies on its device.
pub fn call<E: Element>(
    backend: &impl Attention<E, Storage = Cuda>,
    problem: &Problem,
    rule: Rule,
    inputs: &Inputs<'_, Cuda, E>,
    workspace: &CudaWorkspace,
) -> Result<()> {
    backend.require(problem, rule)?;
    let cuda = backend.storage();
    if E::DTYPE != problem.dtype() {
        return Err(Error::ElementType { given: E::DTYPE, expected: problem.dtype() });
    }
    let shape = problem.shape();
    operand(cuda, "q", Some(&inputs.q), Some(shape.q()))?;
    operand(cuda, "k", Some(&inputs.k), Some(shape.k()))?;
    operand(cuda, "v", Some(&inputs.v), Some(shape.v()))?;
    operand(cuda, "bias", inputs.bias.as_ref(), problem.bias())?;
    operand(cuda, "mask", inputs.mask.as_ref(), problem.mask())?;
    let lengths = problem.key_lengths().then(|| shape.key_lengths());
    operand(cuda, "key_lengths", inputs.key_lengths.as_ref(), lengths)?;
    cuda.own("the workspace", workspace.device())?;
    let (needed, given) = (backend.workspace_bytes(problem, rule), workspace.bytes());
    if given < needed {
        return Err(Error::Workspace { rule, needed, given });
    }
    Ok(())
}

/// A tensor that is there exactly if the problem declares it, of that shape, on this device.
pub fn operand(
    cuda: &Cuda,
    name: &'static str,
    given: Option<&impl Address>,
    declared: Option<[usize; 4]>,
) -> Result<()> {
    match (given, declared) {
        (Some(view), Some(expected)) => {
            let given = view.layout().shape();
            if given != expected {
                return Err(Error::Shape { name, given, expected });
            }
            Ok(cuda.own(name, view.device())?)
        }
        (None, None) => Ok(()),
        (_, declared) => Err(Error::Presence { name, declared: declared.is_some() }),
    }
}

/// A tensor that is written: no two of its elements are one.
pub fn output(cuda: &Cuda, name: &'static str, view: &impl Address, expected: [usize; 4]) -> Result<()> {
    operand(cuda, name, Some(view), Some(expected))?;
    require_disjoint(view.layout())
}
