//! The textbook backend, whole: for each head, whole matrices and the formulas as they stand.
//!
//! Forward and backward are those of [`theria_reference::Dense`]. With x′ the tangent of x, dX its
//! cotangent, dX′ the tangent of that cotangent, `Z` the dropout weights and `G = dO`:
//!
//! ```text
//! jvp           S′ = scale · (Q′ Kᵀ + Q K′ᵀ) + bias′        μ = rowsum(P ∘ S′)      P′ = P ∘ (S′ - μ)
//!               O′ = (P′ ∘ Z) V + (P ∘ Z) V′                lse′ = μ
//!
//! second order  dP = Z ∘ (G Vᵀ)                             δ = rowsum(P ∘ dP)      dS = P ∘ (dP - δ)
//!               dP′ = Z ∘ (G′ Vᵀ + G V′ᵀ)                   δ′ = rowsum(P′ ∘ dP + P ∘ dP′)
//!               dS′ = P′ ∘ (dP - δ) + P ∘ (dP′ - δ′)        dBias′ = dS′
//!               dQ′ = scale · (dS′ K + dS K′)               dK′ = scale · (dS′ᵀ Q + dSᵀ Q′)
//!               dV′ = (P′ ∘ Z)ᵀ G + (P ∘ Z)ᵀ G′
//! ```

mod jvp;
mod second_order;

use faer::Mat;
use theria_contract::{
    Attention, Checks, Cotangent, Directions, Element, Host, Inputs, Primal, Problem, Qkv, Result, Rule,
    SavedView, SavedViewMut, SecondOrder, Support, Tangent, TensorView, TensorViewMut, Workspace,
};
use theria_reference::Real;
use theria_reference::dense::head::{Index, matrix};

/// The oracle: attention and its derivatives to second order by whole matrices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dense {
    first: theria_reference::Dense,
}

impl Dense {
    /// A backend that takes values as they are.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with checks on values.
    #[must_use]
    pub fn with_checks(self, checks: Checks) -> Self {
        Self { first: self.first.with_checks(checks) }
    }
}

/// S′ of one head, zero where a query does not see a key.
pub(crate) fn scores_tangent<E>(
    problem: &Problem,
    index: Index,
    s: &Mat<E::Acc>,
    [q, k]: [&Mat<E::Acc>; 2],
    directions: &Directions<TensorView<'_, E>>,
) -> Mat<E::Acc>
where
    E: Element,
    E::Acc: Real,
{
    let scale = E::Acc::from_f64(problem.scale());
    let mut products = Mat::<E::Acc>::zeros(s.nrows(), s.ncols());
    if let Some(q_tangent) = directions.q {
        products += matrix(q_tangent, index.batch, index.q, s.nrows()) * k.transpose();
    }
    if let Some(k_tangent) = directions.k {
        products += q * matrix(k_tangent, index.batch, index.kv, s.ncols()).transpose();
    }
    Mat::from_fn(s.nrows(), s.ncols(), |i, j| {
        if s[(i, j)].to_f64() == f64::NEG_INFINITY {
            return E::Acc::default();
        }
        let at = [index.batch, index.q, i, j];
        let bias = directions.bias.map_or(E::Acc::default(), |bias| bias.at_broadcast(at).to_acc());
        scale * products[(i, j)] + bias
    })
}

/// `P′ = P ∘ (S′ - μ)`.
fn probabilities_tangent<A: Real>(p: &Mat<A>, s_tangent: &Mat<A>, mu: impl Fn(usize) -> A) -> Mat<A> {
    Mat::from_fn(p.nrows(), p.ncols(), |i, j| p[(i, j)] * (s_tangent[(i, j)] - mu(i)))
}

impl<E> Attention<E> for Dense
where
    E: Element,
    E::Acc: Real,
{
    type Storage = Host;

    fn name(&self) -> &'static str {
        Attention::<E>::name(&self.first)
    }

    fn storage(&self) -> &Host {
        &Host
    }

    fn checks(&self) -> Checks {
        Attention::<E>::checks(&self.first)
    }

    fn support(&self, _problem: &Problem, _rule: Rule) -> Support {
        Support::Exact
    }

    fn workspace_bytes(&self, _problem: &Problem, _rule: Rule) -> usize {
        0
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedViewMut<'_, Host, E>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.first.forward_kernel(problem, inputs, saved, workspace)
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedView<'_, Host, E>>,
        cotangent: Cotangent<TensorView<'_, E>>,
        gradients: Cotangent<Qkv<TensorViewMut<'_, E>>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.first.backward_kernel(problem, inputs, saved, cotangent, gradients, workspace)
    }

    fn jvp_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedView<'_, Host, E>>,
        directions: Tangent<Directions<TensorView<'_, E>>>,
        saved_tangent: Tangent<SavedViewMut<'_, Host, E>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        jvp::run(problem, inputs, saved, directions, saved_tangent)
    }

    fn second_order_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedView<'_, Host, E>>,
        directions: Tangent<Directions<TensorView<'_, E>>>,
        saved_tangent: Tangent<SavedView<'_, Host, E>>,
        cotangent: Cotangent<TensorView<'_, E>>,
        cotangent_tangent: Option<Tangent<Cotangent<TensorView<'_, E>>>>,
        outputs: SecondOrder<TensorViewMut<'_, E>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        second_order::run(
            problem,
            inputs,
            saved,
            directions,
            saved_tangent,
            cotangent,
            cotangent_tangent,
            outputs,
        )
    }
}
