//! Parameters of generators that are outside their range.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::{Error, Result};

/// Checks the parameters of one generator.
#[derive(Clone, Copy)]
pub(super) struct Parameters(pub(super) &'static str);

impl Parameters {
    /// A count that may not be zero.
    pub(super) fn positive(self, parameter: &'static str, given: usize) -> Result<()> {
        self.refuse_unless(given > 0, parameter, given, &"at least 1")
    }

    /// A count within bounds.
    pub(super) fn within(
        self,
        parameter: &'static str,
        given: usize,
        allowed: &RangeInclusive<usize>,
    ) -> Result<()> {
        let (least, most) = (allowed.start(), allowed.end());
        self.refuse_unless(
            allowed.contains(&given),
            parameter,
            given,
            &format_args!("from {least} to {most}"),
        )
    }

    /// A scale of noise: zero means none.
    pub(super) fn noise(self, given: f64) -> Result<()> {
        self.refuse_unless(given.is_finite() && given >= 0.0, "noise", given, &"finite and not negative")
    }

    /// A length that may be neither zero nor endless.
    pub(super) fn length(self, parameter: &'static str, given: f64) -> Result<()> {
        self.refuse_unless(given.is_finite() && given > 0.0, parameter, given, &"finite and positive")
    }

    fn refuse_unless(
        self,
        holds: bool,
        parameter: &'static str,
        given: impl Display,
        allowed: &dyn Display,
    ) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(Error::TaskParameter {
            generator: self.0,
            parameter,
            given: given.to_string(),
            allowed: allowed.to_string(),
        })
    }
}
