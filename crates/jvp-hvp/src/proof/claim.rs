//! A function with the derivatives that somebody claims for it.

use std::convert::Infallible;
use std::fmt::Display;
use std::ops::Range;

/// Why a claim gives no numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap<E> {
    /// The claim does not include this rule, with a reason for the reader.
    NotClaimed(String),
    /// The rule is claimed, and failed.
    Failed(E),
}

impl<E> Gap<E> {
    /// A rule that is not part of the claim.
    pub fn not_claimed(rule: &str) -> Self {
        Self::NotClaimed(format!("no {rule} is claimed"))
    }
}

/// The numbers of a rule, or why there are none.
pub type Answer<E = Infallible> = Result<Vec<f64>, Gap<E>>;

/// A named part of the inputs, proved alone as well as with the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The name, as in findings.
    pub name: String,
    /// Where it lies in x.
    pub range: Range<usize>,
}

impl Block {
    /// A part of the inputs.
    pub fn new(name: impl Into<String>, range: Range<usize>) -> Self {
        Self { name: name.into(), range }
    }
}

/// A function f: Rⁿ → Rᵐ and its claimed derivatives. A rule that is left out is not claimed, and
/// the proofs that need it say that they do not apply.
pub trait Claim {
    /// What a rule fails with.
    type Error: Display;

    /// m, the number of outputs.
    fn outputs(&self) -> usize;

    /// f(x).
    fn value(&self, x: &[f64]) -> Answer<Self::Error>;

    /// J v, claimed.
    fn jvp(&self, _x: &[f64], _v: &[f64]) -> Answer<Self::Error> {
        Err(Gap::not_claimed("JVP"))
    }

    /// Jᵀ u, claimed: the gradient g of φ = ⟨u, f⟩.
    fn vjp(&self, _x: &[f64], _u: &[f64]) -> Answer<Self::Error> {
        Err(Gap::not_claimed("VJP"))
    }

    /// The tangent of Jᵀ u when x moves along v and u along `u_tangent`, claimed. Without
    /// `u_tangent` it is H v, with H the Hessian of φ = ⟨u, f⟩.
    fn second_order(
        &self,
        _x: &[f64],
        _v: &[f64],
        _u: &[f64],
        _u_tangent: Option<&[f64]>,
    ) -> Answer<Self::Error> {
        Err(Gap::not_claimed("second order"))
    }

    /// Parts of the inputs that are also proved each alone.
    fn blocks(&self) -> Vec<Block> {
        Vec::new()
    }

    /// Directions w with f(x + w) = f(x) for every x.
    fn invariant_directions(&self) -> Vec<Vec<f64>> {
        Vec::new()
    }
}
