//! A sound backend, and a mistake around it.

use std::cell::Cell;

use super::Fault;
use super::traces::{self, Before, packed};
use crate::{
    Attention, Causal, Checks, Cotangent, Directions, Element, Error, Host, Inputs, Primal, Problem, Qkv,
    Refusal, Result, Rule, SavedView, SavedViewMut, SecondOrder, Support, Tangent, Tensor, TensorView,
    TensorViewMut, Workspace, reborrow_saved,
};

/// A backend on the host with a mistake in it.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    fault: Fault,
    calls: Cell<u32>,
}

impl<B> Faulty<B> {
    /// Puts a mistake into a backend that has none.
    pub fn new(inner: B, fault: Fault) -> Self {
        Self { inner, fault, calls: Cell::new(0) }
    }

    /// The problem that a mistaken backend believes it was given.
    fn believed(&self, problem: &Problem) -> Problem {
        let builder = problem.to_builder();
        let builder = match (self.fault, problem.causal(), problem.dropout()) {
            (Fault::WrongCausalCorner, Causal::TopLeft, _) => builder.causal(Causal::BottomRight),
            (Fault::WrongCausalCorner, Causal::BottomRight, _) => builder.causal(Causal::TopLeft),
            (Fault::WindowTooWide, ..) => {
                let mut window = problem.window();
                window.left = window.left.map(|left| left + 1);
                builder.window(window)
            }
            (Fault::WrongDropoutSeed, _, Some(dropout)) => {
                builder.dropout(dropout.p(), dropout.seed() ^ 1 << 40)
            }
            (Fault::ScaleMadePositive, ..) => builder.scale(problem.scale().abs()),
            (Fault::LengthsIgnored, ..) => builder.without_key_lengths(),
            (Fault::BiasIgnored, ..) => builder.without_bias(),
            (Fault::MaskIgnored, ..) => builder.without_mask(),
            _ => builder,
        };
        builder.build().expect("a valid problem with one thing changed")
    }

    /// The inputs that it looks at.
    fn seen<'a, E: Element>(&self, inputs: &Inputs<'a, Host, E>) -> Inputs<'a, Host, E> {
        let mut seen = *inputs;
        match self.fault {
            Fault::LengthsIgnored => seen.key_lengths = None,
            Fault::BiasIgnored => seen.bias = None,
            Fault::MaskIgnored => seen.mask = None,
            Fault::StridesIgnored => seen.q = packed(inputs.q),
            _ => {}
        }
        seen
    }

    /// What it reads of the forward's results.
    fn read<'a, E: Element>(
        &self,
        Primal(mut saved): Primal<SavedView<'a, Host, E>>,
    ) -> Primal<SavedView<'a, Host, E>> {
        if self.fault == Fault::StatisticStridesIgnored {
            saved.lse = packed(saved.lse);
        }
        Primal(saved)
    }

    /// The directions that it looks at, as the JVP or as the second order.
    fn followed<'a, E: Element>(
        &self,
        rule: Rule,
        q: TensorView<'a, E>,
        Tangent(directions): Tangent<Directions<TensorView<'a, E>>>,
    ) -> Tangent<Directions<TensorView<'a, E>>> {
        let mut followed = directions;
        match (self.fault, rule) {
            (Fault::ValueTangentIgnored, Rule::Jvp)
            | (Fault::SecondOrderIgnoresValueTangent, Rule::SecondOrder) => followed.v = None,
            (Fault::BiasTangentIgnored | Fault::BiasIgnored, _) => followed.bias = None,
            (Fault::TangentStridesIgnored, _) => followed.k = directions.k.map(packed),
            (Fault::AbsentTangentTakenForPrimal, _) => followed.q = directions.q.or(Some(q)),
            _ => {}
        }
        Tangent(followed)
    }

    /// The gradients that it is left to write: of a bias that it does not see it knows none.
    fn written<'a, E: Element>(
        &self,
        gradients: &'a mut Qkv<TensorViewMut<'_, E>>,
    ) -> Qkv<TensorViewMut<'a, E>> {
        let mut lent = gradients.as_mut().map(TensorViewMut::reborrow);
        if self.fault == Fault::BiasIgnored
            && let Some(mut dbias) = lent.bias.take()
        {
            dbias.fill(E::default());
        }
        lent
    }
}

impl<E: Element, B: Attention<E, Storage = Host>> Attention<E> for Faulty<B> {
    type Storage = Host;

    fn name(&self) -> &'static str {
        "faulty"
    }

    fn storage(&self) -> &Host {
        &Host
    }

    fn checks(&self) -> Checks {
        self.inner.checks()
    }

    fn support(&self, problem: &Problem, rule: Rule) -> Support {
        match (self.fault, rule) {
            (Fault::ClaimsTooMuch, Rule::Backward) | (Fault::ClaimsSecondOrder, Rule::SecondOrder) => {
                Support::Exact
            }
            (Fault::ClaimsTooLittle, Rule::Backward)
            | (Fault::SecondOrderWithoutJvp, Rule::Jvp)
            | (Fault::RefusesForAnotherReason, Rule::SecondOrder) => Support::Refused(Refusal::Opaque),
            _ => self.inner.support(problem, rule),
        }
    }

    /// What it does, which a mistaken backend does not say.
    fn require(&self, problem: &Problem, rule: Rule) -> Result<()> {
        let refuse = |reason| Err(Error::Refused { backend: "faulty", rule, reason });
        match (self.fault, rule) {
            (Fault::ClaimsTooMuch, Rule::Backward)
            | (Fault::ClaimsSecondOrder, Rule::SecondOrder)
            | (Fault::SecondOrderWithoutJvp, Rule::Jvp) => refuse(Refusal::Opaque),
            (Fault::RefusesForAnotherReason, Rule::SecondOrder) => {
                refuse(Refusal::RuleNotImplemented(Rule::SecondOrder))
            }
            _ => self.inner.require(problem, rule),
        }
    }

    /// Some for every rule, so that there is something to read by mistake.
    fn workspace_bytes(&self, problem: &Problem, rule: Rule) -> usize {
        self.inner.workspace_bytes(problem, rule).max(Workspace::bytes_for::<u8>(1))
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        Primal(mut saved): Primal<SavedViewMut<'_, Host, E>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.calls.set(self.calls.get() + 1);
        let before = Before {
            output: saved.output.view().to_tensor(),
            garbage: workspace.arena().take::<u8>(1)[0],
            even: self.calls.get().is_multiple_of(2),
        };
        let lent = Primal(reborrow_saved::<Host, E>(&mut saved));
        let seen = inputs.map(|inputs| self.seen(inputs));
        self.inner.forward_kernel(&self.believed(problem), seen.as_ref(), lent, workspace)?;
        traces::in_saved(self.fault, problem, &before, &mut saved);
        Ok(())
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedView<'_, Host, E>>,
        cotangent: Cotangent<TensorView<'_, E>>,
        mut gradients: Cotangent<Qkv<TensorViewMut<'_, E>>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let seen = inputs.map(|inputs| self.seen(inputs));
        self.inner.backward_kernel(
            &self.believed(problem),
            seen.as_ref(),
            self.read(saved),
            cotangent,
            Cotangent(self.written(&mut gradients.0)),
            workspace,
        )?;
        traces::in_gradients(self.fault, problem.bias().is_some(), &mut gradients)
    }

    fn jvp_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedView<'_, Host, E>>,
        directions: Tangent<Directions<TensorView<'_, E>>>,
        mut saved_tangent: Tangent<SavedViewMut<'_, Host, E>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let seen = inputs.map(|inputs| self.seen(inputs));
        let lent = saved_tangent.as_mut().map(reborrow_saved::<Host, E>);
        self.inner.jvp_kernel(
            &self.believed(problem),
            seen.as_ref(),
            self.read(saved),
            self.followed(Rule::Jvp, inputs.0.q, directions),
            lent,
            workspace,
        )?;
        traces::in_saved_tangent(self.fault, &saved.0, &mut saved_tangent)
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
        mut outputs: SecondOrder<TensorViewMut<'_, E>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let seen = inputs.map(|inputs| self.seen(inputs));
        let no_output = Tensor::<E>::zeros(saved_tangent.0.output.shape())?;
        let no_mu = Tensor::<E::Acc>::zeros(saved_tangent.0.lse.shape())?;
        let mut tangent = saved_tangent.0;
        match self.fault {
            Fault::FrozenSecondOrder => tangent.lse = no_mu.view(),
            Fault::OutputTangentIgnored => tangent.output = no_output.view(),
            _ => {}
        }
        let cotangent_tangent = match self.fault {
            Fault::CotangentTangentIgnored => None,
            Fault::AbsentCotangentTangentTakenForCotangent => cotangent_tangent.or(Some(Tangent(cotangent))),
            _ => cotangent_tangent,
        };
        let lent = SecondOrder {
            tangent: Tangent(Cotangent(self.written(&mut outputs.tangent.0.0))),
            first: outputs.first.as_mut().map(|first| Cotangent(self.written(&mut first.0))),
        };
        self.inner.second_order_kernel(
            &self.believed(problem),
            seen.as_ref(),
            self.read(saved),
            self.followed(Rule::SecondOrder, inputs.0.q, directions),
            Tangent(tangent),
            cotangent,
            cotangent_tangent,
            lent,
            workspace,
        )?;
        traces::in_second_order(self.fault, &mut outputs)
    }
}
