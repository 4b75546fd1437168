//! The four derivative rules, and what a backend says of each.

use std::fmt;
use std::str::FromStr;

use crate::{DType, Error};

/// A derivative rule. Double backward and reverse-over-forward are compositions of these four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// `(Q, K, V) → (O, lse)`.
    Forward,
    /// `G → (dQ, dK, dV)`: the pull-back of a cotangent.
    Backward,
    /// `(Q′, K′, V′) → (O′, lse′)`: the push-forward of a tangent.
    Jvp,
    /// `(Q′, K′, V′, G, G′) → (dQ′, dK′, dV′)`: the tangent of the backward.
    SecondOrder,
}

impl Rule {
    /// All four, in the order in which they build on each other.
    pub const ALL: [Self; 4] = [Self::Forward, Self::Backward, Self::Jvp, Self::SecondOrder];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Jvp => "jvp",
            Self::SecondOrder => "second-order",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Rule {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|rule| rule.name() == name).ok_or_else(|| Error::UnknownName {
            what: "rule",
            given: name.into(),
            allowed: "forward, backward, jvp, second-order",
        })
    }
}

/// What a backend vouches for, per problem and rule.
///
/// There is no fourth answer: a backend never falls back in silence and never returns a number that
/// it cannot vouch for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// The derivative itself, up to rounding.
    Exact,
    /// Another linear map: the row statistics are held constant. Experiments only.
    FrozenStats,
    /// Nothing: a call returns [`Error::Refused`] with this reason.
    Refused(Refusal),
}

impl Support {
    /// Whether the rule computes the true derivative.
    pub fn is_exact(&self) -> bool {
        matches!(self, Self::Exact)
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.pad("exact"),
            Self::FrozenStats => f.pad("frozen-stats"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

/// Why a backend refuses a rule on a problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The backend has no implementation of this rule.
    #[error("this backend does not implement the {0} rule")]
    RuleNotImplemented(Rule),
    /// Forward and backward of this backend are opaque: they run, and have no derivative of their own.
    #[error("this backend is opaque: its forward and backward run, but cannot be differentiated")]
    Opaque,
    /// The backend holds the row statistics constant; see [`Support::FrozenStats`].
    #[error(
        "this backend holds the row statistics constant, which is another linear map; only experiments may ask for it"
    )]
    FrozenStats,
    /// The element type is not served.
    #[error("element type {0} is not served")]
    ElementType(DType),
    /// A head dimension is out of the served range.
    #[error("head dimension {given} is not served (at most {largest})")]
    HeadDim {
        /// The dimension of the problem.
        given: usize,
        /// The largest dimension served.
        largest: usize,
    },
    /// A feature of the problem is not served.
    #[error("{0} is not served")]
    Feature(&'static str),
    /// The backend cannot run on this machine.
    #[error("not available here: {0}")]
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_names_round_trip_and_unknown_ones_are_refused() {
        for rule in Rule::ALL {
            assert_eq!(rule.name().parse::<Rule>().unwrap(), rule);
        }
        assert!("hvp".parse::<Rule>().is_err());
    }

    #[test]
    fn a_refusal_reads_as_a_sentence() {
        let support = Support::Refused(Refusal::RuleNotImplemented(Rule::Jvp));
        assert_eq!(support.to_string(), "refused: this backend does not implement the jvp rule");
        assert!(!support.is_exact());
    }
}
