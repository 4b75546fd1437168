//! What the suite found.

use std::fmt;

use super::Form;
use crate::judge::Output;
use crate::{DType, Rule};

/// How one output of one case was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within the bound.
    Passed,
    /// Beyond the bound, or not what `support` promised.
    Failed,
    /// Refused, as `support` said.
    Refused,
}

impl Verdict {
    /// The word in evidence files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// One row of a report.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case.
    pub case: &'static str,
    /// The form of the call.
    pub form: Form,
    /// The rule.
    pub rule: Rule,
    /// The output judged; `None` when the rule as a whole was refused or failed.
    pub output: Option<Output>,
    /// The backend.
    pub backend: &'static str,
    /// Its element type.
    pub dtype: DType,
    /// Error against the oracle.
    pub error: f64,
    /// The bound.
    pub bound: f64,
    /// The verdict.
    pub verdict: Verdict,
    /// Why it was refused or failed.
    pub reason: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let output = self.output.map_or("", Output::name);
        write!(f, "{} {} {} '{}'", self.backend, self.dtype, self.rule, self.case)?;
        if self.form != Form::EVERYTHING {
            write!(f, " ({})", self.form.name)?;
        }
        write!(
            f,
            " {output}: {} (error {:.2e}, bound {:.0e}) {}",
            self.verdict.name(),
            self.error,
            self.bound,
            self.reason
        )
    }
}

/// Everything that a run of the suite found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One row for each output judged and each rule refused.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// The rows with this verdict.
    pub fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(move |outcome| outcome.verdict == verdict)
    }

    /// How many rows have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.with(verdict).count()
    }

    /// The largest error among the rows that passed, for one rule.
    pub fn worst(&self, rule: Rule) -> Option<&Outcome> {
        self.with(Verdict::Passed)
            .filter(|outcome| outcome.rule == rule)
            .max_by(|a, b| (a.error / a.bound).total_cmp(&(b.error / b.bound)))
    }

    /// Adds the rows of another run.
    pub fn extend(&mut self, other: Self) {
        self.outcomes.extend(other.outcomes);
    }

    /// Panics with every failed row unless something passed and nothing failed.
    ///
    /// # Panics
    /// If a row failed, or none passed.
    pub fn assert_passed(&self) {
        let failed: Vec<String> = self.with(Verdict::Failed).map(ToString::to_string).collect();
        assert!(
            failed.is_empty(),
            "{} of {} rows failed:\n{}",
            failed.len(),
            self.outcomes.len(),
            failed.join("\n")
        );
        assert!(self.count(Verdict::Passed) > 0, "the suite judged nothing");
    }
}
