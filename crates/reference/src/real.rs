//! The two types that the CPU computes in.

use std::iter::Sum;
use std::ops::{AddAssign, Div, DivAssign, MulAssign};

use faer::traits::RealField;
use theria_contract::Element;

/// `f32` or `f64`: an accumulation type that faer multiplies matrices of.
pub trait Real:
    Element<Acc = Self> + RealField + PartialOrd + Sum + Div<Output = Self> + AddAssign + MulAssign + DivAssign
{
    /// e to the power of `self`.
    #[must_use]
    fn exp(self) -> Self;
    /// Natural logarithm.
    #[must_use]
    fn ln(self) -> Self;
}

impl Real for f32 {
    fn exp(self) -> Self {
        f32::exp(self)
    }
    fn ln(self) -> Self {
        f32::ln(self)
    }
}

impl Real for f64 {
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn ln(self) -> Self {
        f64::ln(self)
    }
}
