//! The launches that rules are made of.

use std::fmt;

use serde::{Deserialize, Serialize};
use theria_contract::{DType, Problem, Rule};

/// A launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "part", content = "order", rename_all = "lowercase")]
pub enum Part {
    /// O′ and μ.
    Jvp,
    /// What backward and second order know of each query before they sweep.
    Statistics(Order),
    /// dQ, or its tangent.
    Queries(Order),
    /// dK and dV, or their tangents.
    Keys(Order),
    /// dBias, or its tangent.
    Bias(Order),
}

impl Part {
    /// The sweeps of a rule, in their order; that of the bias where its gradient is wanted.
    pub(crate) fn sweeps_of(rule: Rule) -> &'static [Self] {
        use Order::{First, Second};
        match rule {
            Rule::Forward => &[],
            Rule::Backward => &[Self::Queries(First), Self::Keys(First), Self::Bias(First)],
            Rule::Jvp => &[Self::Jvp],
            Rule::SecondOrder => &[Self::Queries(Second), Self::Keys(Second), Self::Bias(Second)],
        }
    }

    /// Of which derivative; the JVP is of none.
    pub(crate) fn order(self) -> Option<Order> {
        match self {
            Self::Jvp => None,
            Self::Statistics(order) | Self::Queries(order) | Self::Keys(order) | Self::Bias(order) => {
                Some(order)
            }
        }
    }

    /// The rule that it is a launch of.
    pub fn rule(self) -> Rule {
        match self.order() {
            None => Rule::Jvp,
            Some(Order::First) => Rule::Backward,
            Some(Order::Second) => Rule::SecondOrder,
        }
    }

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jvp => "jvp",
            Self::Statistics(_) => "statistics",
            Self::Queries(_) => "queries",
            Self::Keys(_) => "keys",
            Self::Bias(_) => "bias",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.order() {
            None => f.write_str(self.name()),
            Some(order) => write!(f, "{} of order {}", self.name(), order.number()),
        }
    }
}

/// Which derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// That of the backward.
    First,
    /// That of the second order.
    Second,
}

impl Order {
    /// As kernels count it.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::First => 1,
            Self::Second => 2,
        }
    }
}

/// What is known of each query, as it lies in the scratch: `Record` of rules.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Records {
    /// Records of a head: its queries, and as many more as a last tile may read.
    pub(crate) padded: usize,
    /// Bytes of one.
    record: usize,
    heads: usize,
}

impl Records {
    /// Queries that a tile may have beyond the last one: it begins at a multiple of sixteen, before the last.
    const BEYOND: usize = 128;

    /// Those of a problem. FACTORED: whether they have the factor that takes the rounding of lse out.
    pub(crate) fn of(problem: &Problem, order: Order, factored: bool) -> Self {
        let shape = problem.shape();
        let sum = if problem.dtype() == DType::F64 { 8 } else { 4 };
        let numbers = order.number() as usize * if factored { 4 } else { 2 };
        Self {
            padded: shape.t.next_multiple_of(16) + Self::BEYOND,
            record: numbers * sum,
            heads: shape.batch.saturating_mul(shape.heads_q),
        }
    }

    /// Bytes of all.
    pub(crate) fn bytes(&self) -> usize {
        self.padded.saturating_mul(self.record).saturating_mul(self.heads).min(usize::MAX >> 8)
    }
}
