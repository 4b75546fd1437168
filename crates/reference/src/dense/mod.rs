//! The textbook backend: for each head, whole matrices and the formulas as they stand.
//!
//! With `Z` the dropout weights (1 without dropout) and `G = dO` the cotangent of the output:
//!
//! ```text
//! forward    S = scale · Q Kᵀ + bias, -inf where not visible
//!            lse = logsumexp_j S        P = exp(S - lse)        O = (P ∘ Z) V
//!
//! backward   dP = Z ∘ (G Vᵀ)            δ = rowsum(P ∘ dP)      dS = P ∘ (dP - δ)
//!            dQ = scale · dS K          dK = scale · dSᵀ Q      dV = (P ∘ Z)ᵀ G
//!            dBias = dS, summed over broadcast axes
//! ```
//!
//! It allocates matrices of the size of the scores and is not made for speed: it is made to be
//! right, and to be seen to be right. f16 and bf16 are computed in f32.

mod backward;
mod forward;
pub mod head;
mod sums;

use theria_contract::{
    Attention, Checks, Cotangent, Element, Host, Inputs, Primal, Problem, Qkv, Refusal, Result, Rule,
    SavedView, SavedViewMut, Support, TensorView, TensorViewMut, Workspace,
};

use crate::Real;
pub use sums::GradientSums;

/// The oracle: attention by whole matrices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dense {
    checks: Checks,
}

impl Dense {
    /// A backend that takes values as they are.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with checks on values.
    #[must_use]
    pub fn with_checks(mut self, checks: Checks) -> Self {
        self.checks = checks;
        self
    }
}

impl<E> Attention<E> for Dense
where
    E: Element,
    E::Acc: Real,
{
    type Storage = Host;

    fn name(&self) -> &'static str {
        "dense"
    }

    fn storage(&self) -> &Host {
        &Host
    }

    fn checks(&self) -> Checks {
        self.checks
    }

    fn support(&self, _problem: &Problem, rule: Rule) -> Support {
        match rule {
            Rule::Forward | Rule::Backward => Support::Exact,
            Rule::Jvp | Rule::SecondOrder => Support::Refused(Refusal::RuleNotImplemented(rule)),
        }
    }

    /// None: matrices of the size of the scores do not belong in a workspace, so this backend
    /// allocates them itself.
    fn workspace_bytes(&self, _problem: &Problem, _rule: Rule) -> usize {
        0
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedViewMut<'_, Host, E>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        forward::run(problem, inputs, saved)
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedView<'_, Host, E>>,
        cotangent: Cotangent<TensorView<'_, E>>,
        gradients: Cotangent<Qkv<TensorViewMut<'_, E>>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        backward::run(problem, inputs, saved, cotangent, gradients)
    }
}
