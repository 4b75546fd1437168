//! What can be chosen by name: tasks, optimisers, and how much of the way is differentiated.

use std::fmt;
use std::str::FromStr;

use theria_contract::Error;
use theria_maml::meta::{Mode, Optimiser};

/// A family of tasks, with the model that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskName {
    /// Regression of sine waves by a network of two layers.
    Sinusoid,
    /// Classification of sequences that show a prototype in noise, by a small transformer.
    Prototypes,
    /// A memory written by gradients and read by one head of attention.
    KeyValue,
    /// Linear regression from a context that attention reads.
    LinearRegression,
    /// Few-shot classification of the images of a folder, by a small transformer over their patches.
    Images,
}

impl TaskName {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Sinusoid, Self::Prototypes, Self::KeyValue, Self::LinearRegression, Self::Images];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sinusoid => "sinusoid",
            Self::Prototypes => "prototypes",
            Self::KeyValue => "key-value",
            Self::LinearRegression => "linear-regression",
            Self::Images => "images",
        }
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for TaskName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|task| task.name() == name).ok_or_else(|| Error::UnknownName {
            what: "task",
            given: name.into(),
            allowed: "sinusoid, prototypes, key-value, linear-regression, images",
        })
    }
}

/// How much of the inner loop is differentiated, and through what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaMode {
    /// All of it.
    Full,
    /// Nothing of it.
    FirstOrder,
    /// Nothing of it, through attention that has no rule for more: the same bits, and what asks for more is refused.
    FirstOrderStrict,
    /// Its last steps, as many.
    Truncated(usize),
}

impl MetaMode {
    /// What a learner is asked for.
    pub fn mode(self) -> Mode {
        match self {
            Self::Full => Mode::Full,
            Self::FirstOrder | Self::FirstOrderStrict => Mode::FirstOrder,
            Self::Truncated(steps) => Mode::Truncated(steps),
        }
    }

    /// Whether rules beyond the backward are asked for.
    pub fn is_second_order(self) -> bool {
        matches!(self, Self::Full | Self::Truncated(1..))
    }
}

impl fmt::Display for MetaMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.pad("full"),
            Self::FirstOrder => f.pad("first-order"),
            Self::FirstOrderStrict => f.pad("first-order-strict"),
            Self::Truncated(steps) => write!(f, "truncated:{steps}"),
        }
    }
}

impl FromStr for MetaMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let truncated = || name.strip_prefix("truncated:")?.parse().ok().map(Self::Truncated);
        match name {
            "full" => Some(Self::Full),
            "first-order" => Some(Self::FirstOrder),
            "first-order-strict" => Some(Self::FirstOrderStrict),
            _ => truncated(),
        }
        .ok_or_else(|| Error::UnknownName {
            what: "mode",
            given: name.into(),
            allowed: "full, first-order, first-order-strict, truncated:R with a number R of steps",
        })
    }
}

/// An optimiser with its usual decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimiserName {
    /// Gradient descent.
    Sgd,
    /// Gradient descent with a velocity of which 0.9 is left in each step.
    Momentum,
    /// Adam as it is used nearly everywhere.
    Adam,
}

impl OptimiserName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sgd, Self::Momentum, Self::Adam];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sgd => "sgd",
            Self::Momentum => "momentum",
            Self::Adam => "adam",
        }
    }

    /// The optimiser.
    pub fn optimiser(self) -> Optimiser {
        match self {
            Self::Sgd => Optimiser::Sgd,
            Self::Momentum => Optimiser::Momentum { decay: 0.9 },
            Self::Adam => Optimiser::ADAM,
        }
    }
}

impl fmt::Display for OptimiserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for OptimiserName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|optimiser| optimiser.name() == name).ok_or_else(|| Error::UnknownName {
            what: "optimiser",
            given: name.into(),
            allowed: "sgd, momentum, adam",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for task in TaskName::ALL {
            assert_eq!(task.to_string().parse::<TaskName>().unwrap(), task);
        }
        for optimiser in OptimiserName::ALL {
            assert_eq!(optimiser.to_string().parse::<OptimiserName>().unwrap(), optimiser);
        }
        let modes = [
            MetaMode::Full,
            MetaMode::FirstOrder,
            MetaMode::FirstOrderStrict,
            MetaMode::Truncated(0),
            MetaMode::Truncated(12),
        ];
        for mode in modes {
            assert_eq!(mode.to_string().parse::<MetaMode>().unwrap(), mode);
        }
        for wrong in ["truncated", "truncated:", "truncated:-1", "Full", ""] {
            let error = wrong.parse::<MetaMode>().unwrap_err().to_string();
            assert!(error.contains("truncated:R") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_truncation_to_no_step_needs_no_second_order() {
        assert!(MetaMode::Full.is_second_order() && MetaMode::Truncated(1).is_second_order());
        assert!(!MetaMode::Truncated(0).is_second_order() && !MetaMode::FirstOrderStrict.is_second_order());
    }
}
