//! Two linear maps that both call themselves the derivative of attention.
//!
//! ```text
//! exact           P′ = P ∘ (S′ - μ)     μ = rowsum(P ∘ S′)     dS = P ∘ (dP - δ)
//! frozen stats    P′ = P ∘ S′                                   dS = P ∘ dP
//! ```
//!
//! The centring term -μ is the derivative of the logarithm of the row sum. An implementation that
//! rebuilds P from a saved `lse` and keeps the term is exact: saving a statistic is no approximation.
//! One that treats the saved statistic as a constant drops the term, and is another map: about a fifth
//! away on random inputs, and as linear, as adjoint to its own backward and as symmetric as the first.

use std::fmt;

use theria_contract::{Attention, Element, Problem, Result, Rule, Support};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Linearisation {
    /// The derivative.
    Exact,
    /// Row maximum and row sum held constant. Experiments only: every composition refuses it.
    FrozenStats,
}

impl Linearisation {
    /// Both, the derivative first.
    pub const ALL: [Self; 2] = [Self::Exact, Self::FrozenStats];

    /// The name in reports, which is that of the support.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::FrozenStats => "frozen-stats",
        }
    }

    /// The map that a backend says it computes; none if it computes nothing.
    pub fn of(support: &Support) -> Option<Self> {
        match support {
            Support::Exact => Some(Self::Exact),
            Support::FrozenStats => Some(Self::FrozenStats),
            Support::Refused(_) => None,
        }
    }
}

impl fmt::Display for Linearisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Passes if every one of the rules is the derivative, and refuses with the first reason otherwise:
/// what a production path asks before it computes anything.
pub fn require_exact<E, A>(attention: &A, problem: &Problem, rules: &[Rule]) -> Result<()>
where
    E: Element,
    A: Attention<E>,
{
    rules.iter().try_for_each(|rule| attention.require_exact(problem, *rule))
}

#[cfg(test)]
mod tests {
    use theria_contract::Refusal;

    use super::*;

    #[test]
    fn a_linearisation_is_named_as_the_support_that_announces_it() {
        for (support, linearisation) in
            [Support::Exact, Support::FrozenStats].into_iter().zip(Linearisation::ALL)
        {
            assert_eq!(Linearisation::of(&support), Some(linearisation));
            assert_eq!(support.to_string(), linearisation.to_string());
        }
        assert_eq!(Linearisation::of(&Support::Refused(Refusal::Opaque)), None);
    }
}
