//! What a proof found: a number, what the number may be, and a verdict.

use std::fmt::{self, Display};

use super::{Gap, Proof, Remainders};

/// What the measured number may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowed {
    /// At most this.
    AtMost(f64),
    /// Between these, both included.
    Between(f64, f64),
}

impl Allowed {
    /// Whether a number is allowed. NaN never is.
    pub fn admits(self, measured: f64) -> bool {
        match self {
            Self::AtMost(bound) => measured <= bound,
            Self::Between(low, high) => (low..=high).contains(&measured),
        }
    }
}

impl Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(0.0) => write!(f, "nothing"),
            Self::AtMost(bound) => write!(f, "at most {bound:e}"),
            Self::Between(low, high) => write!(f, "{low} to {high}"),
        }
    }
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The identity holds, and its terms are large enough to say so.
    Passed,
    /// The identity does not hold: a derivative is wrong.
    Failed,
    /// The identity says nothing here: its terms are zero, or below rounding, or a rule failed.
    Invalid(String),
    /// The claim has not got what the proof is about.
    NotApplicable(String),
}

impl Verdict {
    /// Whether the proof found a mistake.
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed)
    }

    /// Whether the proof holds.
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Passed)
    }
}

/// More than the number.
#[derive(Clone, Debug)]
pub enum Detail {
    /// There is no more.
    None,
    /// Steps and remainders, to be plotted.
    Remainders(Remainders),
    /// Where the number comes from, as in `k alone`.
    Where(String),
}

/// What one proof found about one claim at one point.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The proof.
    pub proof: Proof,
    /// The number, unless the proof does not apply or a rule failed.
    pub measured: Option<f64>,
    /// What the number may be.
    pub allowed: Allowed,
    /// The outcome.
    pub verdict: Verdict,
    /// More than the number.
    pub detail: Detail,
}

impl Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.proof.name())?;
        match &self.verdict {
            Verdict::Passed => write!(f, "passed")?,
            Verdict::Failed => write!(f, "failed")?,
            Verdict::Invalid(reason) => write!(f, "invalid ({reason})")?,
            Verdict::NotApplicable(reason) => write!(f, "not applicable ({reason})")?,
        }
        if let Some(measured) = self.measured {
            match self.allowed {
                Allowed::AtMost(_) => write!(f, ", measured {measured:.2e}")?,
                Allowed::Between(..) => write!(f, ", measured {measured:.4}")?,
            }
            write!(f, ", allowed {}", self.allowed)?;
        }
        match &self.detail {
            Detail::Where(place) => write!(f, ", in {place}"),
            Detail::None | Detail::Remainders(_) => Ok(()),
        }
    }
}

/// A number on its way to a finding.
#[derive(Debug)]
pub(super) struct Measurement {
    pub(super) measured: f64,
    pub(super) detail: Detail,
    /// Why the number says nothing, if it does not.
    pub(super) invalid: Option<String>,
}

impl Measurement {
    pub(super) fn new(measured: f64) -> Self {
        Self { measured, detail: Detail::None, invalid: None }
    }
}

/// The largest of several relative errors, each of which says how large its terms were.
#[derive(Debug, Default)]
pub(super) struct Worst {
    error: f64,
    place: Option<String>,
    /// Whether any comparison had terms that were not zero.
    spoke: bool,
}

impl Worst {
    /// Takes |difference| against the size of what was compared. A difference of nothing from
    /// nothing is no evidence; a difference without a size is infinitely wrong.
    pub(super) fn take(&mut self, difference: f64, size: f64, place: impl FnOnce() -> String) {
        if difference == 0.0 && size == 0.0 {
            return;
        }
        self.spoke = true;
        let error = difference / size;
        if self.error.is_nan() {
            return;
        }
        if error.is_nan() || error > self.error || self.place.is_none() {
            self.error = error;
            self.place = Some(place());
        }
    }

    pub(super) fn finish(self, nothing: &str) -> Measurement {
        Measurement {
            measured: self.error,
            detail: self.place.map_or(Detail::None, Detail::Where),
            invalid: (!self.spoke).then(|| nothing.to_owned()),
        }
    }
}

/// Why there is no number at all.
#[derive(Debug)]
pub(super) enum Obstacle {
    NotApplicable(String),
    Invalid(String),
}

impl<E: Display> From<Gap<E>> for Obstacle {
    fn from(gap: Gap<E>) -> Self {
        match gap {
            Gap::NotClaimed(reason) => Self::NotApplicable(reason),
            Gap::Failed(error) => Self::Invalid(format!("a rule failed: {error}")),
        }
    }
}

pub(super) type Measured = Result<Measurement, Obstacle>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_a_number_is_never_allowed() {
        assert!(Allowed::AtMost(1.0).admits(0.5) && !Allowed::AtMost(1.0).admits(2.0));
        assert!(Allowed::Between(1.0, 2.0).admits(1.0) && !Allowed::Between(1.0, 2.0).admits(2.5));
        assert!(!Allowed::AtMost(1.0).admits(f64::NAN) && !Allowed::Between(1.0, 2.0).admits(f64::NAN));
    }

    #[test]
    fn a_comparison_of_nothing_with_nothing_is_invalid_and_a_nan_stays() {
        let mut nothing = Worst::default();
        nothing.take(0.0, 0.0, || "a".into());
        assert_eq!(nothing.finish("zero").invalid.as_deref(), Some("zero"));

        let mut worst = Worst::default();
        worst.take(1.0, 4.0, || "a".into());
        worst.take(f64::NAN, 4.0, || "b".into());
        worst.take(2.0, 4.0, || "c".into());
        let measurement = worst.finish("zero");
        assert!(measurement.measured.is_nan() && measurement.invalid.is_none());
        assert!(matches!(measurement.detail, Detail::Where(place) if place == "b"));
    }
}
