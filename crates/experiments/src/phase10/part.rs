//! The parts of the phase, and what a row of each has.

use std::fmt;
use std::str::FromStr;

use theria_contract::Error;

use crate::maml::TaskName;

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Meta-gradients against an independent system.
    Gradients,
    /// What the first order leaves out.
    RelDiff,
    /// Long loops.
    Depth,
    /// Time and memory.
    Timings,
    /// Trainings of a memory that is written by gradients.
    KeyValue,
    /// Trainings on sine waves.
    Sinusoid,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Gradients, Self::RelDiff, Self::Depth, Self::Timings, Self::KeyValue, Self::Sinusoid];

    /// The name on the command line and in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gradients => "gradients",
            Self::RelDiff => "rel-diff",
            Self::Depth => "depth",
            Self::Timings => "timings",
            Self::KeyValue => "key-value",
            Self::Sinusoid => "sinusoid",
        }
    }

    /// The tasks of a training.
    pub fn task(self) -> Option<TaskName> {
        match self {
            Self::KeyValue => Some(TaskName::KeyValue),
            Self::Sinusoid => Some(TaskName::Sinusoid),
            Self::Gradients | Self::RelDiff | Self::Depth | Self::Timings => None,
        }
    }

    /// What two rows of the same measurement have in common, beside backend, type and machine. A row has all of these.
    pub fn identity(self) -> &'static [&'static str] {
        match self {
            Self::Gradients => &["optimiser", "mode"],
            Self::RelDiff | Self::Depth => &["steps", "inner_rate", "seed"],
            Self::Timings => &["shape", "steps"],
            Self::KeyValue | Self::Sinusoid => {
                &["mode", "seed", "steps", "inner_rate", "outer_rate", "evaluated"]
            }
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|part| part.name() == name).ok_or_else(|| Error::UnknownName {
            what: "part",
            given: name.into(),
            allowed: "gradients, rel-diff, depth, timings, key-value, sinusoid",
        })
    }
}
