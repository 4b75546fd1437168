//! Operators that are wrong on purpose, each in one way, as real software has been wrong.
//!
//! A proof of a derivative is worth what it catches. Each [`Variant`] is what an automatic
//! differentiation system computes when one part of attention is detached from it, or what a person
//! gets who makes one known mistake. All forwards are right. The formulas below are to be held
//! against the exact rules ([`dense`](crate::dense)), which they change in one place.
//!
//! [`Varied`] is the backend. It claims `Support::Exact` for everything, as the software
//! did whose mistakes it repeats: finding out is the business of proofs. Only
//! [`Variant::FrozenStats`], which is a linearisation with a name of its own, says what it is.
//!
//! No rule relies on what another one made: the second order rebuilds μ instead of reading it from
//! the JVP, so that a wrong JVP is the only thing wrong with its variant.

mod backend;
mod head;
mod terms;

use std::fmt;
use std::str::FromStr;

use theria_contract::Error;

pub use backend::Varied;
use terms::{Softmax, Terms};

/// A way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Not wrong: the operator itself.
    Exact,
    /// The backward rebuilds `P = exp(S - lse)` from an `lse` that is detached:
    /// `P′ = P ∘ S′` in dS′ and dV′. δ is computed from the O that is not detached, so δ′ is right.
    FrozenLse,
    /// The backward reads a δ that is detached: `δ′ = 0`, so `dS′ = P′ ∘ (dP - δ) + P ∘ dP′`.
    FrozenDelta,
    /// Both: `dS′ = P ∘ S′ ∘ (dP - δ) + P ∘ dP′`, `dV′ = (P ∘ S′ ∘ Z)ᵀ G + (P ∘ Z)ᵀ G′`.
    FrozenBoth,
    /// The backward is opaque to the system that calls it, which takes its results for constants:
    /// `dQ′ = dK′ = dV′ = dBias′ = 0`, whatever G′ is.
    OnceDifferentiable,
    /// The forward divides by row statistics that are detached. JVP: `P′ = P ∘ S′`, and `lse′ = 0`.
    /// Backward, its transpose: `dS = P ∘ dP`. Second order, the derivative of that:
    /// `dS′ = P′ ∘ dP + P ∘ dP′`. Consistent in itself, with a symmetric Hessian.
    FrozenStats,
    /// The forward detaches the scores, so P is a constant. JVP: `O′ = (P ∘ Z) V′`, `lse′ = 0`.
    /// Backward: `dQ = dK = dBias = 0`, `dV = (P ∘ Z)ᵀ G`. Second order: `dV′ = (P ∘ Z)ᵀ G′`.
    DetachedLogits,
    /// The forward detaches O: every derivative is zero.
    DetachedOutput,
    /// dQ and dQ′ are too large by one in ten thousand, as after a slightly wrong scale.
    DqWrongBy1e4,
    /// dQ and dQ′ are too large by one in a million.
    DqWrongBy1e6,
    /// The second order takes G for a constant: `G′ = 0` in dP′, δ′ and dV′. Right for a loss that is
    /// linear in O, and for no other.
    MissingCotangentTangent,
    /// The second order forgets the second half of dP′: `dP′ = Z ∘ (G′ Vᵀ)`. δ′ is right, because it
    /// comes from O′.
    MissingValueTangent,
    /// The second order was derived for the loss `sum(O)`: G is all ones and G′ zero, whatever they are.
    SumLossOnly,
    /// The JVP is zero: `O′ = 0`, `lse′ = 0`. A tolerance above the size of O′ lets it pass.
    ZeroJvp,
    /// The JVP has the wrong sign. A comparison of norms lets it pass.
    NegatedJvp,
    /// The derivative rules draw Z with another seed than the forward: the right derivatives of
    /// another function. Right without dropout.
    RedrawnDropout,
}

impl Variant {
    /// All of them, the exact one first.
    pub const ALL: &[Self] = &[
        Self::Exact,
        Self::FrozenLse,
        Self::FrozenDelta,
        Self::FrozenBoth,
        Self::OnceDifferentiable,
        Self::FrozenStats,
        Self::DetachedLogits,
        Self::DetachedOutput,
        Self::DqWrongBy1e4,
        Self::DqWrongBy1e6,
        Self::MissingCotangentTangent,
        Self::MissingValueTangent,
        Self::SumLossOnly,
        Self::ZeroJvp,
        Self::NegatedJvp,
        Self::RedrawnDropout,
    ];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::FrozenLse => "frozen-lse",
            Self::FrozenDelta => "frozen-delta",
            Self::FrozenBoth => "frozen-both",
            Self::OnceDifferentiable => "once-differentiable",
            Self::FrozenStats => "frozen-stats",
            Self::DetachedLogits => "detached-logits",
            Self::DetachedOutput => "detached-output",
            Self::DqWrongBy1e4 => "dq-wrong-by-1e-4",
            Self::DqWrongBy1e6 => "dq-wrong-by-1e-6",
            Self::MissingCotangentTangent => "missing-cotangent-tangent",
            Self::MissingValueTangent => "missing-value-tangent",
            Self::SumLossOnly => "sum-loss-only",
            Self::ZeroJvp => "zero-jvp",
            Self::NegatedJvp => "negated-jvp",
            Self::RedrawnDropout => "redrawn-dropout",
        }
    }

    /// What is wrong, in a line.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Exact => "nothing is wrong",
            Self::FrozenLse => "the backward rebuilds P from a constant lse",
            Self::FrozenDelta => "the backward takes δ for a constant",
            Self::FrozenBoth => "the backward takes lse and δ for constants",
            Self::OnceDifferentiable => "the backward is opaque: its own derivative is zero",
            Self::FrozenStats => "the forward takes its row statistics for constants",
            Self::DetachedLogits => "the forward takes the scores for constants",
            Self::DetachedOutput => "the forward takes its output for a constant",
            Self::DqWrongBy1e4 => "dQ is too large by 1e-4 of itself",
            Self::DqWrongBy1e6 => "dQ is too large by 1e-6 of itself",
            Self::MissingCotangentTangent => "the second order ignores the tangent of the cotangent",
            Self::MissingValueTangent => "the second order forgets the tangent of V in dP′",
            Self::SumLossOnly => "the second order holds for the loss sum(O) only",
            Self::ZeroJvp => "the JVP is zero",
            Self::NegatedJvp => "the JVP has the wrong sign",
            Self::RedrawnDropout => "the derivative rules draw other dropout weights",
        }
    }

    /// What it keeps of the rules.
    fn terms(self) -> Terms {
        let exact = Terms::EXACT;
        match self {
            Self::Exact => exact,
            Self::FrozenLse => Terms { rebuilt: Softmax::Uncentred, ..exact },
            Self::FrozenDelta => Terms { delta_moves: false, ..exact },
            Self::FrozenBoth => Terms { rebuilt: Softmax::Uncentred, delta_moves: false, ..exact },
            Self::OnceDifferentiable => Terms { second_order: 0.0, ..exact },
            Self::FrozenStats => Terms { forward: Softmax::Uncentred, rebuilt: Softmax::Uncentred, ..exact },
            Self::DetachedLogits => Terms { forward: Softmax::Still, rebuilt: Softmax::Still, ..exact },
            Self::DetachedOutput => Terms { jvp: 0.0, backward: 0.0, second_order: 0.0, ..exact },
            Self::DqWrongBy1e4 => Terms { dq: 1.0 + 1e-4, ..exact },
            Self::DqWrongBy1e6 => Terms { dq: 1.0 + 1e-6, ..exact },
            Self::MissingCotangentTangent => Terms { cotangent_tangent: false, ..exact },
            Self::MissingValueTangent => Terms { value_tangent: false, ..exact },
            Self::SumLossOnly => Terms { second_reads_cotangent: false, cotangent_tangent: false, ..exact },
            Self::ZeroJvp => Terms { jvp: 0.0, ..exact },
            Self::NegatedJvp => Terms { jvp: -1.0, ..exact },
            Self::RedrawnDropout => Terms { same_dropout: false, ..exact },
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Variant {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.iter().copied().find(|variant| variant.name() == name).ok_or_else(|| Error::UnknownName {
            what: "variant",
            given: name.into(),
            allowed: "those of Variant::ALL",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variant_names_round_trip_and_differ() {
        for variant in Variant::ALL {
            assert_eq!(variant.name().parse::<Variant>().unwrap(), *variant);
        }
        assert!("right".parse::<Variant>().is_err());
    }

    #[test]
    fn every_variant_but_the_exact_one_keeps_something_else() {
        for (i, variant) in Variant::ALL.iter().enumerate() {
            for other in &Variant::ALL[..i] {
                assert_ne!(variant.terms(), other.terms(), "{variant} is {other}");
            }
        }
    }
}
