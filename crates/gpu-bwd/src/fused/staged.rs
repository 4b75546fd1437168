//! A problem with operands for every rule, so that a rule can be called again and again.

use theria_contract::{
    Attention, Cotangent, Element, Primal, Problem, Qkv, Result, SavedTensor, SecondOrder, Storage as _,
    Tangent, saved_mut, saved_view,
};
use theria_gpu_fwd::forward::tuning::{Operands, drawn, drawn_for_each, numbers};
use theria_gpu_fwd::{Cuda, CudaTensor, CudaWorkspace};

use super::CudaFused;
use crate::part::{Order, Part};

/// A problem to be measured.
#[derive(Debug)]
pub struct Staged<E: Element> {
    problem: Problem,
    operands: Operands<E>,
    saved: SavedTensor<Cuda, E>,
    directions: Qkv<CudaTensor<E>>,
    saved_tangent: SavedTensor<Cuda, E>,
    g: CudaTensor<E>,
    g_tangent: CudaTensor<E>,
}

impl<E: Element> Staged<E> {
    /// Draws operands, directions and cotangents, and makes what rules build on.
    pub(super) fn new(backend: &CudaFused, problem: &Problem) -> Result<Self> {
        let (cuda, output) = (&backend.cuda, problem.shape().output());
        let operands = Operands::<E>::new(cuda, problem)?;
        let inputs = operands.inputs();
        let saved = backend.forward(problem, Primal(&inputs))?;
        let directions = drawn_for_each(cuda, 5, problem)?;
        let along = Tangent(directions.as_ref().map(Cuda::view).into());
        let saved_tangent = backend.jvp(problem, Primal(&inputs), saved.as_ref(), along)?;
        Ok(Self {
            problem: problem.clone(),
            saved: saved.into_inner(),
            saved_tangent: saved_tangent.into_inner(),
            g: drawn(cuda, 9, output)?,
            g_tangent: drawn(cuda, 10, output)?,
            operands,
            directions,
        })
    }

    pub(super) fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Calls the rule that makes these outputs.
    pub(super) fn call(
        &self,
        backend: &CudaFused,
        outputs: &mut Outputs<E>,
        workspace: &mut CudaWorkspace,
    ) -> Result<()> {
        let (problem, inputs) = (&self.problem, self.operands.inputs());
        let (inputs, saved) = (Primal(&inputs), Primal(saved_view::<Cuda, E>(&self.saved)));
        let along = Tangent(self.directions.as_ref().map(Cuda::view).into());
        let g = Cotangent(Cuda::view(&self.g));
        match outputs {
            Outputs::SavedTangent(made) => {
                let made = Tangent(saved_mut::<Cuda, E>(made));
                backend.jvp_kernel(problem, inputs, saved, along, made, workspace)
            }
            Outputs::Gradients(made) => {
                let made = Cotangent(made.as_mut().map(Cuda::view_mut));
                backend.backward_kernel(problem, inputs, saved, g, made, workspace)
            }
            Outputs::GradientTangents(made) => {
                let tangent = Tangent(Cotangent(made.as_mut().map(Cuda::view_mut)));
                backend.second_order_kernel(
                    problem,
                    inputs,
                    saved,
                    along,
                    Tangent(saved_view::<Cuda, E>(&self.saved_tangent)),
                    g,
                    Some(Tangent(Cotangent(Cuda::view(&self.g_tangent)))),
                    SecondOrder { tangent, first: None },
                    workspace,
                )
            }
        }
    }
}

/// What a rule makes.
pub(super) enum Outputs<E: Element> {
    SavedTangent(SavedTensor<Cuda, E>),
    Gradients(Qkv<CudaTensor<E>>),
    GradientTangents(Qkv<CudaTensor<E>>),
}

impl<E: Element> Outputs<E> {
    /// Those of a part's rule, zero: a kernel that writes nothing has another result.
    pub(super) fn new(backend: &CudaFused, staged: &Staged<E>, part: Part) -> Result<Self> {
        let problem = &staged.problem;
        Ok(match part.order() {
            None => Self::SavedTangent(backend.allocate_saved(problem)?),
            Some(Order::First) => Self::Gradients(backend.allocate_gradients(problem)?),
            Some(Order::Second) => Self::GradientTangents(backend.allocate_gradients(problem)?),
        })
    }

    /// Every element.
    pub(super) fn numbers(&self, cuda: &Cuda) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::SavedTangent(made) => Ok(vec![numbers(cuda, &made.output)?, numbers(cuda, &made.lse)?]),
            Self::Gradients(made) | Self::GradientTangents(made) => {
                made.as_ref().named().map(|(_, made)| numbers(cuda, made)).collect()
            }
        }
    }
}
