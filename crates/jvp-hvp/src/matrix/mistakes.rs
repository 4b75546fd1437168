//! Two mistakes that lie outside an operator: one between its calls, one in the hands of its caller.

use std::cell::Cell;

use theria_contract::{Attention, Error, Host, Problem};

use super::subject::{Subject, claim_on};
use crate::proof::{Answer, AttentionClaim, Block, Claim, Gap};

/// Dropout that is drawn anew at every call, as from a global generator. Within a call the rules
/// are right; there is no function that they are the derivatives of.
pub(super) struct RedrawnEachCall<'a, A> {
    attention: &'a A,
    subject: &'a Subject,
    calls: Cell<u64>,
}

impl<'a, A: Attention<f64, Storage = Host>> RedrawnEachCall<'a, A> {
    pub(super) fn new(subject: &'a Subject, attention: &'a A) -> Self {
        Self { attention, subject, calls: Cell::new(0) }
    }

    /// The problem of the next call.
    fn next(&self) -> Result<Problem, Gap<Error>> {
        let call = self.calls.get() + 1;
        self.calls.set(call);
        let problem = self.subject.problem();
        let dropout = problem.dropout().map_or(0.5, |dropout| dropout.p());
        problem.to_builder().dropout(dropout, call).build().map_err(Gap::Failed)
    }

    fn with(&self, rule: impl FnOnce(AttentionClaim<'_, A>) -> Answer<Error>) -> Answer<Error> {
        rule(claim_on(&self.next()?, self.attention).map_err(Gap::Failed)?)
    }
}

impl<A: Attention<f64, Storage = Host>> Claim for RedrawnEachCall<'_, A> {
    type Error = Error;

    fn outputs(&self) -> usize {
        self.subject.problem().shape().output().iter().product()
    }

    fn value(&self, x: &[f64]) -> Answer<Error> {
        self.with(|claim| claim.value(x))
    }

    fn jvp(&self, x: &[f64], v: &[f64]) -> Answer<Error> {
        self.with(|claim| claim.jvp(x, v))
    }

    fn vjp(&self, x: &[f64], u: &[f64]) -> Answer<Error> {
        self.with(|claim| claim.vjp(x, u))
    }

    fn second_order(&self, x: &[f64], v: &[f64], u: &[f64], u_tangent: Option<&[f64]>) -> Answer<Error> {
        self.with(|claim| claim.second_order(x, v, u, u_tangent))
    }

    fn blocks(&self) -> Vec<Block> {
        self.subject.claim(self.attention).map_or_else(|_| Vec::new(), |claim| claim.blocks())
    }

    fn invariant_directions(&self) -> Vec<Vec<f64>> {
        self.subject.claim(self.attention).map_or_else(|_| Vec::new(), |claim| claim.invariant_directions())
    }
}

/// Gradients that are cut to a length inside the backward, where a caller takes them for
/// derivatives. The second order is that of the gradient before the cut.
pub(super) struct Clipped<'a, C> {
    inner: &'a C,
}

impl<'a, C: Claim> Clipped<'a, C> {
    pub(super) fn new(inner: &'a C) -> Self {
        Self { inner }
    }
}

impl<C: Claim> Claim for Clipped<'_, C> {
    type Error = C::Error;

    fn outputs(&self) -> usize {
        self.inner.outputs()
    }

    fn value(&self, x: &[f64]) -> Answer<C::Error> {
        self.inner.value(x)
    }

    fn jvp(&self, x: &[f64], v: &[f64]) -> Answer<C::Error> {
        self.inner.jvp(x, v)
    }

    fn vjp(&self, x: &[f64], u: &[f64]) -> Answer<C::Error> {
        let gradient = self.inner.vjp(x, u)?;
        let length = gradient.iter().map(|entry| entry * entry).sum::<f64>().sqrt();
        Ok(gradient.into_iter().map(|entry| entry / length.max(1.0)).collect())
    }

    fn second_order(&self, x: &[f64], v: &[f64], u: &[f64], u_tangent: Option<&[f64]>) -> Answer<C::Error> {
        self.inner.second_order(x, v, u, u_tangent)
    }

    fn blocks(&self) -> Vec<Block> {
        self.inner.blocks()
    }

    fn invariant_directions(&self) -> Vec<Vec<f64>> {
        self.inner.invariant_directions()
    }
}
