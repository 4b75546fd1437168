//! The backend: one evaluation of the rules, which reads what its variant keeps.

use theria_contract::{
    Attention, Cotangent, Directions, Host, Inputs, Primal, Problem, Qkv, Result, Rule, SavedView,
    SavedViewMut, SecondOrder, Support, Tangent, TensorView, TensorViewMut, Workspace,
};
use theria_reference::dense::GradientSums;
use theria_reference::dense::head::{indices, write_with_rest};

use super::Variant;
use super::head::{Head, HeadGradients, ones};

/// A dense backend in binary64 that is wrong in one way.
///
/// ```
/// use theria_contract::{Attention, DType, Problem, Rule, Support};
/// use theria_jvp_hvp::variant::{Varied, Variant};
///
/// let problem = Problem::builder(DType::F64).build()?;
/// let liar = Varied::new(Variant::FrozenLse);
/// assert_eq!(liar.support(&problem, Rule::SecondOrder), Support::Exact);
/// let honest = Varied::new(Variant::FrozenStats);
/// assert_eq!(honest.support(&problem, Rule::SecondOrder), Support::FrozenStats);
/// # Ok::<(), theria_contract::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Varied {
    /// In which way.
    pub variant: Variant,
}

impl Varied {
    /// The backend that is wrong in this way.
    pub fn new(variant: Variant) -> Self {
        Self { variant }
    }

    /// The problem as the derivative rules see it.
    fn differentiated(self, problem: &Problem) -> Result<Problem> {
        match problem.dropout() {
            Some(dropout) if !self.variant.terms().same_dropout => {
                problem.to_builder().dropout(dropout.p(), !dropout.seed()).build()
            }
            _ => Ok(problem.clone()),
        }
    }

    /// Sums over all heads what `of_head` makes of each.
    fn sum(
        self,
        problem: &Problem,
        inputs: &Inputs<'_, Host, f64>,
        saved: SavedView<'_, Host, f64>,
        mut gradients: Qkv<TensorViewMut<'_, f64>>,
        of_head: impl Fn(&Head<'_>) -> HeadGradients,
    ) -> Result<()> {
        if problem.shape().is_empty() {
            gradients.as_mut().named().for_each(|(_, gradient)| gradient.fill(0.0));
            return Ok(());
        }
        let mut sums = GradientSums::new(problem, gradients)?;
        for index in indices(problem, inputs)? {
            let head = Head::new(self.variant.terms(), problem, inputs, saved.lse, index);
            let HeadGradients { q, k, v, scores } = of_head(&head);
            sums.add(index, q.as_ref(), k.as_ref(), v.as_ref(), scores.as_ref());
        }
        sums.finish();
        Ok(())
    }
}

impl Attention<f64> for Varied {
    type Storage = Host;

    fn name(&self) -> &'static str {
        self.variant.name()
    }

    fn storage(&self) -> &Host {
        &Host
    }

    fn support(&self, _problem: &Problem, rule: Rule) -> Support {
        match (self.variant, rule) {
            (Variant::FrozenStats, Rule::Backward | Rule::Jvp | Rule::SecondOrder) => Support::FrozenStats,
            _ => Support::Exact,
        }
    }

    fn workspace_bytes(&self, _problem: &Problem, _rule: Rule) -> usize {
        0
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, f64>>,
        saved: Primal<SavedViewMut<'_, Host, f64>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        theria_reference::Dense::new().forward_kernel(problem, inputs, saved, workspace)
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, f64>>,
        Primal(saved): Primal<SavedView<'_, Host, f64>>,
        Cotangent(g): Cotangent<TensorView<'_, f64>>,
        Cotangent(gradients): Cotangent<Qkv<TensorViewMut<'_, f64>>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        let problem = self.differentiated(problem)?;
        self.sum(&problem, inputs, saved, gradients, |head| head.backward(&head.of_output(g)))
    }

    fn jvp_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, f64>>,
        Primal(saved): Primal<SavedView<'_, Host, f64>>,
        Tangent(directions): Tangent<Directions<TensorView<'_, f64>>>,
        Tangent(mut saved_tangent): Tangent<SavedViewMut<'_, Host, f64>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        if problem.shape().is_empty() {
            return Ok(());
        }
        let problem = self.differentiated(problem)?;
        let terms = self.variant.terms();
        for index in indices(&problem, inputs)? {
            let head = Head::new(terms, &problem, inputs, saved.lse, index);
            let along = head.direction(&directions);
            let output = faer::Scale(terms.jvp) * head.output_tangent(&along);
            write_with_rest(&mut saved_tangent, index.batch, index.q, output.as_ref());
            for i in 0..problem.shape().t {
                let lse = terms.jvp * head.lse_tangent(&along, i);
                saved_tangent.lse.set([index.batch, index.q, i, 0], lse);
            }
        }
        Ok(())
    }

    fn second_order_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, f64>>,
        saved: Primal<SavedView<'_, Host, f64>>,
        Tangent(directions): Tangent<Directions<TensorView<'_, f64>>>,
        _saved_tangent: Tangent<SavedView<'_, Host, f64>>,
        g: Cotangent<TensorView<'_, f64>>,
        g_tangent: Option<Tangent<Cotangent<TensorView<'_, f64>>>>,
        SecondOrder { tangent: Tangent(Cotangent(tangent)), first }: SecondOrder<TensorViewMut<'_, f64>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        if let Some(first) = first {
            self.backward_kernel(problem, inputs, saved, g, first, workspace)?;
        }
        let problem = self.differentiated(problem)?;
        let ones = ones(&problem)?;
        let g = if self.variant.terms().second_reads_cotangent { g.0 } else { ones.view() };
        self.sum(&problem, inputs.0, saved.0, tangent, |head| {
            let g_tangent = g_tangent.map(|Tangent(Cotangent(view))| head.of_output(view));
            head.second_order(&head.direction(&directions), &head.of_output(g), g_tangent.as_ref())
        })
    }
}
