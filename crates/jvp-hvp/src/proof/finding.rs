//! What a proof found: a number, what the number may be, and a verdict.

use std::collections::BTreeSet;
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

/// Numbers below this many roundings of the scale are no signal, as in [`Remainders`].
const NO_SIGNAL: f64 = 1e3 * f64::EPSILON;

/// A difference below this many roundings of the scale may be made of them. A tenth of the
/// strictest bound: a comparison at the size of its scale is never drowned.
const ROUNDING: f64 = 50.0 * f64::EPSILON;

/// The largest of several relative errors |difference| / size.
///
/// Each comes with a scale: the size of what was summed, or of the whole of which the compared
/// numbers are a part. What should be zero is rounding of that scale, and the relative error of
/// rounding is 1. So a comparison is no evidence, for or against, where
///
/// ```text
/// difference, size ≤ 1e3 ε · scale                      nothing is compared with nothing, or
/// bound · size < difference ≤ 50 ε · scale              rounding alone may be the difference
/// ```
///
/// A proof in which no comparison is evidence is invalid, and places in which none was are named.
#[derive(Debug)]
pub(super) struct Worst {
    bound: f64,
    error: f64,
    place: Option<String>,
    spoken: BTreeSet<String>,
    silent: BTreeSet<String>,
}

impl Worst {
    /// Of a proof that bounds a relative error.
    pub(super) fn of(proof: Proof) -> Self {
        let bound = match proof.allowed() {
            Allowed::AtMost(bound) | Allowed::Between(_, bound) => bound,
        };
        Self { bound, error: 0.0, place: None, spoken: BTreeSet::new(), silent: BTreeSet::new() }
    }

    /// Takes |difference| against the size of what was compared. A difference without a size is
    /// infinitely wrong, and one with a size that is not finite is not a number.
    pub(super) fn take(&mut self, difference: f64, size: f64, scale: f64, place: impl Into<String>) {
        let place = place.into();
        let finite = difference.is_finite() && size.is_finite() && scale.is_finite();
        let nothing = difference.max(size) <= NO_SIGNAL * scale;
        let drowned = difference > self.bound * size && difference <= ROUNDING * scale;
        if finite && (nothing || drowned || difference.max(size) == 0.0) {
            self.silent.insert(place);
            return;
        }
        let error = if finite { difference / size } else { f64::NAN };
        if !self.error.is_nan() && (error.is_nan() || error > self.error || self.place.is_none()) {
            self.error = error;
            self.place = Some(place.clone());
        }
        self.spoken.insert(place);
    }

    /// The same, where only a part of the size is what the comparison is about: it says something
    /// if that part is a thousand times what the bound forgives, or if it fails.
    pub(super) fn take_part(
        &mut self,
        difference: f64,
        size: f64,
        part: f64,
        scale: f64,
        place: impl Into<String>,
    ) {
        if part <= 1e3 * self.bound * size && difference <= self.bound * size {
            self.silent.insert(place.into());
        } else {
            self.take(difference, size, scale, place);
        }
    }

    /// Whether everything so far is allowed.
    pub(super) fn is_allowed(&self) -> bool {
        self.error <= self.bound
    }

    pub(super) fn finish(self, nothing: &str) -> Measurement {
        let invalid = self.place.is_none().then(|| nothing.to_owned());
        let silent: Vec<_> = self.silent.difference(&self.spoken).map(String::as_str).collect();
        let silent = silent.join("; ");
        let detail = match self.place {
            None => Detail::None,
            Some(place) if silent.is_empty() => Detail::Where(place),
            Some(place) => Detail::Where(format!("{place} (nothing above rounding in: {silent})")),
        };
        Measurement { measured: self.error, detail, invalid }
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

    fn measured(comparisons: &[[f64; 3]]) -> Measurement {
        let mut worst = Worst::of(Proof::Adjoint);
        for ([difference, size, scale], place) in comparisons.iter().zip(["a", "b", "c"]) {
            worst.take(*difference, *size, *scale, place);
        }
        worst.finish("zero")
    }

    fn place(measurement: &Measurement) -> &str {
        let Detail::Where(place) = &measurement.detail else { panic!("no place: {measurement:?}") };
        place
    }

    #[test]
    fn a_comparison_of_nothing_with_nothing_is_invalid_and_a_nan_stays() {
        assert_eq!(measured(&[[0.0; 3]]).invalid.as_deref(), Some("zero"));
        let measurement = measured(&[[1.0, 4.0, 4.0], [f64::NAN, 4.0, 4.0], [2.0, 4.0, 4.0]]);
        assert!(measurement.measured.is_nan() && measurement.invalid.is_none());
        assert_eq!(place(&measurement), "b");
    }

    #[test]
    fn rounding_of_the_scale_is_no_evidence_and_more_than_rounding_is() {
        // Nothing beside the scale; rounding of the scale beside a small size.
        for silent in [[1e-17, 1e-17, 1.0], [1e-15, 1e-3, 1.0]] {
            assert!(measured(&[silent]).invalid.is_some());
            let beside = measured(&[[0.0, 1.0, 1.0], silent]);
            assert!(beside.invalid.is_none() && beside.measured == 0.0);
            assert_eq!(place(&beside), "a (nothing above rounding in: b)");
        }
        for loud in [[1e-12, 0.0, 1.0], [1e-12, 1e-12, 1.0], [1e-15, 1e-3, 0.0]] {
            let error = loud[0] / loud[1];
            assert_eq!(measured(&[loud]).measured, error);
        }
    }

    #[test]
    fn a_size_that_is_not_finite_is_never_allowed() {
        for wrong in [[1.0, f64::INFINITY, 1.0], [0.0, 1.0, f64::INFINITY], [f64::INFINITY, 1.0, 1.0]] {
            assert!(measured(&[wrong, [0.0, 1.0, 1.0]]).measured.is_nan());
        }
    }
}
