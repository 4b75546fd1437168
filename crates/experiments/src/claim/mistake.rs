//! For every proof, an operator that it must reject.
//!
//! Most are the variants of [`theria_jvp_hvp::variant`]. Two mistakes lie outside an operator: dropout
//! that is drawn anew at every call, and a gradient that somebody scales.

use std::cell::Cell;

use theria_contract::{Error, Problem};
use theria_jvp_hvp::proof::{Answer, AttentionClaim, Block, Claim, Finding, Gap, Point, Proof};
use theria_jvp_hvp::variant::{Variant, Varied};

use super::Evaluated;
use crate::backend::Backend;

/// How far the gradient of [`Mistake::ScaledGradient`] is off.
const SCALED: f64 = 1.001;

/// An operator that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// One of the variants.
    Variant(Variant),
    /// The backward is a tenth of a percent too large.
    ScaledGradient,
    /// Every call draws other dropout weights: there is no function to differentiate.
    RedrawnEachCall,
}

impl Mistake {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Variant(variant) => variant.name(),
            Self::ScaledGradient => "gradient-off-by-0.1%",
            Self::RedrawnEachCall => "redrawn-each-call",
        }
    }

    /// What is wrong, in a line.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Variant(variant) => variant.summary(),
            Self::ScaledGradient => "the backward is too large by 1e-3 of itself",
            Self::RedrawnEachCall => "every call draws other dropout weights",
        }
    }

    /// What `proof` finds about it.
    pub fn examine(self, proof: Proof, oracle: &Evaluated, point: &Point) -> Finding {
        match self {
            Self::Variant(variant) => {
                let varied = Varied::new(variant);
                proof.run_against(&AttentionClaim::new(&varied, oracle.problem()), oracle, point)
            }
            Self::ScaledGradient => proof.run_against(&ScaledGradient(oracle), oracle, point),
            Self::RedrawnEachCall => {
                proof.run_against(&RedrawnEachCall { right: oracle, calls: Cell::new(0) }, oracle, point)
            }
        }
    }
}

/// The mistake that a proof must reject: one that nearly everything else lets pass, where there is one.
pub fn control(proof: Proof) -> Mistake {
    let variant = match proof {
        Proof::ValueOrder | Proof::Repeatability => return Mistake::RedrawnEachCall,
        Proof::VjpOrder => return Mistake::ScaledGradient,
        Proof::JvpOrder => Variant::FrozenStats,
        Proof::SecondOrder => Variant::FrozenLse,
        Proof::GradientOrder => Variant::MissingValueTangent,
        Proof::Adjoint => Variant::DqWrongBy1e4,
        Proof::Symmetry => Variant::FrozenDelta,
        Proof::Linearity => Variant::SumLossOnly,
        Proof::CotangentTangent => Variant::MissingCotangentTangent,
        Proof::Invariance => Variant::FrozenBoth,
        Proof::CentralDifference => Variant::OnceDifferentiable,
        Proof::Agreement => Variant::DqWrongBy1e6,
    };
    Mistake::Variant(variant)
}

/// Value and backward of a right operator, the backward scaled.
struct ScaledGradient<'a>(&'a Evaluated);

impl Claim for ScaledGradient<'_> {
    type Error = Error;

    fn outputs(&self) -> usize {
        self.0.outputs()
    }

    fn value(&self, x: &[f64]) -> Answer<Error> {
        self.0.value(x)
    }

    fn vjp(&self, x: &[f64], u: &[f64]) -> Answer<Error> {
        Ok(self.0.vjp(x, u)?.into_iter().map(|entry| SCALED * entry).collect())
    }

    fn blocks(&self) -> Vec<Block> {
        self.0.blocks()
    }
}

/// The value of a right operator whose dropout changes from call to call.
struct RedrawnEachCall<'a> {
    right: &'a Evaluated,
    calls: Cell<u64>,
}

impl RedrawnEachCall<'_> {
    fn next(&self) -> Result<Problem, Error> {
        let call = self.calls.get() + 1;
        self.calls.set(call);
        let problem = self.right.problem();
        let p = problem.dropout().map_or(0.5, |dropout| dropout.p());
        problem.to_builder().dropout(p, call).build()
    }
}

impl Claim for RedrawnEachCall<'_> {
    type Error = Error;

    fn outputs(&self) -> usize {
        self.right.outputs()
    }

    fn value(&self, x: &[f64]) -> Answer<Error> {
        Evaluated::new(Backend::ORACLE, &self.next().map_err(Gap::Failed)?).value(x)
    }
}
