//! A backend whose derivatives end at the backward.
//!
//! This is what a fused kernel is to those who call it: `FlashAttention`, cuDNN and the scaled
//! dot-product attention of `PyTorch` have a fast forward and a fast backward, and neither can be
//! pushed a tangent through nor differentiated again. An automatic differentiation system that is not
//! told so takes the gradients for constants and goes on with a second order of zero
//! ([`Variant::OnceDifferentiable`](crate::variant::Variant::OnceDifferentiable)). This wrapper says it:
//! the JVP and the second order are refused, by type, before anything is computed.
//!
//! ```
//! use theria_contract::{Attention, DType, Problem, Refusal, Rule, Support};
//! use theria_jvp_hvp::{Dense, Opaque};
//!
//! let problem = Problem::builder(DType::F64).build()?;
//! let fused = Opaque::new(Dense::new());
//! let support = |rule| Attention::<f64>::support(&fused, &problem, rule);
//! assert_eq!(support(Rule::Backward), Support::Exact);
//! assert_eq!(support(Rule::SecondOrder), Support::Refused(Refusal::Opaque));
//! # Ok::<(), theria_contract::Error>(())
//! ```

use theria_contract::{
    Attention, Checks, Cotangent, Element, Inputs, Primal, Problem, Qkv, Refusal, Result, Rule, SavedView,
    SavedViewMut, Storage, Support,
};

/// A backend with its higher rules taken away: forward and backward are its own, the rest is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opaque<B> {
    inner: B,
}

impl<B> Opaque<B> {
    /// Takes the higher rules away.
    pub fn new(inner: B) -> Self {
        Self { inner }
    }

    /// The backend with all its rules.
    pub fn into_inner(self) -> B {
        self.inner
    }
}

impl<E: Element, B: Attention<E>> Attention<E> for Opaque<B> {
    type Storage = B::Storage;

    fn name(&self) -> &'static str {
        "opaque"
    }

    fn storage(&self) -> &B::Storage {
        self.inner.storage()
    }

    fn checks(&self) -> Checks {
        self.inner.checks()
    }

    fn support(&self, problem: &Problem, rule: Rule) -> Support {
        match rule {
            Rule::Forward | Rule::Backward => self.inner.support(problem, rule),
            Rule::Jvp | Rule::SecondOrder => Support::Refused(Refusal::Opaque),
        }
    }

    fn workspace_bytes(&self, problem: &Problem, rule: Rule) -> usize {
        match rule {
            Rule::Forward | Rule::Backward => self.inner.workspace_bytes(problem, rule),
            Rule::Jvp | Rule::SecondOrder => 0,
        }
    }

    fn keeps_rest(&self, problem: &Problem) -> bool {
        self.inner.keeps_rest(problem)
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, B::Storage, E>>,
        saved: Primal<SavedViewMut<'_, B::Storage, E>>,
        workspace: &mut <B::Storage as Storage>::Workspace,
    ) -> Result<()> {
        self.inner.forward_kernel(problem, inputs, saved, workspace)
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, B::Storage, E>>,
        saved: Primal<SavedView<'_, B::Storage, E>>,
        cotangent: Cotangent<<B::Storage as Storage>::View<'_, E>>,
        gradients: Cotangent<Qkv<<B::Storage as Storage>::ViewMut<'_, E>>>,
        workspace: &mut <B::Storage as Storage>::Workspace,
    ) -> Result<()> {
        self.inner.backward_kernel(problem, inputs, saved, cotangent, gradients, workspace)
    }
}
